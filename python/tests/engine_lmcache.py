"""The calls of LMCache's channels: pickled lists over the side channel, "cpu" for memory, lists of
indices, and handles that are left to be collected."""

import gc
import sys
import time
import uuid

import numpy as np

# First, as it finds NIXL under whichever name.
from engine_world import LIMIT, name_of
from engine_side import BLOCK, Other, image, run, serve
from nixl._api import (
    nixl_agent,
    nixl_agent_config,
    nixl_prepped_dlist_handle,
    nixl_xfer_handle,
    nixlBind,
)

PAGES = 24
# The rank, which it gives as the device of host memory too.
RANK = 1


class Channel:
    """A buffer of pages."""

    registered: nixlBind.nixlRegDList
    listed: nixlBind.nixlXferDList

    def __init__(self, seed=0):
        self.buffer = image(seed, PAGES) if seed else np.zeros((PAGES, BLOCK), np.uint8)
        self.agent = nixl_agent(str(uuid.uuid4()), nixl_agent_config(backends=["UCX"]))
        base = self.buffer.ctypes.data
        self.registered = self.agent.get_reg_descs([(base, self.buffer.nbytes, RANK, "")], "cpu")
        self.agent.register_memory(self.registered)
        pages = [(base + i * BLOCK, BLOCK, RANK) for i in range(PAGES)]
        self.listed = self.agent.get_xfer_descs(pages, mem_type="cpu")
        self.side = self.agent.prep_xfer_dlist("", self.listed, mem_type="cpu")
        self.peers = {}

    def hello(self):
        """First step of the handshake: the metadata."""
        return self.agent.get_agent_metadata()

    def meet(self, metadata):
        name = self.agent.add_remote_agent(metadata)
        assert isinstance(name, bytes)
        return name

    def pages(self):
        """Second step: the pickled list."""
        return self.agent.get_serialized_descs(self.listed)

    def take_pages(self, name, pickled):
        remote = self.agent.deserialize_descs(pickled)
        assert isinstance(remote, nixlBind.nixlXferDList) and remote.descCount() == PAGES
        self.peers[name] = self.agent.prep_xfer_dlist(name, remote, mem_type="cpu")
        assert isinstance(self.peers[name], nixl_prepped_dlist_handle)
        return len(self.peers)

    def move(self, op, name, here, there):
        handle = self.agent.make_prepped_xfer(op, self.side, here, self.peers[name], there)
        assert isinstance(handle, nixl_xfer_handle)
        self.agent.transfer(handle)
        end = time.monotonic() + LIMIT
        while True:
            state = self.agent.check_xfer_state(handle)
            if state == "ERR":
                raise RuntimeError("the transfer failed")
            if state == "PROC":
                assert time.monotonic() < end
                time.sleep(0.001)
                continue
            assert state == "DONE", state
            return

    def wrong(self, there, seed, here):
        return int((self.buffer[there] != image(seed, PAGES)[here]).sum())

    def close(self):
        for side in (self.side, *self.peers.values()):
            self.agent.release_dlist_handle(side)
        self.agent.deregister_memory(self.registered)
        for name in self.peers:
            self.agent.remove_remote_agent(name)
        return [self.agent.check_remote_metadata(name) for name in self.peers]


class World:
    def __init__(self):
        self.here, self.other = Channel(9), Other("channel", 11)
        self.name = self.here.meet(self.other.told)
        mine = self.other.meet(self.here.hello())
        assert mine == self.here.agent.name.encode()
        # Each has the other's metadata before lists are sent.
        assert self.here.take_pages(self.name, self.other.pages()) == 1
        assert self.other.take_pages(mine, self.here.pages()) == 1


def writes(w):
    w.here.move("WRITE", w.name, [0, 1, 2, 3], [20, 22, 21, 23])
    return w.other.wrong([20, 22, 21, 23], 9, [0, 1, 2, 3])


def reads(w):
    w.here.move("READ", w.name, list(range(4, 12)), list(range(11, 3, -1)))
    return w.here.wrong(list(range(4, 12)), 11, list(range(11, 3, -1)))


def both_ways(w):
    name = w.here.agent.name.encode()
    w.other.move("READ", name, [0], [0])
    return w.other.wrong([0], 9, [0])


def handles_are_collected(w):
    for page in range(200):
        w.here.move("READ", w.name, [page % PAGES], [1])
    gc.collect()
    return w.here.wrong(list(range(PAGES)), 11, [1] * PAGES)


def what_it_passes_wrongly(w):
    make, side, peer = w.here.agent.make_prepped_xfer, w.here.side, w.here.peers[w.name]
    return [
        name_of(make, "READ", side, [], peer, []),
        name_of(make, "READ", side, [PAGES], peer, [0]),
        name_of(make, "PUT", side, [0], peer, [0]),
        name_of(w.here.agent.deserialize_descs, w.here.pages()[:-9]) is None,
        name_of(w.here.agent.prep_xfer_dlist, b"nobody", w.here.listed, "cpu"),
        name_of(w.here.agent.get_reg_descs, [(1, 2, 3, "")], "CPU"),
    ]


def closing(w):
    told = [w.here.close(), w.other.close()]
    w.other.kill()
    return told


CHECKS = [writes, reads, both_ways, handles_are_collected, what_it_passes_wrongly, closing]

if __name__ == "__main__":
    if sys.argv[1:2] == ["channel"]:
        channel = Channel(int(sys.argv[2]))
        serve(channel, channel.hello())
    run(CHECKS, World())
