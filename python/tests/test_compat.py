"""The package `nixl`: the same program on ours and on real NIXL, test for test."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from conftest import HERE
from nixl_rs import compat

ENGINE = HERE / "engine.py"
REAL = pathlib.Path(
    os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target"), "ucx/nixl/venv/bin/python"
)


def environment(**more):
    """Ours, without what would reach into real NIXL or UCX."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("NIXL_", "UCX_"))}
    return {**ours, **more}


def on_ours(*args, program=ENGINE):
    path = os.pathsep.join(filter(None, [*sys.path, compat.DIRECTORY]))
    return outcome([sys.executable, program], args, PYTHONPATH=path)


def on_real(*args, program=ENGINE):
    if not REAL.exists():
        pytest.skip("nixl: no real NIXL below target/ucx/nixl; `cargo xtask ucx` gets it")
    # Over shared memory it does not notice the end of a peer.
    return outcome([REAL, program], args, UCX_TLS="tcp", PYTHONPATH="")


def outcome(command, args, **more):
    done = subprocess.run(
        [*map(str, command), *args],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines() if line[:1] in "{["]


@pytest.fixture(scope="module")
def ours():
    return on_ours()


def checks():
    return [
        line.split()[1].partition("(")[0]
        for mark, line in zip(*(lambda t: (t, t[1:]))(ENGINE.read_text().splitlines()))
        if mark == "@check"
    ]


def test_every_check_runs_on_ours(ours):
    assert [one["check"] for one in ours] == checks()
    failed = [one for one in ours if "failed" in one]
    assert not failed


def test_real_nixl_gives_the_same_results(ours):
    real = on_real()
    assert len(real) == len(checks())
    for here, there in zip(ours, real):
        assert here == there


def test_serialized_lists_are_read_both_ways():
    (ours,) = on_ours("--lists")
    expected = [on_ours("--read", text)[0] for text in ours]
    assert expected[0] == ["nixlXferDList", 0, [[4096, 64, 0], [1 << 63, 32, 1]]]
    assert expected[1] == ["nixlXferDList", 1, []]
    assert expected[2] == ["nixlRegDList", 1, [[4096, 64, 0, "meta"], [8192, 32, 1, ""]]]
    (real,) = on_real("--lists")
    for here, there, rows in zip(ours, real, expected):
        assert on_real("--read", here) == [rows]
        assert on_ours("--read", there) == [rows]


BAD = {
    "a function": b"cos\nsystem\n(S'true'\ntR.",
    "another class": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",
    "another name of ours": b"\x80\x04\x8c\x0enixl._bindings\x8c\x09nixlAgent\x93.",
    "junk": b"junk",
    "a list cut short": None,
    "a list of another kind": None,
}


@pytest.mark.parametrize("kind", BAD)
def test_nothing_but_lists_is_unpickled(kind):
    program = """
import pickle, sys
from nixl._api import nixl_agent, nixl_agent_config, nixlBind as b
agent = nixl_agent("a", nixl_agent_config(backends=[]))
data = bytes.fromhex(sys.argv[1])
good = agent.get_serialized_descs(b.nixlXferDList(b.DRAM_SEG, [(1, 2, 3)]))
if sys.argv[2] == "a list cut short":
    data = good.replace(b"n\\x08", b"n\\x09")
if sys.argv[2] == "a list of another kind":
    data = good.replace(b"nixlXferDList", b"nixlRegDList\\x00")
try:
    made = agent.deserialize_descs(data)
except (pickle.UnpicklingError, ValueError, EOFError, KeyError, IndexError) as error:
    sys.exit(0)
sys.exit(f"unpickled {made}")
"""
    data = (BAD[kind] or b"").hex()
    path = os.pathsep.join([*filter(None, sys.path), compat.DIRECTORY])
    command = [sys.executable, "-c", program, data, kind]
    done = subprocess.run(
        command, env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def module_path():
    command = [sys.executable, "-m", "nixl_rs.compat"]
    path = os.pathsep.join(filter(None, sys.path))
    return [
        subprocess.run(
            [*command, *args],
            env=environment(PYTHONPATH=path),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.strip()
        for args in ([], ["--aliases"])
    ]


def test_the_module_prints_what_goes_on_the_path(run):
    plain, aliases = module_path()
    assert plain == compat.DIRECTORY and aliases.split(os.pathsep)[0] == plain
    run(
        f"""
import importlib.util, sys
sys.path[:0] = {aliases.split(os.pathsep)!r}
# Looking for it brings nothing in.
assert importlib.util.find_spec("nixl") and "nixl" not in sys.modules
import nixl_cu12, nixl_cu13._bindings
from nixl_cu12._api import nixl_agent, nixlBind
import nixl, nixl._utils, nixl.logging
assert nixl_agent is nixl.nixl_agent is nixl_cu12.nixl_agent
assert nixl_cu13._bindings is nixl._bindings is nixlBind
assert nixl.nixlBackendError.__mro__[1] is Exception and "torch" not in sys.modules
"""
    )


def test_memory_by_address_and_the_lower_layer(run):
    run(
        f"""
import sys, time
sys.path[:0] = [{compat.DIRECTORY!r}]
import nixl._utils as u
from nixl._api import nixlBind as b

agent = b.nixlAgent("low", b.nixlAgentConfig())
handle = agent.createBackend("UCX", {{}})
first, second = u.malloc_passthru(10000), u.malloc_passthru(10000)
assert first % 4096 == 0
u.ba_buf(first, 10000)
descs = b.nixlRegDList(b.DRAM_SEG, [(first, 10000, 0, ""), (second, 10000, 0, "")])
assert agent.registerMem(descs, [handle]) == b.NIXL_SUCCESS
left = agent.prepXferDlist(b.nixlXferDList(b.DRAM_SEG, [(second, 10000, 0)]), [handle])
right = agent.prepXferDlist("low", b.nixlXferDList(b.DRAM_SEG, [(first, 10000, 0)]))
request = agent.makeXferReq(b.NIXL_READ, left, [0], right, [0], "note")
state = agent.postXferReq(request)
while state == b.NIXL_IN_PROG:
    state = agent.getXferStatus(request)
u.verify_transfer(first, second, 10000)
notifs = {{}}
while not notifs:
    notifs = agent.getNotifs(notifs)
assert notifs == {{"low": [b"note"]}}
assert agent.releaseXferReq(request) == b.NIXL_SUCCESS
for call in (agent.getXferStatus, agent.postXferReq, agent.releaseXferReq):
    try:
        call(request)
        sys.exit("a released handle was taken")
    except b.nixlInvalidParamError:
        pass
try:
    agent.getXferTelemetry(agent.makeXferReq(b.NIXL_READ, left, [0], right, [0]))
    sys.exit("telemetry was not asked for")
except b.nixlNoTelemetryError:
    pass
assert agent.deregisterMem(descs) == b.NIXL_SUCCESS
u.free_passthru(first)
u.free_passthru(second)
"""
    )


def test_metadata_calls_reach_a_listener(run):
    run(
        f"""
import sys, time
import numpy as np
sys.path[:0] = [{compat.DIRECTORY!r}]
from nixl._api import nixl_agent, nixl_agent_config

def until(check):
    end = time.monotonic() + 30
    while not check():
        assert time.monotonic() < end
        time.sleep(0.001)

there = nixl_agent("there", nixl_agent_config(enable_listen_thread=True, listen_port=0))
port = there.agent._port
here = nixl_agent("here")
theirs, mine = np.full(4096, 7, np.uint8), np.zeros(4096, np.uint8)
there.register_memory([(theirs.ctypes.data, 4096, 0, "")], "DRAM")
here.register_memory([(mine.ctypes.data, 4096, 0, "")], "DRAM")
here.fetch_remote_metadata("there", "127.0.0.1", port)
until(lambda: here.check_remote_metadata("there"))
here.send_local_metadata("127.0.0.1", port)
until(lambda: there.check_remote_metadata("here"))
handle = here.initialize_xfer(
    "READ",
    here.get_xfer_descs([(mine.ctypes.data, 4096, 0)], "DRAM"),
    here.get_xfer_descs([(theirs.ctypes.data, 4096, 0)], "DRAM"),
    "there",
)
here.transfer(handle)
until(lambda: here.check_xfer_state(handle) == "DONE")
assert (mine == 7).all()
here.send_local_metadata("127.0.0.1", 1)
"""
    )
