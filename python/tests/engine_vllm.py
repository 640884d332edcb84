"""The calls of vLLM's NixlConnector, pulling and pushing, in its order."""

import sys
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np

# First, as it finds NIXL under whichever name.
from engine_world import name_of, until
from engine_side import BLOCK, Inbox, Other, image, run, serve, table
from nixl._api import nixl_agent, nixl_agent_config
from nixl._bindings import nixlXferTelemetry

LAYERS, BLOCKS = 3, 32
DRAM = "DRAM"


class Worker:
    """One rank: its caches, a layer each, and its agent."""

    def __init__(self, seed=0):
        config = nixl_agent_config(num_threads=4, capture_telemetry=True)
        self.agent = nixl_agent(str(uuid.uuid4()), config)
        whole = image(seed, LAYERS * BLOCKS) if seed else np.zeros((LAYERS * BLOCKS, BLOCK), np.uint8)
        self.layers = [whole[i * BLOCKS : (i + 1) * BLOCKS].copy() for i in range(LAYERS)]
        caches = [(layer.ctypes.data, layer.nbytes, 0, "") for layer in self.layers]
        self.registered = self.agent.get_reg_descs(caches, DRAM)
        self.agent.register_memory(self.registered, backends=["UCX"])
        mine = np.vstack([table(layer.ctypes.data, BLOCKS) for layer in self.layers])
        self.side = self.agent.prep_xfer_dlist(
            "NIXL_INIT_AGENT", self.agent.get_xfer_descs(mine, DRAM)
        )
        self.inbox = Inbox(self.agent)
        self.peers = {}

    def card(self):
        """What the handshake carries."""
        return [self.agent.get_agent_metadata(), [layer.ctypes.data for layer in self.layers]]

    def handshake(self, card):
        metadata, bases = card
        name = self.agent.add_remote_agent(metadata)
        rows = np.vstack([table(base, BLOCKS) for base in bases])
        descs = self.agent.get_xfer_descs(rows, DRAM)
        self.peers[name] = self.agent.prep_xfer_dlist(name, descs)
        return name

    def begin(self, op, name, here, there, message):
        """Posts a transfer of blocks of every layer."""
        spread = np.arange(LAYERS, dtype=np.int64)[:, None] * BLOCKS
        here, there = ((spread + np.asarray(ids, dtype=np.int64)).ravel() for ids in (here, there))
        handle = self.agent.make_prepped_xfer(
            op, self.side, here, self.peers[name], there, notif_msg=message
        )
        self.agent.transfer(handle)
        return handle

    def wait(self, handles):
        """vLLM's loop over requests in flight; returns what telemetry says of each."""
        told, handles = [], list(handles)

        def poll():
            for handle in list(handles):
                state = self.agent.check_xfer_state(handle)
                assert state in ("DONE", "PROC"), state
                if state == "DONE":
                    seen = self.agent.get_xfer_telemetry(handle)
                    assert isinstance(seen, nixlXferTelemetry) and seen.startTime > 0
                    assert 0 < seen.postDuration <= seen.xferDuration < 60_000_000
                    told.append([seen.totalBytes, seen.descCount])
                    self.agent.release_xfer_handle(handle)
                    handles.remove(handle)
            return not handles

        until(poll)
        return sorted(told)

    # --- what the other process is asked for ---

    def notified(self, count):
        return sorted([sender, message] for sender, message in self.inbox.take(count))

    def push(self, name, here, there, message):
        return self.wait([self.begin("WRITE", name.encode(), here, there, message)])

    def notify(self, name, message):
        self.agent.send_notif(name, notif_msg=message)

    def drop(self, ids):
        self.layers[0][ids] = 0


class World:
    def __init__(self):
        self.decode = Worker()
        self.prefill = Other("prefill", 5)
        with ThreadPoolExecutor(1, thread_name_prefix="vllm-nixl-handshake-initiator") as pool:
            self.name = pool.submit(self.decode.handshake, self.prefill.told).result()

    def holds(self, here, there, seed):
        """Whether blocks of every layer here are those of the prefill worker."""
        truth = image(seed, LAYERS * BLOCKS).reshape(LAYERS, BLOCKS, BLOCK)
        pairs = zip(self.decode.layers, truth)
        return all(np.array_equal(layer[here], right[there]) for layer, right in pairs)


def pull(w):
    here, there = [4, 5, 6, 9], [31, 2, 3, 0]
    told = w.decode.wait([w.decode.begin("READ", w.name, here, there, b"cmpl-1:2")])
    assert w.holds(here, there, 5)
    (who, message), = w.prefill.notified(1)
    request, size = message.decode().rsplit(":", 1)
    return [told, who == w.decode.agent.name, request, int(size)]


def many_requests_at_once(w):
    orders = np.random.default_rng(3).permutation(BLOCKS).reshape(8, 4)
    handles = [
        w.decode.begin("READ", w.name, 31 - order, order, f"cmpl-{i}:1".encode())
        for i, order in enumerate(orders)
    ]
    told = w.decode.wait(handles)
    assert w.holds(31 - orders.ravel(), orders.ravel(), 5)
    return [sum(row[0] for row in told), [m.decode() for _, m in w.prefill.notified(8)]]


def whole_prefix_hit_and_heartbeats(w):
    w.decode.agent.send_notif(w.name, notif_msg=b"cmpl-9:1")
    for beat in range(3):
        w.decode.agent.send_notif(w.name, notif_msg=f"HB:cmpl-{beat},cmpl-9".encode())
    return [m.decode() for _, m in w.prefill.notified(4)]


def push(w):
    name = w.prefill.handshake(w.decode.card())
    assert name.decode() == w.decode.agent.name
    ask = b"PUSH_REG:" + bytes(range(256)) + b"\0" * 59
    w.decode.agent.send_notif(w.name, notif_msg=ask)
    assert w.prefill.notified(1) == [[w.decode.agent.name, ask]]
    for layer in w.decode.layers:
        layer[:] = 0
    told = w.prefill.push(w.decode.agent.name, [1, 2, 30], [7, 20, 21], b"cmpl-p:4")
    (who, message), = w.decode.inbox.take(1)
    assert who == w.name.decode() and w.holds([7, 20, 21], [1, 2, 30], 5)
    return [told, message.decode()]


def two_prefill_ranks(w):
    """Half of the blocks from each, as with more ranks there than here."""
    other = Other("prefill", 6)
    name = w.decode.handshake(other.told)
    handles = [
        w.decode.begin("READ", one, [at], [at + 1], b"cmpl-2:2")
        for one, at in ((w.name, 10), (name, 20))
    ]
    told = w.decode.wait(handles)
    assert w.holds([10], [11], 5) and w.holds([20], [21], 6)
    seen = [one.notified(1)[0][1].decode() for one in (w.prefill, other)]
    w.decode.agent.release_dlist_handle(w.decode.peers.pop(name))
    w.decode.agent.remove_remote_agent(name)
    other.kill()
    return [told, seen]


def failures_release_what_was_made(w):
    """An exception in make or transfer fails the request; what exists is released."""
    make, side, peer = w.decode.agent.make_prepped_xfer, w.decode.side, w.decode.peers[w.name]
    one = np.zeros(1, dtype=np.int64)
    found = [name_of(make, "READ", side, one + LAYERS * BLOCKS, peer, one)]
    found.append(name_of(make, "READ", side, np.zeros(0, np.int64), peer, one[:0]))
    handle = make("READ", side, one, peer, one, notif_msg=b"never:1")
    found.append(name_of(w.decode.agent.check_xfer_state, handle))
    found.append(name_of(w.decode.agent.get_xfer_telemetry, handle))
    w.decode.agent.release_xfer_handle(handle)
    # An abort while it runs: the release may raise, and is then tried again.
    handle = w.decode.begin("READ", w.name, range(BLOCKS), range(BLOCKS), b"")
    until(lambda: name_of(w.decode.agent.release_xfer_handle, handle) is None)
    return found


def a_peer_that_restarts(w):
    old = w.decode.peers[w.name]
    again = w.decode.begin("READ", w.name, [0], [0], b"")
    until(lambda: w.decode.agent.check_xfer_state(again) == "DONE")
    w.prefill.kill()

    def fails(call):
        return until(lambda: isinstance(name_of(call), list) and name_of(call))

    def post():
        w.decode.agent.transfer(again)
        until(lambda: w.decode.agent.check_xfer_state(again) == "DONE")

    lost = [fails(post), fails(lambda: w.decode.agent.send_notif(w.name, notif_msg=b"HB:x"))]
    w.decode.agent.release_xfer_handle(again)
    w.decode.agent.release_dlist_handle(old)
    w.decode.agent.remove_remote_agent(w.name)
    lost.append(w.decode.agent.check_remote_metadata(w.name))
    w.prefill = Other("prefill", 7)
    w.name = w.decode.handshake(w.prefill.told)
    told = w.decode.wait([w.decode.begin("READ", w.name, [3], [8], b"cmpl-3:1")])
    assert w.holds([3], [8], 7)
    return [lost, told, w.prefill.notified(1)[0][1].decode()]


def shutdown(w):
    for name, side in w.decode.peers.items():
        w.decode.agent.release_dlist_handle(side)
        w.decode.agent.remove_remote_agent(name)
    w.decode.agent.release_dlist_handle(w.decode.side)
    w.decode.agent.deregister_memory(w.decode.registered)
    w.prefill.kill()


CHECKS = [
    pull,
    many_requests_at_once,
    whole_prefix_hit_and_heartbeats,
    push,
    two_prefill_ranks,
    failures_release_what_was_made,
    a_peer_that_restarts,
    shutdown,
]

if __name__ == "__main__":
    if sys.argv[1:2] == ["prefill"]:
        worker = Worker(int(sys.argv[2]))
        serve(worker, worker.card())
    run(CHECKS, World())
