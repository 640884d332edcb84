"""Bad input ends in an exception that says who is to blame."""

import pickle

import numpy as np
import pytest

import nixl_rs as nx
from conftest import LIMIT

SIZE = 4096

STATUS = {
    "ApiMisuseError": -2,
    "RepostActiveError": -7,
    "NotPostedError": -1,
    "NotRegisteredError": -4,
    "NotFoundError": -4,
    "MismatchError": -5,
    "MalformedError": -5,
}


@pytest.fixture
def ready(pair):
    there, here = pair
    theirs, ours = there.allocate(SIZE), here.allocate(SIZE)
    here.load_metadata(there.metadata())
    return here, ours, theirs


CASES = [
    ("NotFoundError", lambda a, o, t: a.request("read", o, t, peer="nobody")),
    ("NotFoundError", lambda a, o, t: a.notify("nobody", b"")),
    ("NotFoundError", lambda a, o, t: a.remove_peer("nobody")),
    ("NotRegisteredError", lambda a, o, t: a.prepare_local([(16, 16)])),
    ("NotRegisteredError", lambda a, o, t: a.prepare_remote("prefill", [(16, 16)])),
    ("MismatchError", lambda a, o, t: a.request("read", o, [(t.address, 16)], peer="prefill")),
    ("ApiMisuseError", lambda a, o, t: a.request("move", o, t, peer="prefill")),
    ("ApiMisuseError", lambda a, o, t: a.request("read", o, t)),
    ("ApiMisuseError", lambda a, o, t: a.request("read", [], [], peer="prefill")),
    ("ApiMisuseError", lambda a, o, t: chosen(a, o, t, [1])),
    ("ApiMisuseError", lambda a, o, t: chosen(a, o, t, [-1])),
    ("ApiMisuseError", lambda a, o, t: chosen(a, o, t, [1 << 40])),
    ("ApiMisuseError", lambda a, o, t: chosen(a, o, t, np.array([-1], dtype=np.int32))),
    ("ApiMisuseError", lambda a, o, t: chosen(a, o, t, np.array([1 << 40], dtype=np.int64))),
    ("ApiMisuseError", lambda a, o, t: chosen(a, o, t, np.array([0.0]))),
    ("ApiMisuseError", lambda a, o, t: chosen(a, o, t, np.array([[0]]))),
    ("ApiMisuseError", lambda a, o, t: chosen(a, o, t, np.arange(4)[::2])),
    ("ApiMisuseError", lambda a, o, t: chosen(a, o, t, [])),
    ("ApiMisuseError", lambda a, o, t: a.prepare_local([(o.address, 0)])),
    ("ApiMisuseError", lambda a, o, t: a.prepare_local([((1 << 64) - 8, 64)])),
    ("ApiMisuseError", lambda a, o, t: nx.Descriptors([(1,)])),
    ("ApiMisuseError", lambda a, o, t: nx.Descriptors([(-1, 5)])),
    ("ApiMisuseError", lambda a, o, t: nx.Descriptors([(1, 2)], kind="tape")),
    ("ApiMisuseError", lambda a, o, t: nx.Descriptors(np.zeros((4, 4), dtype=np.uint64))),
    ("ApiMisuseError", lambda a, o, t: nx.Descriptors(np.zeros((4, 3), dtype=np.uint32))),
    ("ApiMisuseError", lambda a, o, t: nx.Descriptors(np.zeros((4, 3)))),
    ("ApiMisuseError", lambda a, o, t: nx.Descriptors(np.zeros(6, dtype=np.uint64))),
    ("ApiMisuseError", lambda a, o, t: nx.Descriptors(np.zeros((4, 3), dtype=">u8"))),
    ("ApiMisuseError", lambda a, o, t: nx.Descriptors(np.zeros((8, 6), dtype=np.uint64)[:, ::2])),
    ("ApiMisuseError", lambda a, o, t: a.load_metadata(a.metadata())),
    ("MalformedError", lambda a, o, t: a.load_metadata(b"")),
    ("MalformedError", lambda a, o, t: a.load_metadata(b"nixl" * 100)),
    ("NotPostedError", lambda a, o, t: a.request("read", o, t, peer="prefill").wait(1)),
    ("ApiMisuseError", lambda a, o, t: a.allocate(0)),
    ("ApiMisuseError", lambda a, o, t: nx.Agent("")),
    ("ApiMisuseError", lambda a, o, t: nx.Agent("a", {"no": 1})),
    ("ApiMisuseError", lambda a, o, t: nx.Agent("a", "[tcp]\nsteams = 1")),
    ("ApiMisuseError", lambda a, o, t: nx.Agent("a", {"backends": ["pigeon"]})),
    ("ApiMisuseError", lambda a, o, t: a.wait_notification(-1)),
    ("ApiMisuseError", lambda a, o, t: a.wait_notification(float("nan"))),
]


def chosen(agent, ours, theirs, indices):
    local, remote = agent.prepare_local(ours), agent.prepare_remote("prefill", theirs)
    return agent.request("read", local, remote, local_indices=indices, remote_indices=[0])


@pytest.mark.parametrize("number", range(len(CASES)))
def test_bad_input_is_refused(ready, number):
    name, call = CASES[number]
    with pytest.raises(nx.NixlError) as caught:
        call(*ready)
    error = caught.value
    if name == "ApiMisuseError" and type(error) is nx.MismatchError:
        # Counts are compared first.
        assert number in range(9, 18)
        return
    assert type(error).__name__ == name, error
    assert error.status == STATUS[name] and error.kind + "Error" == name
    assert error.message and error.message in str(error)


@pytest.mark.parametrize(
    "call",
    [
        lambda a: nx.Agent(5),
        lambda a: nx.Agent("a", {"agent": {1, 2}}),
        lambda a: a.notify("prefill", "text"),
        lambda a: a.load_metadata(None),
        lambda a: a.prepare_local(None),
        lambda a: a.prepare_local(17),
        lambda a: a.allocate(-1),
        lambda a: a.allocate("big"),
        lambda a: a.notify("pre\udcfffill", b""),
        lambda a: nx.Request(),
        lambda a: nx.Region(),
    ],
)
def test_wrong_types_are_python_s_errors(ready, call):
    with pytest.raises((TypeError, OverflowError, UnicodeEncodeError, BufferError)):
        call(ready[0])


def test_errors_name_peer_and_survive_pickling(ready):
    agent, ours, _ = ready
    with pytest.raises(nx.NotRegisteredError) as caught:
        agent.prepare_remote("prefill", [(16, 16)])
    error = caught.value
    assert error.peer == "prefill" and isinstance(error, LookupError)
    again = pickle.loads(pickle.dumps(error))
    assert (again.peer, again.status, str(again)) == (error.peer, error.status, str(error))


def test_every_kind_has_a_class_with_its_number():
    classes = [c for c in vars(nx).values() if isinstance(c, type) and issubclass(c, nx.NixlError)]
    assert len(classes) == 21
    assert issubclass(nx.TimedOutError, TimeoutError)
    assert issubclass(nx.PeerGoneError, ConnectionError)


def test_a_closed_agent_says_so(ready):
    agent, ours, theirs = ready
    request = agent.request("read", ours, theirs, peer="prefill")
    agent.close()
    agent.close()
    assert agent.closed and "closed" in repr(agent)
    with pytest.raises(nx.ApiMisuseError, match="closed"):
        agent.metadata()
    with pytest.raises(nx.NixlError):
        request.post().wait(LIMIT)
    assert ours.read() == bytes(SIZE), "the handle keeps the memory"


def test_a_dead_peer_is_gone(peer):
    other = peer(1, SIZE, "plain", config={"backends": ["tcp"]})
    with nx.Agent("here", {"backends": ["tcp"]}) as agent:
        ours = agent.allocate(SIZE)
        agent.load_metadata(other.metadata)
        request = agent.request("read", ours, [(other.address, SIZE)], peer="peer")
        request.post().wait(LIMIT)
        other.end()
        with pytest.raises(nx.PeerGoneError) as caught:
            for _ in range(1000):
                request.post().wait(LIMIT)
        assert caught.value.peer == "peer" and request.status == "failed"
        assert "PeerGone" in repr(request)
