"""What calls of NIXL's Python API cost, on real NIXL and on ours: the same script in both.

    target/python/venv/bin/python benches/peers/python_calls.py target/ucx/nixl/venv/bin/python

The interpreter that runs it has nixl_rs (a release build), the one that it is told real NIXL. Each
runs in a process with two agents, and while one is measured the other is stopped; every row goes by
turns, round by round. Prints a table with the medians, in microseconds.
"""

import os
import signal
import statistics
import subprocess
import sys
import time

ROUNDS = 15
# Each is measured for about this long a round, in seconds.
SLICE = 0.03
SIZE, COUNT, ROWS, CHOSEN = 64, 65536, 32768, 16000


class Calls:
    """The rows, and what they need."""

    def __init__(self):
        import numpy as np

        try:
            from nixl._api import nixl_agent, nixl_agent_config
        except ImportError:
            from nixl_cu12._api import nixl_agent, nixl_agent_config
        self.np = np
        config = nixl_agent_config(backends=["UCX"])
        self.here, self.there = nixl_agent("here", config), nixl_agent("there", config)
        self.mine, self.theirs = np.zeros(SIZE * COUNT, np.uint8), np.ones(SIZE * COUNT, np.uint8)
        for agent, memory in ((self.here, self.mine), (self.there, self.theirs)):
            agent.register_memory([(memory.ctypes.data, memory.nbytes, 0, "")], "DRAM")
        self.name = self.here.add_remote_agent(self.there.get_agent_metadata())
        self.left, self.right = self.rows(self.mine), self.rows(self.theirs)
        self.tuples = [tuple(int(v) for v in row) for row in self.left]
        self.descs = self.here.get_xfer_descs(self.left, "DRAM")
        self.local = self.here.prep_xfer_dlist("", self.descs)
        self.remote = self.here.prep_xfer_dlist(
            self.name, self.here.get_xfer_descs(self.right, "DRAM")
        )
        self.one = np.zeros(1, dtype=np.int32)
        self.again = self.made(self.one)
        self.finish(self.again)
        assert self.mine.any()

    def rows(self, memory):
        made = self.np.zeros((ROWS, 3), dtype=self.np.uint64)
        # Every other block, in no order: nothing merges.
        order = self.np.random.default_rng(1).permutation(COUNT // 2).astype(self.np.uint64)
        made[:, 0] = memory.ctypes.data + order * self.np.uint64(2 * SIZE)
        made[:, 1] = SIZE
        return made

    def made(self, indices):
        return self.here.make_prepped_xfer("READ", self.local, indices, self.remote, indices)

    def finish(self, handle):
        state = self.here.transfer(handle)
        while state == "PROC":
            state = self.here.check_xfer_state(handle)

    def whole(self):
        handle = self.made(self.one)
        self.finish(handle)
        self.here.release_xfer_handle(handle)

    def making(self, indices):
        return lambda: self.here.release_xfer_handle(self.made(indices))

    def prepare(self, descs):
        self.here.release_dlist_handle(self.here.prep_xfer_dlist("", descs, "DRAM"))

    def releasing(self):
        """One release, of what was made before the clock began."""
        handles = [self.made(self.one) for _ in range(2000)]

        def release():
            self.here.release_xfer_handle(handles.pop())

        return release, 2000

    def table(self):
        """What each row does."""
        int32 = self.np.arange(CHOSEN, dtype=self.np.int32)
        int64 = int32.astype(self.np.int64)
        get = self.here.get_xfer_descs
        return {
            "`make_prepped_xfer`, `transfer`, `check_xfer_state`, release: 1 descriptor": self.whole,
            "`transfer`, `check_xfer_state`: 1 descriptor": lambda: self.finish(self.again),
            "`make_prepped_xfer`, release: 1 descriptor": self.making(self.one),
            "`release_xfer_handle`": self.releasing,
            "`check_xfer_state`": lambda: self.here.check_xfer_state(self.again),
            "`get_new_notifs`, empty": self.here.get_new_notifs,
            "`get_xfer_descs`: 32,768 rows of numpy": lambda: get(self.left, "DRAM"),
            "`get_xfer_descs`: 32,768 tuples": lambda: get(self.tuples, "DRAM"),
            "`prep_xfer_dlist`: 32,768 rows, a list": lambda: self.prepare(self.descs),
            "`prep_xfer_dlist`: 32,768 rows of numpy": lambda: self.prepare(self.left),
            "`prep_xfer_dlist`: 32,768 tuples": lambda: self.prepare(self.tuples),
            "`make_prepped_xfer`: 16,000 indices of int32": self.making(int32),
            "`make_prepped_xfer`: 16,000 indices of int64": self.making(int64),
            "`make_prepped_xfer`: 16,000 indices in a list": self.making(int32.tolist()),
        }


def took(function, times):
    begun = time.perf_counter_ns()
    for _ in range(times):
        function()
    return (time.perf_counter_ns() - begun) / times / 1e3


def work():
    """Measures the row that each line names."""
    calls = Calls()
    table = calls.table()
    print("=", "|".join(table), flush=True)
    for line in sys.stdin:
        function = table[line.strip()]
        if function == calls.releasing:
            function, times = calls.releasing()
        else:
            times = max(1, min(5000, int(SLICE * 1e6 / max(took(function, 1), 1))))
        print("=", took(function, times), flush=True)
    # Real NIXL's plugin crashes in the handlers of a normal exit on some systems.
    os._exit(0)


class Side:
    """One of the two."""

    def __init__(self, python, module, **variables):
        self.python, self.module = python, module
        self.variables = {**os.environ, "NIXL_LOG_LEVEL": "ERROR", **variables}
        self.process = subprocess.Popen(
            [python, os.path.abspath(__file__), "--worker"],
            env=self.variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.names = self.answer().split("|")
        self.process.send_signal(signal.SIGSTOP)

    def answer(self):
        for line in self.process.stdout:
            if line.startswith("="):
                return line[1:].strip()
        raise SystemExit(f"{self.python}: the worker ended")

    def row(self, name):
        # Only one runs: NIXL's progress threads never rest.
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        took = float(self.answer())
        self.process.send_signal(signal.SIGSTOP)
        return took

    def imports(self, _):
        """Microseconds of the import in a new interpreter."""
        program = f"import time; t = time.perf_counter(); import {self.module}; t = time.perf_counter() - t"
        end = "; import os; os.write(1, str(t).encode()); os._exit(0)"
        out = subprocess.check_output([self.python, "-c", program + end], env=self.variables)
        return float(out) * 1e6


def main(real):
    from nixl_rs import compat

    found = [path for path in sys.path if path and os.path.isdir(path)]
    ours = Side(sys.executable, "nixl_rs", PYTHONPATH=os.pathsep.join([compat.DIRECTORY, *found]))
    nixl = Side(real, "nixl_cu12._api", PYTHONPATH="")
    print("| call | NIXL | ours | ours / NIXL |\n|---|---|---|---|")
    for name in [*ours.names, "`import nixl_cu12._api`, `import nixl_rs`"]:
        pairs = []
        for _ in range(ROUNDS):
            pairs.append([
                side.imports(name) if name.startswith("`import") else side.row(name)
                for side in (nixl, ours)
            ])
        theirs, here = (statistics.median(column) for column in zip(*pairs))
        print(f"| {name} | {theirs:.4g} | {here:.4g} | {here / theirs:.2f} |", flush=True)
    for side in (nixl, ours):
        side.process.kill()


if __name__ == "__main__":
    if sys.argv[1:] == ["--worker"]:
        work()
    main(sys.argv[1])
