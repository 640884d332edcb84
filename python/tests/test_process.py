"""What happens to the process: its start, its forks, its idle time and its end."""

import json

import pytest

STOPPED = """
import json, os, pathlib, signal, sys, threading
import numpy as np
import nixl_rs as nx

told = json.loads(sys.argv[1])
agent = nx.Agent("here", {"backends": ["tcp"], "agent": {"deadline_ms": 600000}})
region = agent.register(np.zeros(1 << 20, dtype=np.uint8))
agent.load_metadata(bytes.fromhex(told["metadata"]))
request = agent.request("read", region, [(told["address"], 1 << 20)], peer="peer")
request.post().wait(20)
os.kill(told["pid"], signal.SIGSTOP)
# It goes on until each of its threads has seen the signal.
for task in pathlib.Path("/proc", str(told["pid"]), "task").iterdir():
    while (task / "stat").read_text().rpartition(")")[2].split()[0] != "T":
        pass
request.post()
assert request.status in ("active", "stalled")
"""


def stopped(peer):
    """What a program needs to have a request in flight that does not end."""
    other = peer(1, 1 << 20, "plain", config={"backends": ["tcp"]})
    told = {
        "metadata": other.metadata.hex(),
        "address": other.address,
        "pid": other.process.pid,
    }
    return json.dumps(told)


ENDS = {
    "falls off the end": "",
    "exits": "sys.exit(0)",
    "has a thread that waits": "threading.Thread(target=request.wait, daemon=True).start()",
    "has threads that wait for notifications": """
for _ in range(4):
    threading.Thread(target=agent.wait_notification, daemon=True).start()
""",
    "has the agent in a cycle": "cycle = [agent, request]; cycle.append(cycle); del agent, request",
    "has dropped its names": "del region, request; del agent",
    "was asked in an exit handler": """
import atexit
atexit.register(lambda: request.cancel())
""",
    "awaits": """
import asyncio
async def main():
    waiting = asyncio.ensure_future(asyncio.wait_for(request, 100))
    await asyncio.sleep(0.01)
asyncio.run(main())
""",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_interpreter_exits_cleanly_with_a_request_in_flight(peer, run, end):
    run(STOPPED + ENDS[end], stopped(peer), limit=30)


def test_a_forked_child_is_told_and_the_parent_goes_on(run):
    run(
        """
import os, sys
import numpy as np
import nixl_rs as nx

agent, other = nx.Agent("parent"), nx.Agent("other")
region, theirs = agent.allocate(4096), other.allocate(4096)
theirs.write(b"before the fork")
agent.load_metadata(other.metadata())
local, remote = agent.prepare_local(region), agent.prepare_remote("other", theirs)
request = agent.request("read", local, remote)
request.post().wait(20)
fd = agent.fileno()

def refused(call):
    try:
        call()
    except nx.NotAllowedError as error:
        assert "fork" in str(error)
    else:
        os._exit(3)

child = os.fork()
if child == 0:
    try:
        for call in (agent.metadata, request.post, request.wait, region.read, region.release,
                     agent.close, lambda: agent.prepare_local(region),
                     lambda: agent.request("read", local, remote), lambda: request.status,
                     lambda: agent.wait_notification(1), agent.peers, agent.events):
            refused(call)
        for thing in (agent, request, region, local, remote):
            repr(thing)
        # Dropping what is the parent's ends nothing of the parent's.
        del agent, request, region, local, remote, theirs, other
        # A new agent works here.
        with nx.Agent("child") as mine:
            memory = mine.allocate(8192)
            memory.write(b"child")
            mine.request("read", [(memory.address + 4096, 5)], [(memory.address, 5)],
                         peer="child").post().wait(20)
            assert memory.read(4096, 5) == b"child"
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(4)
    sys.exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
theirs.write(b"after the fork ")
request.post(b"done").wait(20)
assert region.read(0, 15) == b"after the fork "
assert other.wait_notification(20).data == b"done"
agent.close()
other.close()
"""
    )


def test_multiprocessing_forks_while_requests_run(run):
    run(
        """
import multiprocessing, nixl_rs as nx

def work(n):
    return n * n

with nx.Agent("a") as agent:
    region = agent.allocate(1 << 20)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(work, range(10)) == [n * n for n in range(10)]
    agent.request("read", [(region.address, 8)], [(region.address + 8, 8)], peer="a").post().wait(9)
"""
    )


def test_an_idle_agent_takes_no_processor_time(run):
    run(
        """
import resource, threading, time, nixl_rs as nx

def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

with nx.Agent("a") as agent, nx.Agent("b") as other:
    region, theirs = agent.allocate(4096), other.allocate(4096)
    agent.load_metadata(other.metadata())
    agent.request("read", region, theirs, peer="b").post().wait(20)
    time.sleep(1)
    before = used()
    time.sleep(2)
    took = used() - before
    # A thread that polls would take all of it; 1 % leaves room for a busy machine.
    assert took < 0.02, took
"""
    )


def test_importing_brings_nothing_heavy(run):
    run(
        """
import sys
import nixl_rs
for name in ("numpy", "asyncio", "ctypes", "torch", "typing"):
    assert name not in sys.modules, name
assert nixl_rs.BACKENDS and nixl_rs.BUILD
"""
    )


def test_one_handle_is_used_by_many_threads(run):
    run(
        """
import threading
import numpy as np
import nixl_rs as nx

with nx.Agent("a") as agent:
    memory = np.arange(1 << 16, dtype=np.uint8)
    region = agent.register(memory)
    half = len(memory) // 2
    request = agent.request("read", [(region.address + half, half)], [(region.address, half)],
                            peer="a")
    posted = []

    def work():
        for _ in range(200):
            try:
                request.post()
                posted.append(1)
            except nx.RepostActiveError:
                pass
            request.wait(20)
            repr(request), request.receipt, request.status

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert posted and (memory[half:] == memory[:half]).all()
"""
    )
