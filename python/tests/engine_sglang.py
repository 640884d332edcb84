"""The calls of SGLang's disaggregation over NIXL: prefill writes; nothing is ever released by name."""

import gc
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np

# First, as it finds NIXL under whichever name.
from engine_world import name_of, until
from engine_side import BLOCK, Other, image, run, serve, table
from nixl._api import nixl_agent, nixl_agent_config, nixl_thread_sync_t, nixlBind
from nixl._bindings import nixlBackendError, nixlCancelledError, nixlRemoteDisconnectError

LAYERS, PAGES = 2, 32
AUX = 256
KNOWN = (nixlBackendError, nixlCancelledError, nixlRemoteDisconnectError)


class Worker:
    """A rank: pages of each layer, and small auxiliary memory."""

    def __init__(self, threads, seed=0):
        config = nixl_agent_config(
            backends=[],
            num_threads=threads,
            sync_mode=nixl_thread_sync_t.NIXL_THREAD_SYNC_STRICT,
        )
        self.agent = nixl_agent(str(uuid.uuid4()), config)
        # In a thread of its own, with a deadline.
        with ThreadPoolExecutor(1) as pool:
            params = {"num_threads": str(threads)} if threads else {}
            pool.submit(self.agent.create_backend, "UCX", params).result(timeout=60)
        assert "UCX" in self.agent.get_plugin_list()
        self.pages = [
            image(seed + i, PAGES) if seed else np.zeros((PAGES, BLOCK), np.uint8)
            for i in range(LAYERS)
        ]
        self.aux = np.full(AUX, seed, dtype=np.uint8)
        kv = [(layer.ctypes.data, layer.nbytes, 0, "") for layer in self.pages]
        self.kv_descs = self.agent.register_memory(kv, "DRAM")
        self.aux_descs = self.agent.register_memory([(self.aux.ctypes.data, AUX, 0, "")], "DRAM")
        assert self.kv_descs and self.aux_descs
        self.sides = {}

    def card(self):
        bases = [layer.ctypes.data for layer in self.pages]
        name = self.agent.name.encode("ascii")
        return [name, self.agent.get_agent_metadata(), bases, self.aux.ctypes.data]

    def side(self, peer, bases):
        """All pages of all layers; strided rows where the library has them."""
        strided = [[base, BLOCK, 0, BLOCK, PAGES] for base in bases]
        try:
            return self.agent.prep_xfer_dlist(peer, np.array(strided, dtype=np.uint64), "DRAM")
        except TypeError:
            rows = np.vstack([table(base, PAGES) for base in bases])
            return self.agent.prep_xfer_dlist(peer, rows, "DRAM")

    def meet(self, card):
        name, metadata, bases, aux = card
        assert self.agent.add_remote_agent(metadata) == name
        peer = name.decode()
        self.sides[peer] = self.side(peer, bases)
        self.sides[""] = self.sides.get("") or self.side("", self.card()[2])
        return peer, aux

    def send_kv(self, peer, here, there):
        spread = np.arange(LAYERS, dtype=np.int32)[:, None] * PAGES
        here, there = ((spread + np.asarray(ids, np.int32)).ravel() for ids in (here, there))
        handle = self.agent.make_prepped_xfer(
            "WRITE", self.sides[""], here, self.sides[peer], there
        )
        return self.post(handle)

    def send_aux(self, peer, there):
        local = self.agent.get_xfer_descs([(self.aux.ctypes.data, AUX, 0)], "DRAM")
        remote = self.agent.get_xfer_descs([(there, AUX, 0)], "DRAM")
        return self.post(self.agent.initialize_xfer("WRITE", local, remote, peer))

    def post(self, handle):
        assert self.agent.transfer(handle) != "ERR"
        return handle

    def settle(self, handles):
        """Waits for all; an exception means that nothing is known, and is the caller's."""

        def poll():
            states = [self.agent.check_xfer_state(handle) for handle in handles]
            assert "ERR" not in states
            return all(state == "DONE" for state in states)

        until(poll)

    # --- what the other process is asked for ---

    def wrong(self, there, seed, here):
        truth = [image(seed + i, PAGES)[here] for i in range(LAYERS)]
        kept = [layer[there] for layer in self.pages]
        return int(sum((a != b).sum() for a, b in zip(kept, truth)))

    def small(self):
        return self.aux.tolist()


class World:
    def __init__(self):
        self.prefill = Worker(8, seed=40)
        self.decode = Other("decode")
        self.peer, self.aux = self.prefill.meet(self.decode.told)


def kv_and_aux(w):
    here, there = [0, 1, 2, 17], [30, 29, 28, 4]
    handles = [w.prefill.send_kv(w.peer, here, there), w.prefill.send_aux(w.peer, w.aux)]
    w.prefill.settle(handles)
    assert w.decode.small() == [40] * AUX
    return w.decode.wrong(there, 40, here)


def chunks_from_many_threads(w):
    """Transfer workers and the bootstrap thread use one agent at once."""
    failures = []

    def work(first):
        try:
            for page in range(first, PAGES, 4):
                w.prefill.settle([w.prefill.send_kv(w.peer, [page], [PAGES - 1 - page])])
        except BaseException as error:
            failures.append(repr(error))

    def greet():
        for _ in range(20):
            w.prefill.meet(w.decode.told)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    threads.append(threading.Thread(target=greet))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = list(range(PAGES))
    return [failures, w.decode.wrong(everything[::-1], 40, everything)]


def handles_that_nobody_releases(w):
    for page in range(300):
        handle = w.prefill.send_kv(w.peer, [page % PAGES], [page % PAGES])
        w.prefill.settle([handle])
    del handle
    gc.collect()
    everything = list(range(PAGES))
    return w.decode.wrong(everything, 40, everything)


def a_peer_made_invalid_and_loaded_again(w):
    w.prefill.agent.remove_remote_agent(w.peer)
    known = w.prefill.agent.check_remote_metadata(w.peer)
    refused = name_of(w.prefill.send_kv, w.peer, [1], [2])
    w.prefill.meet(w.decode.told)
    w.prefill.settle([w.prefill.send_kv(w.peer, [1], [2])])
    return [known, refused, w.decode.wrong([2], 40, [1])]


def the_inner_agent_of_hicache(w):
    """Its storage makes the inner agent by itself, and puts it into the outer."""
    outer = nixl_agent("hicache", nixl_agent_config(backends=[]))
    config = nixlBind.nixlAgentConfig()
    config.useProgThread, config.useListenThread, config.listenPort = True, False, 0
    config.syncMode = nixlBind.NIXL_THREAD_SYNC_STRICT
    config.pthrDelay, config.lthrDelay, config.captureTelemetry = 0, 100000, False
    outer.agent = nixlBind.nixlAgent("hicache", config)
    plugins = outer.agent.getAvailPlugins()
    outer.create_backend("UCX", {})
    memory = np.zeros(BLOCK, dtype=np.uint8)
    descs = outer.get_reg_descs([(memory.ctypes.data, BLOCK, 0, "page")], "DRAM")
    assert outer.register_memory(descs) and isinstance(descs, nixlBind.nixlRegDList)
    assert outer.get_backend_params("UCX") is not None
    outer.deregister_memory(descs)
    return ["UCX" in plugins, isinstance(descs.trim(), nixlBind.nixlXferDList)]


def a_dead_decode_worker(w):
    handle = w.prefill.send_kv(w.peer, [0], [0])
    w.prefill.settle([handle])
    w.decode.kill()

    def post():
        w.prefill.settle([w.prefill.post(handle)])

    def fails():
        try:
            post()
        except KNOWN as error:
            return [type(error).__name__, str(error)]

    return until(fails)


CHECKS = [
    kv_and_aux,
    chunks_from_many_threads,
    handles_that_nobody_releases,
    a_peer_made_invalid_and_loaded_again,
    the_inner_agent_of_hicache,
    a_dead_decode_worker,
]

if __name__ == "__main__":
    if sys.argv[1:2] == ["decode"]:
        worker = Worker(0)
        serve(worker, worker.card())
    run(CHECKS, World())
