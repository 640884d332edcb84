"""What the programs of the engines share: another worker, its side channel, and the checks.

An engine carries metadata itself, over ZMQ or HTTP; here lines of JSON do.
"""

import json
import os
import subprocess
import sys

import numpy as np

# First, as it finds NIXL under whichever name.
from engine_world import until

BLOCK = 4096


def image(seed, blocks):
    """Blocks in which every 8 bytes name the block, the place in it and the seed."""
    words = BLOCK // 8
    block = np.arange(blocks, dtype=np.uint64)[:, None] << np.uint64(32)
    word = np.arange(words, dtype=np.uint64)[None, :] << np.uint64(8)
    return (block | word | np.uint64(seed)).view(np.uint8).reshape(blocks, BLOCK)


def table(base, count, step=BLOCK, length=BLOCK, device=0):
    """An Nx3 array for blocks that lie `step` bytes apart."""
    made = np.empty((count, 3), dtype=np.uint64)
    made[:, 0] = np.uint64(base) + np.arange(count, dtype=np.uint64) * np.uint64(step)
    made[:, 1], made[:, 2] = length, device
    return made


def _pack(value):
    return {"hex": bytes(value).hex()} if isinstance(value, (bytes, bytearray)) else str(value)


def _unpack(value):
    return bytes.fromhex(value["hex"]) if set(value) == {"hex"} else value


class Other:
    """A worker of the same program in another process; its methods are called by name."""

    def __init__(self, role, *args):
        self.process = subprocess.Popen(
            [sys.executable, os.path.abspath(sys.argv[0]), role, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.told = self._answer()

    def _answer(self):
        for line in self.process.stdout:
            # Logs go to standard output too.
            if line.startswith("= "):
                return json.loads(line[2:], object_hook=_unpack)
        raise AssertionError("the other worker is gone")

    def __getattr__(self, name):
        def call(*args):
            self.process.stdin.write(json.dumps([name, *args], default=_pack) + "\n")
            self.process.stdin.flush()
            return self._answer()

        return call

    def kill(self):
        self.process.kill()
        self.process.wait()


def serve(worker, told):
    """Does what an `Other` asks of `worker`, until it goes."""
    answer = told
    while True:
        print("=", json.dumps(answer, default=_pack), flush=True)
        line = sys.stdin.readline()
        if not line:
            # Real NIXL's plugin crashes in the handlers of a normal exit on some systems.
            os._exit(0)
        name, *args = json.loads(line, object_hook=_unpack)
        answer = getattr(worker, name)(*args)


class Inbox:
    """Collects an agent's notifications, as engines do in their loops."""

    def __init__(self, agent):
        self.agent, self.found = agent, []

    def poll(self):
        for sender, messages in self.agent.get_new_notifs().items():
            assert isinstance(sender, str) and all(isinstance(m, bytes) for m in messages)
            self.found += [(sender, message) for message in messages]
        return self.found

    def take(self, count):
        """The next `count`, in the order in which they came."""
        until(lambda: len(self.poll()) >= count)
        taken, self.found = self.found[:count], self.found[count:]
        return taken


def run(checks, world):
    """Runs the checks, and prints one line of JSON for each."""
    for function in checks:
        try:
            outcome = {"found": function(world)}
        except BaseException as error:
            outcome = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps({"check": function.__name__, **outcome}), flush=True)
    sys.stdout.flush()
    os._exit(0)
