"""Awaiting, and file descriptors."""

import asyncio
import gc
import os
import select
import threading

import numpy as np
import pytest

import nixl_rs as nx
from conftest import LIMIT, addresses, pattern

BLOCK = 64 << 10
TCP = {"backends": ["tcp"]}


@pytest.fixture
def far(peer):
    """An agent, a peer that it reaches over TCP only, and memory for its blocks."""
    other = peer(64, BLOCK, "plain", config=TCP)
    with nx.Agent("here", TCP) as agent:
        agent.load_metadata(other.metadata)
        yield agent, other, agent.allocate(64 * BLOCK)


def read(agent, other, memory, block):
    return agent.request(
        "read",
        addresses(memory.address, [block], BLOCK),
        addresses(other.address, [block], BLOCK),
        peer="peer",
    )


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_many_requests_are_awaited_at_once(far):
    agent, other, memory = far

    async def pull(block):
        request = read(agent, other, memory, block).post()
        await request
        return request.receipt.path

    async def everything():
        return await asyncio.gather(*map(pull, range(64)))

    for seed in range(3):
        assert set(asyncio.run(everything())) == {"tcp"}
        assert np.array_equal(np.asarray(memory).reshape(64, BLOCK), pattern(64, BLOCK))
        np.asarray(memory)[:] = seed


def test_a_request_is_awaited_by_many(far):
    agent, other, memory = far

    async def everything():
        request = read(agent, other, memory, 5)
        request.post()

        async def once():
            await request

        await asyncio.gather(*(once() for _ in range(5)))
        # What has ended is awaited at once.
        await request

    asyncio.run(everything())
    assert memory.read(5 * BLOCK, BLOCK) == pattern(64, BLOCK)[5].tobytes()


def test_awaiting_raises_what_the_request_failed_with(far):
    agent, other, memory = far

    async def everything():
        request = read(agent, other, memory, 0)
        with pytest.raises(nx.NotPostedError):
            await request
        await request.post()
        other.stop()
        request.post()
        waiting = asyncio.ensure_future(asyncio.wait_for(request, LIMIT))
        await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(nx.RequestCancelledError):
            await waiting
        assert request.status == "cancelled"

    asyncio.run(everything())


def test_giving_up_awaiting_leaves_the_request_alone(far):
    agent, other, memory = far

    async def everything():
        request = read(agent, other, memory, 0)
        await request.post()
        other.stop()
        request.post()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(request, 0.05)
        assert request.status in ("active", "stalled")
        other.go_on()
        await request

    asyncio.run(everything())
    assert memory.read(0, BLOCK) == pattern(64, BLOCK)[0].tobytes()


def test_notifications_are_awaited_in_order(far):
    agent, other, memory = far
    other.ask(load=agent.metadata().hex())

    async def everything():
        got = []
        for number in range(10):
            waiting = asyncio.ensure_future(agent.next_notification())
            await asyncio.sleep(0)
            await asyncio.get_running_loop().run_in_executor(
                None, lambda n=number: other.ask(notify=["here", f"number {n}"])
            )
            got.append((await waiting).data)
        return got

    assert asyncio.run(everything()) == [b"number %d" % n for n in range(10)]


def test_closing_wakes_who_awaits(far):
    agent, other, memory = far

    async def everything():
        request = read(agent, other, memory, 0)
        await request.post()
        other.stop()
        request.post()
        ended = asyncio.ensure_future(asyncio.wait_for(request, LIMIT))
        told = asyncio.ensure_future(asyncio.wait_for(agent.next_notification(), LIMIT))
        await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, agent.close, 0.5)
        with pytest.raises(nx.NixlError):
            await ended
        with pytest.raises(nx.ApiMisuseError, match="closed"):
            await told

    asyncio.run(everything())


def test_event_loops_of_several_threads_do_not_steal_events(far):
    agent, other, memory = far
    failures = []

    def work(first):
        async def everything():
            for block in range(first, 64, 4):
                await read(agent, other, memory, block).post()

        try:
            asyncio.run(asyncio.wait_for(everything(), LIMIT))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert np.array_equal(np.asarray(memory).reshape(64, BLOCK), pattern(64, BLOCK))


def test_awaiting_leaves_no_descriptor_open(far):
    agent, other, memory = far

    async def once():
        await read(agent, other, memory, 1).post()

    asyncio.run(once())
    gc.collect()
    before = descriptors()
    for _ in range(20):
        asyncio.run(once())
    gc.collect()
    assert descriptors() == before


def test_the_file_descriptor_is_readable_until_drained(far):
    agent, other, memory = far
    request = read(agent, other, memory, 2)
    watch = select.poll()
    watch.register(agent.fileno(), select.POLLIN)
    seen = 0
    request.post()
    while not request.ended:
        assert watch.poll(LIMIT * 1000), "woken at the end"
        seen += agent.drain()
    request.result()
    while watch.poll(0):
        assert agent.drain()
    assert not agent.drain() and agent.fileno() == agent.fileno()


def test_waiting_releases_the_gil_and_takes_signals(run):
    run(
        """
import os, signal, sys, threading, nixl_rs as nx

class Rang(Exception):
    pass

def ring(*_):
    raise Rang

signal.signal(signal.SIGUSR1, ring)
with nx.Agent("a") as agent:
    got = []
    waiter = threading.Thread(target=lambda: got.append(agent.wait_notification(30)))
    waiter.start()
    # Were the GIL held, this line would not be reached.
    agent.notify("a", b"wake up")
    waiter.join()
    assert got[0].data == b"wake up"
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        agent.wait_notification()
        sys.exit("not interrupted")
    except Rang:
        pass
"""
    )
