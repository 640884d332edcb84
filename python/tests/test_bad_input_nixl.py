"""Whatever NIXL's calls are given, an exception or a documented result comes of it, never a crash."""

import pytest

from nixl_rs import compat
from test_process import stopped

COMPAT = f"""
import gc, os, sys, threading, weakref
import numpy as np
sys.path[:0] = [{compat.DIRECTORY!r}]
os.environ["NIXL_LOG_LEVEL"] = "ERROR"
from nixl._api import nixl_agent, nixl_agent_config, nixlBind as b

def refused(call, *kinds):
    try:
        found = call()
    except kinds or (b.nixlInvalidParamError, b.nixlNotFoundError, TypeError, ValueError,
                     RuntimeError):
        return True
    sys.exit(f"{{call}} gave {{found!r}}")

agent = nixl_agent("here", nixl_agent_config(backends=["UCX"]))
memory = np.arange(8192, dtype=np.uint64)
base, half = memory.ctypes.data, memory.nbytes // 2
descs = agent.register_memory([(base, memory.nbytes, 0, "")], "DRAM")
rows = lambda at: [(base + at + n * 4096, 4096, 0) for n in range(8)]
left, right = agent.prep_xfer_dlist("", rows(0), "DRAM"), agent.prep_xfer_dlist("here", rows(half), "DRAM")

def finish(handle):
    state = agent.transfer(handle)
    while state != "DONE":
        state = agent.check_xfer_state(handle)
"""

NIXL = {
    "counts": """
for count in (-1, 1 << 40, 1 << 62, 1 << 64):
    refused(lambda: b.nixlXferDList(b.DRAM_SEG, count), TypeError, ValueError)
refused(lambda: agent.prep_xfer_dlist("", np.array([[base, 8, 0, 8, 1 << 62]], dtype=np.uint64), "DRAM"))
refused(lambda: agent.prep_xfer_dlist("", np.array([[base, 8, 0, 8, 0]], dtype=np.uint64), "DRAM"))
refused(lambda: agent.prep_xfer_dlist("", [(base, 1 << 63, 0)], "DRAM"))
refused(lambda: agent.prep_xfer_dlist("", [(-1, 8, 0)], "DRAM"))
refused(lambda: agent.register_memory([(base, -1, 0, "")], "DRAM"))
refused(lambda: agent.register_memory([(0, 0, 0, "")], "DRAM"))
for index in (8, -1, 1 << 31, 1 << 63):
    refused(lambda: agent.make_prepped_xfer("READ", left, [index], right, [0]))
refused(lambda: agent.agent.postXferReq(1 << 70))
refused(lambda: agent.agent.releasedDlistH("x") is b.NIXL_SUCCESS and int("no"))
""",
    "arrays": """
strided = np.zeros((8, 6), dtype=np.uint64)[:, ::2]
for bad in (strided, np.zeros((2, 3)), np.zeros((2, 3), dtype=np.uint32), np.zeros((2, 3), dtype=">u8"),
            np.zeros((2, 3), dtype=object)):
    refused(lambda: agent.prep_xfer_dlist("", bad, "DRAM"))
for good in (np.arange(16)[::2] // 2, np.arange(8, dtype=">i4"), np.arange(8, dtype=np.float64),
             np.arange(8, dtype=np.uint8), tuple(range(8)), range(8)):
    handle = agent.make_prepped_xfer("READ", left, good, right, good)
    memory[: half // 8] = 0
    finish(handle)
    assert (memory[: half // 8] == memory[half // 8 :]).all(), good
for bad in (np.zeros((2, 2), dtype=int), ["0"], [None], [1.5], "01", 5, {1: 2}, None, b"01"):
    refused(lambda: agent.make_prepped_xfer("READ", left, bad, right, bad), RuntimeError, ValueError)
for bad in ([8], [-1], np.array([1 << 33]), np.array([-1])):
    refused(lambda: agent.make_prepped_xfer("READ", left, bad, right, bad), b.nixlInvalidParamError)
""",
    "names": """
for unknown in (b"\\xff\\xfe", "", b"", "a\\0b", "x" * 100000):
    refused(lambda: agent.send_notif(unknown, b"m"), b.nixlNotFoundError)
    refused(lambda: agent.make_connection(unknown), b.nixlNotFoundError)
    assert not agent.check_remote_metadata(unknown)
    if unknown:
        refused(lambda: agent.prep_xfer_dlist(unknown, rows(0), "DRAM"), b.nixlNotFoundError)
for bad in ("\\udcff", 5, None):
    refused(lambda: agent.send_notif(bad, b"m"), TypeError)
    refused(lambda: agent.make_connection(bad), TypeError)
    refused(lambda: agent.check_remote_metadata(bad), TypeError)
    refused(lambda: agent.remove_remote_agent(bad), TypeError)
    refused(lambda: agent.prep_xfer_dlist(bad, rows(0), "DRAM"), TypeError)
refused(lambda: agent.send_notif("here", "\\udcff"), TypeError)
refused(lambda: agent.send_notif("here", 5), TypeError)
for bad in ("", b"", b"\\xff"):
    refused(lambda: nixl_agent(bad), ValueError)
assert nixl_agent(b"bytes", nixl_agent_config(backends=[])).agent is not None
""",
    "threads on one handle": """
handle = agent.make_prepped_xfer("READ", left, range(8), right, range(8), b"note")
failures = []

def work():
    for _ in range(300):
        try:
            agent.transfer(handle)
        except b.nixlRepostActiveError:
            pass
        except BaseException as error:
            failures.append(repr(error))
        agent.check_xfer_state(handle)
        repr(handle)

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
while agent.check_xfer_state(handle) != "DONE":
    pass
assert not failures, failures[:3]
assert (memory[: half // 8] == memory[half // 8 :]).all()

# All release it at once, while others post it.
def end():
    for call in (agent.transfer, agent.check_xfer_state, agent.release_xfer_handle):
        try:
            call(handle)
        except (b.nixlInvalidParamError, b.nixlRepostActiveError):
            pass
        except BaseException as error:
            failures.append(repr(error))

threads = [threading.Thread(target=end) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures[:3]
refused(lambda: agent.transfer(handle), b.nixlInvalidParamError)
""",
    "released handles": """
handle = agent.make_prepped_xfer("READ", left, [0], right, [0])
finish(handle)
agent.release_dlist_handle(left)
agent.release_dlist_handle(left)
finish(handle)
refused(lambda: agent.make_prepped_xfer("READ", left, [0], right, [0]), b.nixlInvalidParamError)
agent.release_xfer_handle(handle)
agent.release_xfer_handle(handle)
for call in (agent.transfer, agent.check_xfer_state, agent.get_xfer_telemetry, agent.query_xfer_backend):
    refused(lambda: call(handle), b.nixlInvalidParamError)
refused(lambda: agent.transfer(right), b.nixlInvalidParamError)
refused(lambda: agent.transfer(None), AttributeError)
agent.deregister_memory(descs)
refused(lambda: agent.prep_xfer_dlist("", rows(0), "DRAM"))
refused(lambda: agent.deregister_memory(descs), b.nixlNotFoundError)
""",
    "exceptions": """
class Mistake(Exception):
    pass

class Row:
    def __index__(self):
        raise Mistake()

refused(lambda: agent.make_prepped_xfer("READ", left, [Row()], right, [0]), Mistake)
refused(lambda: agent.get_xfer_descs([(Row(), 8, 0)], "DRAM"), Mistake, RuntimeError)

class Map(dict):
    def __setitem__(self, key, value):
        raise Mistake()

agent.send_notif("here", b"one")
try:
    while True:
        found = agent.agent.getNotifs(Map())
        if found:
            break
except Mistake:
    pass
finish(agent.make_prepped_xfer("READ", left, [0], right, [0]))
""",
    "tensors": """
import types

class Tensor:
    device = "cpu"

    def __init__(self):
        self.memory = np.zeros(4096, dtype=np.uint8)

    data_ptr = lambda self: self.memory.ctypes.data
    numel = lambda self: 4096
    element_size = lambda self: 1
    is_contiguous = lambda self: True
    get_device = lambda self: -1

sys.modules["torch"] = types.ModuleType("torch")
sys.modules["torch"].Tensor = Tensor
one = Tensor()
gone = weakref.ref(one.memory)
kept = agent.register_memory([one])
blocks = agent.get_xfer_descs([one])
del one
gc.collect()
assert gone() is not None, "registered, so it is kept"
there = agent.get_xfer_descs([(base, 4096, 0)], "DRAM")
handle = agent.initialize_xfer("WRITE", there, blocks, "here")
finish(handle)
assert gone().tobytes() == memory[:512].tobytes()
agent.deregister_memory(kept)
refused(lambda: agent.initialize_xfer("WRITE", there, blocks, "here"), b.nixlNotFoundError)
agent.release_xfer_handle(handle)
del kept, blocks, handle
gc.collect()
assert gone() is None
""",
    "a fork": """
handle = agent.make_prepped_xfer("READ", left, range(8), right, range(8), b"note")
finish(handle)
child = os.fork()
if child == 0:
    code = 0
    try:
        for call in (lambda: agent.transfer(handle), lambda: agent.check_xfer_state(handle),
                     agent.get_agent_metadata, lambda: agent.send_notif("here", b""), agent.get_new_notifs,
                     lambda: agent.make_prepped_xfer("READ", left, [0], right, [0])):
            refused(call, b.nixlNotAllowedError)
        agent.release_xfer_handle(handle)
        del handle, agent, left, right
        gc.collect()
        mine = nixl_agent("child", nixl_agent_config(backends=["UCX"]))
        mine.register_memory([(base, memory.nbytes, 0, "")], "DRAM")
        one, two = (mine.get_xfer_descs([(base + at, 8, 0)], "DRAM") for at in (0, half))
        mine.transfer(mine.initialize_xfer("READ", one, two, "child"))
    except BaseException:
        import traceback
        traceback.print_exc()
        code = 3
    sys.stdout.flush()
    os._exit(code)
assert os.waitpid(child, 0)[1] == 0
memory[half // 8 :] += 7
finish(handle)
assert (memory[: half // 8] == memory[half // 8 :]).all()
""",
    "an exit with transfers active": """
for _ in range(200):
    handle = agent.make_prepped_xfer("READ", left, range(8), right, range(8), b"note")
    agent.transfer(handle)
    kept = [handle, agent]
    kept.append(kept)
sys.exit(0)
""",
    "an exit in the middle of threads": """
def work():
    while True:
        finish(agent.make_prepped_xfer("READ", left, range(8), right, range(8), b"note"))

for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
agent.get_new_notifs()
""",
}


@pytest.mark.parametrize("what", NIXL)
def test_nixl_s_calls_take_no_harm(run, what):
    run(COMPAT + NIXL[what])


def test_a_transfer_is_released_while_it_is_active(peer, run):
    run(
        "import os; os.environ['NIXL_RS_BACKENDS'] = 'tcp'"
        + COMPAT
        + """
import json, signal
told = json.loads(sys.argv[1])
agent.add_remote_agent(bytes.fromhex(told["metadata"]))
target = np.zeros(1 << 20, dtype=np.uint8)
held = agent.register_memory([(target.ctypes.data, 1 << 20, 0, "")], "DRAM")
handle = agent.initialize_xfer(
    "READ",
    agent.get_xfer_descs([(target.ctypes.data, 1 << 20, 0)], "DRAM"),
    agent.get_xfer_descs([(told["address"], 1 << 20, 0)], "DRAM"),
    "peer",
)
finish(handle)
assert target.any()
os.kill(told["pid"], signal.SIGSTOP)
stat = lambda task: open(f"/proc/{told['pid']}/task/{task}/stat").read().rpartition(")")[2].split()[0]
while any(stat(task) != "T" for task in os.listdir(f"/proc/{told['pid']}/task")):
    pass
assert agent.transfer(handle) == "PROC"
refused(lambda: agent.transfer(handle), b.nixlRepostActiveError)
refused(lambda: agent.get_xfer_telemetry(handle), b.nixlNoTelemetryError)
agent.release_xfer_handle(handle)
refused(lambda: agent.check_xfer_state(handle), b.nixlInvalidParamError)
os.kill(told["pid"], signal.SIGCONT)
# Waits until nothing writes to it any more.
agent.deregister_memory(held)
""",
        stopped(peer),
    )
