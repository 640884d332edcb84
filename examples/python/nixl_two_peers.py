"""Two workers written for NIXL's own API: on this library, or on NIXL where PYTHONPATH is not set.

    PYTHONPATH=$(python -m nixl_rs.compat) python examples/python/nixl_two_peers.py
"""

import importlib
import multiprocessing
import os
import socket
import sys
import time

import numpy as np

try:
    from nixl._api import nixl_agent, nixl_agent_config
except ImportError:
    # NIXL's wheel without the package that chooses among wheels.
    nixl_api = importlib.import_module("nixl_cu12._api")
    nixl_agent, nixl_agent_config = nixl_api.nixl_agent, nixl_api.nixl_agent_config

BLOCKS, BLOCK = 64, 4096


def until(check):
    """NIXL's way of waiting."""
    end = time.monotonic() + 30
    while not (found := check()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.0005)
    return found


def rows(memory, blocks):
    made = np.zeros((len(blocks), 3), dtype=np.uint64)
    made[:, 0] = memory.ctypes.data + np.asarray(blocks, dtype=np.uint64) * np.uint64(BLOCK)
    made[:, 1] = BLOCK
    return made


def prefill(port):
    config = nixl_agent_config(enable_listen_thread=True, listen_port=port, backends=["UCX"])
    agent = nixl_agent("prefill", config)
    # Block i is full of i.
    cache = np.repeat(np.arange(BLOCKS, dtype=np.uint8), BLOCK).reshape(BLOCKS, BLOCK)
    memory = agent.register_memory([(cache.ctypes.data, cache.nbytes, 0, "")], "DRAM")
    blocks = agent.get_xfer_descs(rows(cache, range(BLOCKS)), "DRAM")
    # Decode loads this agent, and makes itself known.
    until(lambda: agent.check_remote_metadata("decode"))
    agent.send_notif("decode", b"blocks" + agent.get_serialized_descs(blocks))
    for message in (b"read once", b"read twice", b"written"):
        until(lambda: agent.check_remote_xfer_done("decode", message, tag_is_prefix=False))
        print(f"prefill hears {message.decode()}")
    assert (cache[:3] == 200).all() and (cache[3:] < BLOCKS).all()
    agent.deregister_memory(memory)
    leave(0)


def moved(agent, handle, message=b""):
    state = agent.transfer(handle, message) if message else agent.transfer(handle)
    until(lambda: state == "DONE" or agent.check_xfer_state(handle) == "DONE")


def decode(port):
    # NIXL makes metadata calls in the thread that listens, so decode has one too, on any port.
    config = nixl_agent_config(
        enable_listen_thread=True, listen_port=0, capture_telemetry=True, backends=["UCX"]
    )
    agent = nixl_agent("decode", config)
    slots = np.zeros((3, BLOCK), dtype=np.uint8)
    memory = agent.register_memory([(slots.ctypes.data, slots.nbytes, 0, "")], "DRAM")
    agent.fetch_remote_metadata("prefill", "127.0.0.1", port)
    until(lambda: agent.check_remote_metadata("prefill"))
    agent.send_local_metadata("127.0.0.1", port)
    (told,) = until(lambda: agent.get_new_notifs().get("prefill"))
    theirs = agent.deserialize_descs(told[len(b"blocks") :])

    # Both sides are prepared once; then indices choose blocks.
    here = agent.prep_xfer_dlist("", rows(slots, range(3)), "DRAM")
    there = agent.prep_xfer_dlist("prefill", theirs)
    pull = agent.make_prepped_xfer("READ", here, [0, 1, 2], there, [7, 3, 5], b"read once")
    moved(agent, pull)
    assert (slots == np.array([[7], [3], [5]])).all()
    slots[:] = 0
    # The same handle again, with another notification.
    moved(agent, pull, b"read twice")
    assert (slots == np.array([[7], [3], [5]])).all()
    counted = agent.get_xfer_telemetry(pull)
    assert (counted.totalBytes, counted.descCount) == (3 * BLOCK, 3)
    print(f"decode has {counted.totalBytes} bytes in {counted.descCount} blocks")

    slots[:] = 200
    push = agent.make_prepped_xfer("WRITE", here, [0, 1, 2], there, [2, 1, 0], b"written")
    moved(agent, push)
    for handle in (pull, push):
        agent.release_xfer_handle(handle)
    for side in (here, there):
        agent.release_dlist_handle(side)
    agent.remove_remote_agent("prefill")
    agent.deregister_memory(memory)


def leave(code):
    sys.stdout.flush()
    # NIXL's plugin crashes in the handlers of a normal exit on some systems.
    os._exit(code)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main():
    port = free_port()
    other = multiprocessing.get_context("spawn").Process(target=prefill, args=(port,))
    other.start()
    # NIXL tries an address once: not before somebody listens.
    until(lambda: listens(port))
    decode(port)
    other.join()
    leave(other.exitcode)


if __name__ == "__main__":
    main()
