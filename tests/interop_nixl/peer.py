"""A real NIXL agent that does what the lines on standard input say.

Each line is a command and its arguments, each answer one line that begins with "= ": `= ok ...`
or `= error KIND TEXT`. Whatever else stands on the outputs is NIXL's. Memory is regions of blocks,
each block filled with bytes that name it; whoever reads a block says what it must hold.
"""

import mmap
import os
import sys
import time

import numpy as np
from nixl_cu12._api import nixl_agent, nixl_agent_config
from nixl_cu12._bindings import DRAM_SEG, nixlRegDList

BLANK = 0xA5


def pattern(seed, block, size):
    """What `size` bytes of block `block` under `seed` are."""
    at = np.arange(size, dtype=np.uint64)
    name = np.uint64((seed << 40) ^ (block << 20))
    return ((name ^ at) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(56)).astype(np.uint8)


class Region:
    """Ordinary memory, registered, as rows of one block each."""

    def __init__(self, agent, blocks, size):
        self.memory = mmap.mmap(-1, blocks * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.bytes = np.frombuffer(self.memory, dtype=np.uint8)
        self.rows = self.bytes.reshape(blocks, size)
        self.bytes[:] = BLANK
        self.base = self.bytes.ctypes.data
        span = np.array([[self.base, blocks * size, 0]], dtype=np.uint64)
        self.descs = agent.get_reg_descs(span, mem_type="DRAM")
        self.registration = agent.register_memory(self.descs)

    def difference(self, expected):
        """The first block that does not hold what `expected` says: (seed, block) or None."""
        for row, name in zip(self.rows, expected, strict=True):
            want = np.full(len(row), BLANK) if name is None else pattern(*name, len(row))
            wrong = np.flatnonzero(row != want)
            if wrong.size:
                return row, int(wrong[0])
        return None


def number_list(text):
    return [int(word) for word in text.split(",")] if text != "-" else []


def blob(text):
    return b"" if text == "-" else bytes.fromhex(text)


class Peer:
    def __init__(self, name, threads, port):
        config = nixl_agent_config(
            enable_prog_thread=threads == "1",
            enable_listen_thread=port != "-",
            listen_port=0 if port == "-" else int(port),
            backends=["UCX"],
        )
        self.agent = nixl_agent(name, config)
        if "UCX" not in self.agent.backends:
            raise RuntimeError("NIXL has no UCX backend here")
        self.regions = {}
        self.transfers = {}
        self.arrived = []

    def alloc(self, name, blocks, size):
        region = Region(self.agent, int(blocks), int(size))
        self.regions[name] = region
        return str(region.base)

    def fill(self, name, seed):
        for block, row in enumerate(self.regions[name].rows):
            row[:] = pattern(int(seed), block, len(row))

    def check(self, name, *expected):
        """Each block `seed:block`, or `-` where it must be blank."""
        names = [None if e == "-" else tuple(map(int, e.split(":"))) for e in expected]
        region = self.regions[name]
        wrong = region.difference(names)
        if wrong is not None:
            row, at = wrong
            index = (row.ctypes.data - region.base) // row.nbytes
            raise AssertionError(f"block {index} byte {at} is {row[at]}, not {expected[index]}")

    def metadata(self):
        return self.agent.get_agent_metadata().hex()

    def partial(self, names, with_conn):
        descs = nixlRegDList(DRAM_SEG, 0)
        if names != "-":
            told = [self.regions[name] for name in names.split(",")]
            table = [(region.base, region.bytes.size, 0, "") for region in told]
            descs = self.agent.get_reg_descs(table, mem_type="DRAM")
        return self.agent.get_partial_agent_metadata(descs, with_conn == "1", ["UCX"]).hex()

    def load(self, text):
        name = self.agent.add_remote_agent(blob(text))
        return name.decode() if isinstance(name, bytes) else name

    def fetch(self, name, port):
        """Asks the listener on `port` of this machine for its metadata."""
        self.agent.fetch_remote_metadata(name, "127.0.0.1", int(port))

    def send(self, port):
        self.agent.send_local_metadata("127.0.0.1", int(port))

    def withdraw(self, port):
        self.agent.invalidate_local_metadata("127.0.0.1", int(port))

    def knows(self, name, wanted, seconds):
        """Waits until metadata of `name` is loaded, or no longer."""
        until = time.monotonic() + float(seconds)
        while self.agent.check_remote_metadata(name) != (wanted == "1"):
            if time.monotonic() > until:
                raise TimeoutError(f"metadata of {name}: still the other way")
            time.sleep(0.01)

    def remove(self, name):
        self.agent.remove_remote_agent(name)

    def deregister(self, name):
        self.agent.deregister_memory(self.regions[name].registration)

    def post(self, handle, op, peer, local, ours, base, theirs, size, message):
        """Starts a transfer between blocks `ours` of region `local` and `theirs` from `base` on."""
        size = int(size)
        lists = []
        for start, blocks in ((self.regions[local].base, ours), (int(base), theirs)):
            table = [(start + block * size, size, 0) for block in number_list(blocks)]
            lists.append(self.agent.get_xfer_descs(table, mem_type="DRAM"))
        made = self.agent.initialize_xfer(op, *lists, peer, blob(message))
        self.transfers[handle] = made
        return self.agent.transfer(made)

    def wait(self, handle, seconds):
        """Drives a transfer until it is done; its state after that long if it is not."""
        until = time.monotonic() + float(seconds)
        made = self.transfers[handle]
        while (state := self.agent.check_xfer_state(made)) == "PROC":
            if time.monotonic() > until:
                return state
            time.sleep(0)
        self.agent.release_xfer_handle(self.transfers.pop(handle))
        return state

    def notify(self, peer, message):
        self.agent.send_notif(peer, blob(message))

    def notifications(self, count, seconds):
        """The next so many, oldest of each sender first: `name:hex`."""
        until = time.monotonic() + float(seconds)
        while len(self.arrived) < int(count) and time.monotonic() < until:
            for name, messages in self.agent.get_new_notifs().items():
                name = name.decode() if isinstance(name, bytes) else name
                self.arrived += [f"{name}:{message.hex()}" for message in messages]
            time.sleep(0)
        taken, self.arrived = self.arrived[: int(count)], self.arrived[int(count) :]
        return " ".join(taken)


def answer(text):
    sys.stdout.flush()
    os.write(1, f"\n= {text}\n".encode())


def main():
    peer = None
    for line in iter(sys.stdin.readline, ""):
        verb, *args = line.split()
        try:
            if verb == "start":
                peer = Peer(*args)
                result = None
            else:
                result = getattr(peer, verb)(*args)
            answer(f"ok {result}" if result is not None else "ok")
        except BaseException as error:
            text = " ".join(str(error).split())
            answer(f"error {type(error).__name__} {text}")


if __name__ == "__main__":
    try:
        main()
    finally:
        # The wheel may crash while the interpreter ends.
        os._exit(0)
