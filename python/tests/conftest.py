import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

import nixl_rs as nx

HERE = pathlib.Path(__file__).parent
LIMIT = 20


def pattern(blocks, block_bytes, seed=1):
    """Blocks in which every 8 bytes name the block, the place in it and the seed."""
    words = block_bytes // 8
    block = np.arange(blocks, dtype=np.uint64)[:, None] << np.uint64(32)
    word = np.arange(words, dtype=np.uint64)[None, :] << np.uint64(8)
    return (block | word | np.uint64(seed)).view(np.uint8).reshape(blocks, block_bytes)


def addresses(base, order, block_bytes):
    """An Nx2 array for blocks of one memory, in the order given."""
    order = np.asarray(order, dtype=np.uint64)
    rows = np.empty((len(order), 2), dtype=np.uint64)
    rows[:, 0] = np.uint64(base) + order * np.uint64(block_bytes)
    rows[:, 1] = block_bytes
    return rows


class Peer:
    """An agent in another process, whose memory has the pattern."""

    def __init__(self, *args, config=None):
        command = [sys.executable, str(HERE / "peer.py"), json.dumps(config), *map(str, args)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        told = json.loads(self.process.stdout.readline())
        self.name, self.address = told["name"], told["address"]
        self.metadata = bytes.fromhex(told["metadata"])

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self):
        """Stops it; no thread of it runs once this returns."""
        os.kill(self.process.pid, signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def go_on(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def peer():
    """Starts peers: peer(blocks, block_bytes, config=...)."""
    started = []

    def start(*args, **kwargs):
        started.append(Peer(*args, **kwargs))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.fixture
def pair():
    """Two agents of this process; the second has loaded the first."""
    with nx.Agent("prefill") as prefill, nx.Agent("decode") as decode:
        yield prefill, decode


@pytest.fixture
def run():
    """Runs a program in another process; fails with what it printed unless it exits with 0."""

    def go(text, *args, limit=60):
        command = [sys.executable, "-X", "faulthandler", "-c", text, *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return done.stdout

    return go


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """Skips as the project's other tests print them, each reason once."""
    reasons = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        reasons[f"SKIP {str(reason).removeprefix('Skipped: ')}"] = None
    for line in reasons:
        terminalreporter.write_line(line)
