"""Whatever Python is given, an exception or a documented result comes of it, never a crash."""

import gc
import weakref

import numpy as np
import pytest

import nixl_rs as nx
from conftest import LIMIT, pattern

SIZE = 4096


@pytest.fixture
def ready(pair):
    there, here = pair
    theirs, ours = there.allocate(SIZE), here.allocate(SIZE)
    theirs.write(pattern(1, SIZE)[0])
    here.load_metadata(there.metadata())
    return here, ours, theirs


class Mistake(Exception):
    """What the program's own code raises below a call of ours."""


class Raising:
    """Raises from one of the methods that are called on an object."""

    def __init__(self, name):
        self.name = name

    def __getattr__(self, attribute):
        if attribute != self.name:
            raise AttributeError(attribute)
        raise Mistake(attribute)


def raising(method, **more):
    def fails(self, *_, **__):
        raise Mistake(method)

    return type("Fails", (), {method: fails, **more})()


def rows_that_fail():
    yield (4096, 16)
    raise Mistake("a row")


HOSTILE = {
    "dlpack": lambda a, o, t: a.register(raising("__dlpack__", __dlpack_device__=lambda _: (1, 0))),
    "cuda interface": lambda a, o, t: a.register(Raising("__cuda_array_interface__")),
    "data_ptr": lambda a, o, t: a.register(Raising("data_ptr")),
    "rows": lambda a, o, t: a.prepare_local(rows_that_fail()),
    "length": lambda a, o, t: a.prepare_local([(raising("__index__"), 16)]),
    "items of a row": lambda a, o, t: a.prepare_local([raising("__iter__")]),
    "index": lambda a, o, t: chosen(a, o, t, [raising("__index__")]),
    "indices": lambda a, o, t: chosen(a, o, t, raising("__iter__")),
    "timeout": lambda a, o, t: a.wait_notification(raising("__float__")),
    "configuration": lambda a, o, t: nx.Agent("a", {"agent": raising("__str__")}),
}


def chosen(agent, ours, theirs, indices):
    local, remote = agent.prepare_local(ours), agent.prepare_remote("prefill", theirs)
    return agent.request("read", local, remote, local_indices=indices, remote_indices=[0])


@pytest.mark.parametrize("where", HOSTILE)
def test_exceptions_of_the_caller_s_own_code_come_through(ready, where):
    agent, ours, theirs = ready
    with pytest.raises((Mistake, TypeError, nx.ApiMisuseError)):
        HOSTILE[where](*ready)
    # Nothing is left half done.
    agent.request("read", ours, theirs, peer="prefill").post().wait(LIMIT)
    assert ours.read() == pattern(1, SIZE).tobytes()


HUGE = {
    "a length": lambda a, o: a.prepare_local([(o.address, 1 << 63)]),
    "a count of strides": lambda a, o: a.prepare_local([(o.address, 8, 0, 8, 1 << 62)]),
    "a stride": lambda a, o: a.prepare_local([(o.address, 8, 0, 1 << 63, 3)]),
    "a count of none": lambda a, o: a.prepare_local([(o.address, 8, 0, 8, 0)]),
    "a negative count": lambda a, o: a.prepare_local([(o.address, 8, 0, 8, -1)]),
    "an address": lambda a, o: a.prepare_local([(1 << 64, 8)]),
    "a number beyond all": lambda a, o: a.prepare_local([(1 << 200, 8)]),
    "memory": lambda a, o: a.allocate(1 << 62),
    "all memory": lambda a, o: a.allocate((1 << 64) - 1),
    "an address space": lambda a, o: a.register_address(4096, (1 << 64) - 4096),
    "an address that wraps": lambda a, o: a.register_address((1 << 64) - 8, 64),
    "nothing at all": lambda a, o: a.register_address(0, 0),
    "an offset": lambda a, o: o.read(1 << 63),
    "a size": lambda a, o: o.read(0, (1 << 64) - 1),
    "a negative offset": lambda a, o: o.write(b"x", -1),
}


@pytest.mark.parametrize("what", HUGE)
def test_negative_and_huge_numbers_are_refused(ready, what):
    with pytest.raises((nx.NixlError, OverflowError)):
        HUGE[what](ready[0], ready[1])


def test_waiting_for_ever_ends_when_it_is_done(ready):
    agent, ours, theirs = ready
    for forever in (1e18, None):
        agent.request("read", ours, theirs, peer="prefill").post().wait(forever)
    for wrong in (-1, 1e300, float("inf"), float("nan")):
        with pytest.raises(nx.ApiMisuseError, match="seconds"):
            agent.request("read", ours, theirs, peer="prefill").post().wait(wrong)
    assert ours.read() == pattern(1, SIZE).tobytes()


@pytest.mark.parametrize("name", ["", "\udcff", "a\0b", "x" * 100_000])
def test_names_that_are_none(name):
    try:
        nx.Agent(name).close()
    except (nx.NixlError, UnicodeEncodeError):
        return
    assert name not in ("", "\udcff"), "taken, so it works as a name"


def test_blocks_of_memory_that_was_released_are_refused(ready):
    agent, ours, theirs = ready
    memory = np.zeros(SIZE, dtype=np.uint8)
    region = agent.register(memory)
    local, remote = agent.prepare_local(region), agent.prepare_remote("prefill", theirs)
    region.release()
    gone = weakref.ref(memory)
    del memory, region
    gc.collect()
    # The list still holds it, so a request may still be made of it, and nothing dangles.
    try:
        agent.request("read", local, remote).post().wait(LIMIT)
        assert gone().tobytes() == pattern(1, SIZE).tobytes()
    except nx.NotRegisteredError:
        pass
    with pytest.raises(nx.NotRegisteredError):
        agent.prepare_local([(1 << 40, 16)])


def test_a_peer_s_memory_that_was_released_is_refused(pair):
    there, here = pair
    theirs, ours = there.register(bytearray(SIZE)), here.allocate(SIZE)
    here.load_metadata(there.metadata())
    request = here.request("read", ours, [(theirs.address, SIZE)], peer="prefill")
    request.post().wait(LIMIT)
    theirs.release()
    del theirs
    gc.collect()
    with pytest.raises(nx.NixlError):
        request.post().wait(LIMIT)


def test_a_destructor_that_raises_is_reported_and_no_more(run):
    run(
        """
import gc, sys
import numpy as np
import nixl_rs as nx

class Owner:
    def __del__(self):
        raise ValueError("an owner's own mistake")

seen = []
sys.unraisablehook = lambda what: seen.append(str(what.exc_value))
memory = np.zeros(4096, dtype=np.uint8)
with nx.Agent("a") as agent:
    region = agent.register_address(memory.ctypes.data, 4096, owner=Owner())
    region.release()
    del region
    gc.collect()
    agent.metadata()
assert seen == ["an owner's own mistake"], seen
"""
    )


def test_an_exception_in_a_callback_of_the_event_loop_stays_there(run):
    run(
        """
import asyncio
import nixl_rs as nx

async def main(agent, region):
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what))
    request = agent.request("read", [(region.address, 8)], [(region.address + 8, 8)], peer="a")

    def fails(_):
        raise ValueError("a callback's own mistake")

    waiting = asyncio.ensure_future(pull(request.post()))
    waiting.add_done_callback(fails)
    await waiting
    await asyncio.sleep(0)
    assert [str(what["exception"]) for what in told] == ["a callback's own mistake"]
    await request.post()
    assert request.status == "done"

async def pull(request):
    await request

with nx.Agent("a") as agent:
    asyncio.run(main(agent, agent.allocate(4096)))
"""
    )


UNMAPPED = """
import ctypes, json, mmap, subprocess, sys
import nixl_rs as nx

SIZE = 1 << 20
CONFIG = {"backends": ["ipc"]}

if sys.argv[1:]:
    agent = nx.Agent("peer", CONFIG)
    memory = mmap.mmap(-1, SIZE)
    memory[:] = b"x" * SIZE
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    agent.register_address(address, SIZE)
    print(json.dumps([agent.metadata().hex(), address]), flush=True)
    sys.stdin.readline()
    print(ctypes.CDLL(None).munmap(ctypes.c_void_p(address), ctypes.c_size_t(SIZE)), flush=True)
    sys.stdin.readline()
    print("alive", flush=True)
    sys.stdin.readline()
    sys.exit()

peer = subprocess.Popen([sys.executable, "-c", sys.orig_argv[sys.orig_argv.index("-c") + 1], "peer"],
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

def ask():
    peer.stdin.write("\\n")
    peer.stdin.flush()
    return peer.stdout.readline().strip()

metadata, address = json.loads(peer.stdout.readline())
with nx.Agent("here", CONFIG) as agent:
    region = agent.allocate(SIZE)
    agent.load_metadata(bytes.fromhex(metadata))
    request = agent.request("read", region, [(address, SIZE)], peer="peer")
    request.post().wait(20)
    assert region.read() == b"x" * SIZE and request.receipt.path == "cma"
    assert ask() == "0"
    for op in ("read", "write"):
        try:
            agent.request(op, region, [(address, SIZE)], peer="peer").post().wait(20)
            sys.exit("memory that is not there was moved")
        except nx.BackendError as error:
            assert "must stay allocated while it is registered" in str(error), error
    assert ask() == "alive"
peer.kill()
peer.wait()
"""


def test_memory_that_its_owner_unmapped_is_an_error_of_the_initiator(run):
    run(UNMAPPED)
