"""What calls of NIXL's Python API cost, on real NIXL or on ours: the same script for both.

    target/ucx/nixl/venv/bin/python benches/peers/python_calls.py
    PYTHONPATH=$(python -m nixl_rs.compat) python benches/peers/python_calls.py

Prints one JSON object: microseconds of each call, the median of several rounds.
"""

import json
import os
import statistics
import subprocess
import sys
import time

ROUNDS = 9


def import_ms():
    """Milliseconds of `import nixl_rs`, or of NIXL's wheel, above those of an empty interpreter."""
    module = "nixl_rs" if "nixl_rs" in sys.modules else "nixl_cu12._api"
    program = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", program + "; import os, sys; sys.stdout.flush(); os._exit(0)"]
    took = [float(subprocess.check_output(command).split()[-1]) for _ in range(ROUNDS)]
    return round(statistics.median(took) * 1e3, 1)


def microseconds(function, times):
    """The median over rounds of what one call takes."""
    rounds = []
    for _ in range(ROUNDS):
        begun = time.perf_counter_ns()
        for _ in range(times):
            function()
        rounds.append((time.perf_counter_ns() - begun) / times / 1e3)
    return round(statistics.median(rounds), 2)


def main():
    os.environ.setdefault("NIXL_LOG_LEVEL", "ERROR")
    import numpy as np

    try:
        from nixl._api import nixl_agent, nixl_agent_config
    except ImportError:
        from nixl_cu12._api import nixl_agent, nixl_agent_config

    here = nixl_agent("here", nixl_agent_config(backends=["UCX"]))
    there = nixl_agent("there", nixl_agent_config(backends=["UCX"]))
    size, count = 64, 65536
    mine, theirs = np.zeros(size * count, np.uint8), np.ones(size * count, np.uint8)
    for agent, memory in ((here, mine), (there, theirs)):
        agent.register_memory([(memory.ctypes.data, memory.nbytes, 0, "")], "DRAM")
    name = here.add_remote_agent(there.get_agent_metadata())

    def rows(memory, n):
        made = np.zeros((n, 3), dtype=np.uint64)
        # Every other block, in no order: nothing merges.
        order = np.random.default_rng(1).permutation(count // 2)[:n].astype(np.uint64)
        made[:, 0] = memory.ctypes.data + order * np.uint64(2 * size)
        made[:, 1] = size
        return made

    left, right = rows(mine, 32768), rows(theirs, 32768)
    tuples = [tuple(int(v) for v in row) for row in left]
    descs = here.get_xfer_descs(left, "DRAM")
    local = here.prep_xfer_dlist("", descs)
    remote = here.prep_xfer_dlist(name, here.get_xfer_descs(right, "DRAM"))
    indices = np.arange(16000, dtype=np.int64)
    one = np.zeros(1, dtype=np.int32)

    def transfer():
        handle = here.make_prepped_xfer("READ", local, one, remote, one)
        state = here.transfer(handle)
        while state == "PROC":
            state = here.check_xfer_state(handle)
        here.release_xfer_handle(handle)

    again = here.make_prepped_xfer("READ", local, one, remote, one)

    def post_and_check():
        state = here.transfer(again)
        while state == "PROC":
            state = here.check_xfer_state(again)

    transfer()
    assert mine.any()

    def prepare():
        here.release_dlist_handle(here.prep_xfer_dlist("", descs))

    def make():
        here.release_xfer_handle(
            here.make_prepped_xfer("READ", local, indices, remote, indices)
        )

    found = {
        "of": "ours" if "nixl_rs" in sys.modules else "nixl",
        "make, transfer, check, release: 1 descriptor": microseconds(transfer, 2000),
        "transfer, check: 1 descriptor": microseconds(post_and_check, 2000),
        "get_xfer_descs: 32,768 rows of numpy": microseconds(
            lambda: here.get_xfer_descs(left, "DRAM"), 20
        ),
        "get_xfer_descs: 32,768 tuples": microseconds(
            lambda: here.get_xfer_descs(tuples, "DRAM"), 5
        ),
        "prep_xfer_dlist: 32,768 rows": microseconds(prepare, 20),
        "make_prepped_xfer: 16,000 indices": microseconds(make, 20),
        "get_new_notifs: empty": microseconds(here.get_new_notifs, 5000),
        "check_xfer_state": microseconds(lambda: here.check_xfer_state(again), 5000),
        "import, ms": import_ms(),
    }
    print(json.dumps(found), flush=True)
    # Real NIXL's plugin crashes in the handlers of a normal exit on some systems.
    os._exit(0)


main()
