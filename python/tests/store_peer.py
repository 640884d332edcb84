"""A worker on NIXL's API alone, which finds others through etcd.

    python store_peer.py NAME

It has a block of memory with a pattern, prints its address, and then answers each line of its
standard input with one of its own that begins with `= `.
"""

import os
import sys
import time

import numpy as np

# First, as it finds NIXL under whichever name.
from engine_world import LIMIT, finish, name_of, pattern, rows
from nixl._api import nixl_agent, nixl_agent_config

COUNT = 4


class Worker:
    def __init__(self, name):
        self.agent = nixl_agent(name, nixl_agent_config(backends=["UCX"]))
        self.memory = pattern(len(name))[:COUNT].copy()
        block = [(self.memory.ctypes.data, self.memory.nbytes, 0, "")]
        self.descs = self.agent.register_memory(block, "DRAM")
        self.target = np.zeros_like(self.memory)
        block = [(self.target.ctypes.data, self.target.nbytes, 0, "")]
        self.agent.register_memory(block, "DRAM")

    def send(self):
        return self.agent.send_local_metadata()

    def partial(self, label=""):
        return self.agent.send_partial_agent_metadata(self.descs, True, ["UCX"], label=label)

    def fetch(self, peer, label=""):
        return self.agent.fetch_remote_metadata(peer, label=label)

    def invalidate(self):
        return self.agent.invalidate_local_metadata()

    def has(self, peer):
        return self.agent.check_remote_metadata(peer)

    def loaded(self, peer):
        return self.until(lambda: self.has(peer))

    def gone(self, peer):
        return self.until(lambda: not self.has(peer))

    @staticmethod
    def until(check):
        end = time.monotonic() + LIMIT
        while not check():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def pull(self, peer, address):
        there = rows(self.memory, range(COUNT))
        there[:, 0] += np.uint64(int(address)) - np.uint64(self.memory.ctypes.data)
        here = self.agent.prep_xfer_dlist("", rows(self.target, range(COUNT)), "DRAM")
        remote = self.agent.prep_xfer_dlist(peer, there, "DRAM")
        order = np.arange(COUNT)
        handle = self.agent.make_prepped_xfer("READ", here, order, remote, order[::-1].copy())
        finish(self.agent, handle)
        wrong = (self.target != pattern(len(peer))[:COUNT][::-1]).sum()
        return f"{wrong} wrong"


def main():
    worker = Worker(sys.argv[1])
    print("=", worker.memory.ctypes.data, flush=True)
    for line in sys.stdin:
        call, *args = line.split()
        if call == "exit":
            return
        found = name_of(getattr(worker, call), *args)
        print("=", found[0] if isinstance(found, list) else found, flush=True)
    # Real NIXL's plugin crashes in the handlers of a normal exit on some systems.
    os._exit(0)


main()
