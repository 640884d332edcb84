"""What an engine does with NIXL's Python API, written against that API alone.

    python engine.py              runs every check and prints one line of JSON for each
    python engine.py --lists      prints serialized descriptor lists, as hexadecimal
    python engine.py --read HEX   prints what is in a serialized list

test_compat.py runs it on real NIXL and on ours, and compares.
"""

import gc
import json
import os
import pickle
import signal
import sys
import threading
import time

import numpy as np

# First, as it finds NIXL under whichever name.
from engine_world import BLOCK, BLOCKS, LIMIT, World, finish, name_of, one_notif, pattern, rows, until
from nixl._api import (
    nixl_agent,
    nixl_agent_config,
    nixl_prepped_dlist_handle,
    nixl_xfer_handle,
    nixlBind,
)
from nixl._bindings import nixlXferTelemetry

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


@check
def names_of_agents_come_back_as_bytes(w):
    assert w.name == b"peer"
    assert w.agent.check_remote_metadata("peer") and w.agent.check_remote_metadata(b"peer")
    assert not w.agent.check_remote_metadata("nobody")
    return w.agent.name


@check
def pull_with_indices_of_every_type(w):
    for seed, kind in enumerate((np.int32, np.int64, np.uint32, list), 2):
        w.remote.ask(fill=seed)
        order = np.random.default_rng(seed).permutation(BLOCKS)
        slots = np.arange(BLOCKS)
        as_kind = (lambda a: a.tolist()) if kind is list else (lambda a: a.astype(kind))
        handle = w.agent.make_prepped_xfer(
            "READ", w.local_side, as_kind(slots), w.remote_side, as_kind(order)
        )
        finish(w.agent, handle)
        assert np.array_equal(w.memory, pattern(seed)[order]), kind
        w.agent.release_xfer_handle(handle)


@check
def push_with_a_notification_after_the_data(w):
    w.memory[:] = pattern(7)
    indices = np.arange(BLOCKS)
    handle = w.agent.make_prepped_xfer(
        "WRITE", w.local_side, indices, w.remote_side, indices, notif_msg=b"req-1:done"
    )
    assert isinstance(handle, nixl_xfer_handle)
    finish(w.agent, handle)
    told = w.remote.ask(**{"await": 1, "seed": 7})
    w.agent.release_xfer_handle(handle)
    return told


@check
def one_shot_transfers(w):
    w.remote.ask(fill=3)
    local = w.agent.get_xfer_descs(rows(w.memory), "DRAM")
    theirs = [tuple(int(v) for v in row) for row in w.remote.rows()]
    remote = w.agent.get_xfer_descs(theirs, "DRAM")
    handle = w.agent.initialize_xfer("READ", local, remote, w.name)
    finish(w.agent, handle)
    assert np.array_equal(w.memory, pattern(3))
    # The same handle again, as engines do.
    w.remote.ask(fill=4)
    finish(w.agent, handle)
    assert np.array_equal(w.memory, pattern(4))


@check
def strided_lists(w):
    w.remote.ask(fill=5)
    strided = np.array(
        [[w.remote.address, BLOCK, 0, 2 * BLOCK, BLOCKS // 2]], dtype=np.uint64
    )
    theirs = w.agent.prep_xfer_dlist("peer", strided, "DRAM")
    count = np.arange(BLOCKS // 2)
    handle = w.agent.make_prepped_xfer("READ", w.local_side, count, theirs, count[::-1].copy())
    finish(w.agent, handle)
    assert np.array_equal(w.memory[: BLOCKS // 2], pattern(5)[::2][::-1])


@check
def notifications_alone(w):
    w.agent.send_notif(w.name, notif_msg=b"heartbeat")
    told = w.remote.ask(**{"await": 1, "notify": "here"})
    got = one_notif(w.agent)
    w.remote.ask(notify="here")
    until(lambda: w.agent.check_remote_xfer_done("peer", b"from the"))
    return [told, {k: [m.decode() for m in v] for k, v in got.items()}, w.agent.notifs]


@check
def the_notification_of_a_post_replaces_that_of_the_request(w):
    handle = w.agent.make_prepped_xfer(
        "READ", w.local_side, [0], w.remote_side, [0], notif_msg=b"first"
    )
    finish(w.agent, handle)
    first = w.remote.ask(**{"await": 1})
    finish(w.agent, handle, w.agent.transfer(handle, b"second"))
    return [first, w.remote.ask(**{"await": 1})]


@check
def telemetry_counts_what_moved(w):
    order = np.arange(0, BLOCKS, 2)
    handle = w.agent.make_prepped_xfer("READ", w.local_side, order, w.remote_side, order)
    unposted = name_of(w.agent.get_xfer_telemetry, handle)
    begun = time.monotonic_ns() // 1000
    finish(w.agent, handle)
    ended = time.monotonic_ns() // 1000
    told = w.agent.get_xfer_telemetry(handle)
    assert isinstance(told, nixlXferTelemetry)
    # Microseconds of the monotonic clock.
    assert begun <= told.startTime <= ended
    assert 1 <= told.postDuration <= told.xferDuration <= ended - begun + 1
    assert all(type(getattr(told, name)) is int for name in ("startTime", "xferDuration"))
    merged = w.agent.make_prepped_xfer(
        "READ", w.local_side, np.arange(BLOCKS), w.remote_side, np.arange(BLOCKS)
    )
    finish(w.agent, merged)
    all_in_one = w.agent.get_xfer_telemetry(merged)
    counts = [told.totalBytes, told.descCount, all_in_one.totalBytes, all_in_one.descCount]
    return [unposted, *counts]


@check
def misuse_of_transfers(w):
    a, make = w.agent, w.agent.make_prepped_xfer
    left, right = w.local_side, w.remote_side
    local = a.get_xfer_descs(rows(w.memory, [0]), "DRAM")
    remote = a.get_xfer_descs(w.remote.rows([0]), "DRAM")
    handle = make("READ", left, [0], right, [0])
    short = np.array([[w.remote.address, 8, 0]], dtype=np.uint64)
    return [
        name_of(a.check_xfer_state, handle),
        name_of(make, "READ", left, [BLOCKS], right, [0]),
        name_of(make, "READ", left, [0], right, [BLOCKS]),
        name_of(make, "READ", left, [-1], right, [0]),
        name_of(make, "READ", left, [], right, []),
        name_of(make, "READ", left, [0, 1], right, [0]),
        name_of(make, "READ", right, [0], left, [0]),
        name_of(make, "READ", left, None, right, None),
        name_of(make, "READ", left, {0: 1}, right, [0]),
        name_of(make, "READ", left, b"\0", right, [0]),
        name_of(make, "READ", left, [0.5], right, [0]),
        name_of(make, "READ", left, ["0"], right, [0]),
        name_of(make, "COPY", 1, [], 2, []),
        name_of(make, "READ", left, np.zeros((1, 1), dtype=np.int64), right, [0]),
        name_of(a.initialize_xfer, "READ", local, remote, "nobody"),
        name_of(a.initialize_xfer, "READ", local, a.get_xfer_descs(short, "DRAM"), "peer"),
        name_of(a.initialize_xfer, "READ", None, remote, "peer"),
        name_of(a.prep_xfer_dlist, "nobody", remote),
        name_of(a.prep_xfer_dlist, "peer", [(16, 16, 0)], "DRAM"),
        name_of(a.prep_xfer_dlist, "", [(16, 16, 0)], "DRAM"),
        name_of(a.prep_xfer_dlist, "", [(16, 16, 0)]),
        name_of(a.send_notif, "nobody", b""),
        name_of(a.send_notif, b"\xff", b""),
        name_of(a.send_notif, "\udcff", b""),
        name_of(a.make_connection, "nobody"),
        name_of(a.make_connection, 5),
        name_of(a.check_remote_metadata, None),
        name_of(a.get_xfer_descs, [(16, 16, 0, "")], "DRAM"),
        name_of(a.get_reg_descs, [(16, 16, 0)], "DRAM"),
        name_of(a.get_xfer_descs, [(16, 16, 0)], "dram"),
        name_of(a.get_xfer_descs, np.zeros((2, 3)), "DRAM"),
        name_of(a.get_xfer_descs, np.zeros((2, 3), dtype=">u8"), "DRAM"),
        name_of(a.get_xfer_descs, np.zeros((2, 3), dtype=np.uint32), "DRAM"),
        name_of(a.get_xfer_descs, np.zeros((2, 6), dtype=np.uint64)[:, ::2], "DRAM"),
        name_of(a.get_xfer_descs, 5, "DRAM"),
    ]


@check
def misuse_of_memory(w):
    a = w.agent
    memory = np.zeros(4096, dtype=np.uint8)
    block = [(memory.ctypes.data, 4096, 0, "")]
    first, second = a.register_memory(block, "DRAM"), a.register_memory(block, "DRAM")
    return [
        name_of(a.deregister_memory, first),
        name_of(a.deregister_memory, second) in (None, ["nixlNotFoundError", "NIXL_ERR_NOT_FOUND"]),
        name_of(a.deregister_memory, a.get_reg_descs([(4096, 4096, 0, "")], "DRAM")),
        name_of(a.register_memory, block, "VRAM"),
        name_of(a.register_memory, block, "OBJ"),
        name_of(a.register_memory, block, "DRAM", ["GDS"]),
        name_of(a.create_backend, "NOPE"),
        name_of(a.create_backend, "UCX"),
        name_of(a.query_memory, block, "UCX", "DRAM"),
        name_of(a.query_memory, block, "POSIX", "DRAM"),
        [a.get_plugin_mem_types("NO"), a.get_plugin_params("NO"), a.get_backend_params("NO")],
        a.get_plugin_mem_types("UCX"),
        "UCX" in a.get_plugin_list() and list(a.backends) == ["UCX"],
    ]


@check
def misuse_of_metadata(w):
    a = w.agent
    return [
        name_of(a.add_remote_agent, b"junk"),
        name_of(a.add_remote_agent, b""),
        name_of(a.add_remote_agent, a.get_agent_metadata()),
        name_of(a.add_remote_agent, w.remote.metadata[: len(w.remote.metadata) // 2])[0],
        name_of(a.remove_remote_agent, "nobody"),
        name_of(a.remove_remote_agent, "here"),
        name_of(a.get_partial_agent_metadata, a.get_reg_descs([(16, 16, 0, "")], "DRAM"), True),
        type(a.get_partial_agent_metadata(w.descs, True)).__name__,
        name_of(nixl_agent, ""),
        name_of(nixl_agent_config, sync_mode=5),
        vars(nixl_agent_config()),
        name_of(a.fetch_remote_metadata, "peer"),
        name_of(a.send_local_metadata),
    ]


@check
def lists_behave_as_lists(w):
    b = nixlBind
    made = b.nixlXferDList(b.DRAM_SEG, [(4096, 64, 0), (8192, 32, 1)])
    registered = b.nixlRegDList(b.DRAM_SEG, [(4096, 64, 0, b"meta")])
    found = [made.descCount(), made.isEmpty(), made[1], made.index((8192, 32, 1))]
    found += [registered[0][3].decode(), registered.trim() == made, made.getType() == b.DRAM_SEG]
    found += [name_of(made.index, (1, 2, 3)), name_of(made.remDesc, 9), name_of(made.addDesc, (1,))]
    made.addDesc((1, 2, 3))
    made.remDesc(0)
    made[0] = (7, 8, 9)
    found += [made[0], made[1], made.descCount(), bool(made), bool(registered)]
    found.append(pickle.loads(pickle.dumps(made)) == made)
    made.clear()
    found += [made.isEmpty(), b.nixlXferDList(b.VRAM_SEG, 3).descCount()]
    found += [b.nixlRegDList(b.DRAM_SEG, rows(w.memory)).descCount()]
    found += [name_of(b.nixlXferDList, b.DRAM_SEG, [(1, 2)]), name_of(b.nixlXferDList, 5)]
    found += [str(b.DRAM_SEG), repr(b.VRAM_SEG), int(b.FILE_SEG), b.DRAM_SEG == 0]
    again = w.agent.deserialize_descs(w.agent.get_serialized_descs(w.descs))
    return [*found, again == w.descs, again[0][1]]


@check
def handles_are_freed_by_collection(w):
    for number in range(200):
        side = w.agent.prep_xfer_dlist("", rows(w.memory, [number % BLOCKS]), "DRAM")
        assert isinstance(side, nixl_prepped_dlist_handle)
        handle = w.agent.make_prepped_xfer("READ", side, [0], w.remote_side, [number % BLOCKS])
        finish(w.agent, handle)
        del side, handle
    gc.collect()
    handle = w.agent.make_prepped_xfer("READ", w.local_side, [0], w.remote_side, [0])
    handle.release()
    w.agent.release_xfer_handle(handle)
    return "released=True" in repr(handle)


@check
def many_threads_use_one_agent(w):
    w.remote.ask(fill=6)
    w.memory[:] = 0
    failures = []

    def work(first):
        try:
            for block in range(first, BLOCKS, 8):
                handle = w.agent.make_prepped_xfer(
                    "READ", w.local_side, [block], w.remote_side, [BLOCKS - 1 - block]
                )
                finish(w.agent, handle)
                w.agent.release_xfer_handle(handle)
        except BaseException as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(w.memory, pattern(6)[::-1])
    return failures


@check
def loopback(w):
    w.memory[0], w.memory[1] = pattern(8)[0], 0
    local = w.agent.get_xfer_descs(rows(w.memory, [1]), "DRAM")
    remote = w.agent.get_xfer_descs(rows(w.memory, [0]), "DRAM")
    handle = w.agent.initialize_xfer("READ", local, remote, "here", b"to myself")
    finish(w.agent, handle)
    assert np.array_equal(w.memory[1], pattern(8)[0])
    return {k: [m.decode() for m in v] for k, v in one_notif(w.agent).items()}


@check
def metadata_may_grow_and_be_loaded_again(w):
    other = nixl_agent("other", nixl_agent_config(backends=["UCX"]))
    first, second = (np.full(4096, value, dtype=np.uint8) for value in (1, 2))
    other.register_memory([(first.ctypes.data, 4096, 0, "")], "DRAM")
    name = w.agent.add_remote_agent(other.get_agent_metadata())
    old = w.agent.prep_xfer_dlist(name, [(first.ctypes.data, 4096, 0)], "DRAM")
    late = [(second.ctypes.data, 4096, 0)]
    unknown = name_of(w.agent.prep_xfer_dlist, name, late, "DRAM")
    other.register_memory([(second.ctypes.data, 4096, 0, "")], "DRAM")
    again = w.agent.add_remote_agent(other.get_agent_metadata())
    mine = w.agent.prep_xfer_dlist("", [(w.memory.ctypes.data, 4096, 0)], "DRAM")
    seen = []
    for side in (old, w.agent.prep_xfer_dlist(name, late, "DRAM")):
        handle = w.agent.make_prepped_xfer("READ", mine, [0], side, [0])
        # The other agent of this process has to be polled where it has no thread.
        state = w.agent.transfer(handle)
        while state == "PROC":
            other.get_new_notifs()
            state = w.agent.check_xfer_state(handle)
        seen.append(int(w.memory[0, 4095]))
    w.agent.remove_remote_agent(name)
    stale = name_of(w.agent.make_prepped_xfer, "READ", mine, [0], old, [0])
    return [unknown, again == name, seen, stale, w.agent.check_remote_metadata(name)]


@check
def a_killed_peer_is_noticed(w):
    handle = w.agent.make_prepped_xfer("READ", w.local_side, [0], w.remote_side, [0])
    finish(w.agent, handle)
    w.remote.process.send_signal(signal.SIGKILL)
    w.remote.process.wait()

    def fails(call):
        # Until the end of the connection is seen, calls may still go through.
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            found = name_of(call)
            if isinstance(found, list):
                return found
        return "nothing"

    posted = fails(lambda: finish(w.agent, handle))
    notified = fails(lambda: w.agent.send_notif(w.name, b"anybody there?"))
    w.agent.release_xfer_handle(handle)
    w.agent.remove_remote_agent(w.name)
    return [posted, notified, w.agent.check_remote_metadata(w.name)]


def lists():
    b = nixlBind
    agent = nixl_agent("lists", nixl_agent_config(backends=[]))
    made = [
        b.nixlXferDList(b.DRAM_SEG, [(4096, 64, 0), (1 << 63, 32, 1)]),
        b.nixlXferDList(b.VRAM_SEG),
        b.nixlRegDList(b.VRAM_SEG, [(4096, 64, 0, b"meta"), (8192, 32, 1, b"")]),
    ]
    print(json.dumps([agent.get_serialized_descs(one).hex() for one in made]))


def read(text):
    agent = nixl_agent("lists", nixl_agent_config(backends=[]))
    made = agent.deserialize_descs(bytes.fromhex(text))
    shown = [[v.decode() if isinstance(v, bytes) else v for v in made[i]]
             for i in range(made.descCount())]
    print(json.dumps([type(made).__name__, int(made.getType()), shown]))


def main():
    world = World()
    for function in CHECKS:
        try:
            outcome = {"found": function(world)}
        except BaseException as error:
            outcome = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps({"check": function.__name__, **outcome}), flush=True)
    sys.stdout.flush()
    # Real NIXL's plugin crashes in the handlers of a normal exit on some systems.
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1:] == ["--lists"]:
        lists()
    elif sys.argv[1:2] == ["--read"]:
        read(sys.argv[2])
    else:
        main()
