"""A decode worker pulls blocks out of a prefill worker's cache; each is a process of its own.

    python examples/python/two_peers.py
"""

import multiprocessing

import numpy as np

import nixl_rs as nx

BLOCKS, BLOCK = 64, 32 << 10


def prefill(tell):
    with nx.Agent("prefill") as agent, nx.Listener(agent) as listener:
        cache = agent.allocate(BLOCKS * BLOCK)
        # The memory itself: block i is full of i.
        np.asarray(cache).reshape(BLOCKS, BLOCK)[:] = np.arange(BLOCKS, dtype=np.uint8)[:, None]
        # A scheduler would hand out the block table; here the address of the cache will do.
        tell.send((listener.address, cache.address))
        print("prefill hears", agent.wait_notification(30))


def decode(listener, cache):
    with nx.Agent("decode") as agent:
        peer = agent.load_metadata(nx.fetch_metadata(listener))
        nx.send_metadata(listener, agent.metadata())

        wanted = np.array([7, 3, 5], dtype=np.uint64)
        memory = np.zeros((len(wanted), BLOCK), dtype=np.uint8)
        region = agent.register(memory)
        here = np.array([(row.ctypes.data, BLOCK) for row in memory], dtype=np.uint64)
        there = np.stack([cache + wanted * np.uint64(BLOCK), np.full_like(wanted, BLOCK)], axis=1)
        request = agent.request("read", here, there, peer=peer)
        request.post(b"taken").wait(10)

        assert (memory == wanted.astype(np.uint8)[:, None]).all()
        print(request.receipt)
        print(agent.explain(peer))
        region.release()


if __name__ == "__main__":
    mine, theirs = multiprocessing.Pipe()
    other = multiprocessing.get_context("spawn").Process(target=prefill, args=(theirs,))
    other.start()
    decode(*mine.recv())
    other.join()
