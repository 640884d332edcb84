"""Transfers: every way to name blocks, every byte checked."""

import numpy as np
import pytest

import nixl_rs as nx
from conftest import LIMIT, addresses, pattern

BLOCKS, BLOCK = 512, 4096


def order(seed=7):
    return np.random.default_rng(seed).permutation(BLOCKS)


def as_tuples(rows):
    return [tuple(map(int, row)) for row in rows]


def with_device(rows):
    return np.hstack([rows, np.zeros((len(rows), 1), dtype=np.uint64)])


def as_signed(rows):
    return rows.astype(np.int64)


def as_runs(rows):
    extra = np.empty((len(rows), 3), dtype=np.uint64)
    extra[:] = (0, BLOCK, 1)
    return np.hstack([rows, extra])


def as_descriptors(rows):
    return nx.Descriptors(rows)


def as_memoryview(rows):
    return memoryview(rows)


FORMS = [
    np.asarray,
    as_tuples,
    with_device,
    as_signed,
    as_runs,
    as_descriptors,
    as_memoryview,
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("op", ["read", "write"])
def test_all_forms_of_descriptors_move_every_byte(pair, form, op):
    there, here = pair
    theirs, ours = there.allocate(BLOCKS * BLOCK), here.allocate(BLOCKS * BLOCK)
    source, target = (theirs, ours) if op == "read" else (ours, theirs)
    np.asarray(source).reshape(BLOCKS, BLOCK)[:] = pattern(BLOCKS, BLOCK)
    here.load_metadata(there.metadata())
    local, remote = order(1), order(2)
    request = here.request(
        op,
        form(addresses(ours.address, local, BLOCK)),
        form(addresses(theirs.address, remote, BLOCK)),
        peer="prefill",
    )
    request.post().wait(LIMIT)
    expected = np.empty((BLOCKS, BLOCK), dtype=np.uint8)
    came, went = (local, remote) if op == "read" else (remote, local)
    expected[came] = pattern(BLOCKS, BLOCK)[went]
    assert np.array_equal(np.asarray(target).reshape(BLOCKS, BLOCK), expected)
    receipt = request.receipt
    assert (receipt.op, receipt.nbytes) == (op, BLOCKS * BLOCK)
    assert receipt.descriptors == BLOCKS and receipt.path == "local"


INDEX_FORMS = [np.int32, np.int64, np.uint32, np.uint64, np.uint16, list, tuple, None]


@pytest.mark.parametrize("form", INDEX_FORMS)
def test_indices_of_every_type_choose_blocks(pair, form):
    there, here = pair
    theirs, ours = there.allocate(BLOCKS * BLOCK), here.allocate(BLOCKS * BLOCK)
    np.asarray(theirs).reshape(BLOCKS, BLOCK)[:] = pattern(BLOCKS, BLOCK)
    here.load_metadata(there.metadata())
    all_blocks = np.arange(BLOCKS)
    local = here.prepare_local(addresses(ours.address, all_blocks, BLOCK))
    remote = here.prepare_remote("prefill", addresses(theirs.address, all_blocks, BLOCK))
    assert (len(local), len(remote), remote.peer) == (BLOCKS, BLOCKS, "prefill")
    chosen = all_blocks if form is None else order(3)[: BLOCKS // 2]
    slots = all_blocks[: len(chosen)]

    def indices(of):
        if form is None:
            return None
        return form(map(int, of)) if form in (list, tuple) else of.astype(form)

    request = here.request(
        "read", local, remote, local_indices=indices(slots), remote_indices=indices(chosen)
    )
    # The same request again and again, as engines use it.
    for seed in (1, 2, 3):
        np.asarray(theirs).reshape(BLOCKS, BLOCK)[:] = pattern(BLOCKS, BLOCK, seed)
        request.post().wait(LIMIT)
        moved = np.asarray(ours).reshape(BLOCKS, BLOCK)[: len(chosen)]
        assert np.array_equal(moved, pattern(BLOCKS, BLOCK, seed)[chosen])
    assert not np.asarray(ours)[len(chosen) * BLOCK :].any()


PATHS = [(["tcp"], "plain", "tcp"), (["ipc"], "plain", "cma"), (["ipc"], "owned", "shm")]


@pytest.mark.parametrize("backends, memory, path", PATHS)
def test_another_process_is_read_and_written(peer, backends, memory, path):
    other = peer(BLOCKS, BLOCK, memory, config={"backends": backends})
    with nx.Agent("here", {"backends": backends}) as agent:
        ours = np.zeros((BLOCKS, BLOCK), dtype=np.uint8)
        region = agent.register(ours)
        name = agent.load_metadata(other.metadata)
        assert other.ask(load=agent.metadata().hex()) == {"name": "here"}
        chosen = order(5)
        mine = addresses(region.address, range(BLOCKS), BLOCK)
        theirs = addresses(other.address, chosen, BLOCK)
        request = agent.request("read", mine, theirs, peer=name)
        request.post().wait(LIMIT)
        assert np.array_equal(ours, pattern(BLOCKS, BLOCK)[chosen])
        assert request.receipt.path == path, agent.explain(name)
        ours[:] = pattern(BLOCKS, BLOCK, 9)[chosen]
        request = agent.request("write", mine, theirs, peer=name)
        request.post(b"all written").wait(LIMIT)
        # What the notification follows is there.
        expected = {"got": ["here", b"all written".hex(), True], "wrong": 0}
        assert other.ask(**{"await": 1, "seed": 9}) == expected
        region.release()


def test_own_memory_is_reached_by_the_own_name(pair):
    _, agent = pair
    region = agent.allocate(2 * BLOCK)
    np.asarray(region)[:BLOCK] = pattern(1, BLOCK)[0]
    to, what = [(region.address + BLOCK, BLOCK)], [(region.address, BLOCK)]
    agent.request("read", to, what, peer="decode").post().wait(LIMIT)
    assert region.read(BLOCK) == pattern(1, BLOCK).tobytes()


def test_a_region_stands_for_itself(pair):
    there, here = pair
    theirs, ours = there.allocate(BLOCK), here.allocate(BLOCK)
    theirs.write(pattern(1, BLOCK)[0])
    here.load_metadata(there.metadata())
    here.request("read", ours, theirs, peer="prefill").post().wait(LIMIT)
    assert ours.read() == pattern(1, BLOCK).tobytes()


def test_descriptors_tell_what_they_hold():
    made = nx.Descriptors([(4096, 64), (8192, 32, 0), (1 << 20, 8, 0, 16, 10)])
    assert len(made) == 12 and made.nbytes == 64 + 32 + 80 and made.kind == "dram"
    rows = np.frombuffer(made.to_bytes(), dtype=np.uint64).reshape(-1, 5)
    assert rows.tolist()[2] == [1 << 20, 8, 0, 16, 10]
    assert nx.Descriptors(rows) == made
    assert nx.Descriptors(rows[:1]) != made
    assert "12 blocks" in repr(made) and "x 10" in repr(made)


def test_metadata_over_a_listener(pair):
    there, here = pair
    theirs, ours = there.allocate(BLOCK), here.allocate(BLOCK)
    theirs.write(pattern(1, BLOCK)[0])
    key = b"0123456789abcdef0123456789abcdef"
    with nx.Listener(there, key=key) as listener:
        blob = nx.fetch_metadata(listener.address, key=key)
        assert here.load_metadata(blob) == "prefill"
        assert nx.send_metadata(listener.address, here.metadata(), key=key) == "decode"
        assert there.peers() == ["decode"]
        here.request("read", ours, theirs, peer="prefill").post().wait(LIMIT)
        assert ours.read() == pattern(1, BLOCK).tobytes()
        nx.forget_at(listener.address, "decode", key=key)
        assert there.peers() == []
        with pytest.raises(nx.UnauthenticatedError):
            nx.fetch_metadata(listener.address, key=b"another key of thirty-two bytes.")
    with pytest.raises(nx.PeerGoneError):
        nx.fetch_metadata(listener.address, key=key)


def test_explanations_and_counters_are_plain_data(pair):
    there, here = pair
    theirs, ours = there.allocate(BLOCK), here.allocate(BLOCK)
    here.load_metadata(there.metadata())
    here.prove("prefill", "read")
    found = here.explain("prefill", "read", nbytes=BLOCK)
    assert found.path == "local" and found.rows[0]["proven"]
    assert "verdict" in str(found) and "local" in repr(found)
    here.request("read", ours, theirs, peer="prefill").post().wait(LIMIT)
    counts = here.snapshot()
    path = next(p for p in counts["paths"] if p["path"] == "local" and p["op"] == "read")
    assert (path["bytes"], path["requests"], counts["active_requests"]) == (BLOCK, 1, 0)
