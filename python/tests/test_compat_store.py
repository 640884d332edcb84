"""The package `nixl` and NIXL's settings: metadata through etcd, the file, the other variables."""

import os
import shutil
import socket
import subprocess
import sys

import pytest

from conftest import HERE
from nixl_rs import _native, compat
from test_compat import REAL, environment

PROGRAM = HERE / "store_peer.py"
OURS = os.pathsep.join([*filter(None, sys.path), compat.DIRECTORY])


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    """Where an etcd server listens."""
    if not hasattr(_native, "_Store"):
        pytest.skip("etcd: the module was built without it, as there is no protoc")
    if not shutil.which("etcd"):
        pytest.skip("etcd: no etcd server (Debian package etcd-server)")
    client, peer = free_ports(2)
    here, others = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    process = subprocess.Popen(
        ["etcd", "--data-dir", str(tmp_path_factory.mktemp("etcd"))]
        + ["--listen-client-urls", here, "--advertise-client-urls", here]
        + ["--listen-peer-urls", others, "--initial-advertise-peer-urls", others]
        + ["--initial-cluster", f"default={others}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not answers(client):
        assert process.poll() is None, "etcd ended"
    yield here
    process.kill()
    process.wait()


class Worker:
    """store_peer.py on ours or on real NIXL; does what it is told, one line each."""

    def __init__(self, name, real=False, **variables):
        if real:
            variables = {"PYTHONPATH": "", **variables}
        else:
            variables = {"PYTHONPATH": OURS, **variables}
        self.process = subprocess.Popen(
            [str(REAL) if real else sys.executable, str(PROGRAM), name],
            env=environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self.answer()

    def answer(self):
        for line in self.process.stdout:
            # Logs go to standard output too.
            if line.startswith("= "):
                return line[2:].strip()
        raise AssertionError(f"the worker ended: {self.process.wait()}")

    def ask(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def workers():
    started = []

    def start(*args, **kwargs):
        started.append(Worker(*args, **kwargs))
        return started[-1]

    yield start
    for one in started:
        one.end()


def test_agents_find_one_another_through_etcd(etcd, workers):
    prefill = workers("prefill", NIXL_ETCD_ENDPOINTS=etcd)
    # Asked for before it is there.
    decode = workers("decode", NIXL_ETCD_ENDPOINTS=f"{etcd};{etcd}")
    assert decode.ask("fetch", "prefill") == "None"
    assert prefill.ask("send") == "None"
    assert decode.ask("loaded", "prefill") == "True"
    assert decode.ask("pull", "prefill", prefill.address) == "0 wrong"
    # Those of another namespace do not see it.
    stranger = workers("stranger", NIXL_ETCD_ENDPOINTS=etcd, NIXL_ETCD_NAMESPACE="/elsewhere")
    assert stranger.ask("fetch", "prefill") == "None"
    assert prefill.ask("invalidate") == "None"
    assert decode.ask("gone", "prefill") == "True"
    assert stranger.ask("has", "prefill") == "False"


def test_part_of_the_memory_has_a_label(etcd, workers):
    prefill = workers("half", NIXL_ETCD_ENDPOINTS=etcd)
    decode = workers("decode", NIXL_ETCD_ENDPOINTS=etcd)
    assert prefill.ask("partial") == "nixlInvalidParamError"
    assert prefill.ask("partial", "first") == "None"
    assert decode.ask("fetch", "half", "first") == "None"
    assert decode.ask("loaded", "half") == "True"
    assert decode.ask("pull", "half", prefill.address) == "0 wrong"


def test_a_dead_process_is_forgotten(etcd, workers):
    prefill = workers("mortal", NIXL_ETCD_ENDPOINTS=etcd)
    decode = workers("decode", NIXL_ETCD_ENDPOINTS=etcd)
    prefill.ask("send")
    decode.ask("fetch", "mortal")
    assert decode.ask("loaded", "mortal") == "True"
    prefill.end()
    # When its lease runs out.
    assert decode.ask("gone", "mortal") == "True"


def test_what_was_begun_is_done_at_exit(etcd, workers):
    prefill = workers("leaving", NIXL_ETCD_ENDPOINTS=etcd)
    decode = workers("decode", NIXL_ETCD_ENDPOINTS=etcd)
    prefill.ask("send")
    decode.ask("fetch", "leaving")
    assert decode.ask("loaded", "leaving") == "True"
    prefill.process.stdin.write("invalidate\nexit\n")
    prefill.process.stdin.close()
    assert prefill.process.wait(30) == 0
    assert decode.ask("gone", "leaving") == "True"


@pytest.mark.parametrize("ours_reads", [True, False])
def test_real_nixl_reads_it_too(etcd, workers, ours_reads):
    if not REAL.exists():
        pytest.skip("nixl: no real NIXL below target/ucx/nixl; `cargo xtask ucx` gets it")
    # The library that real NIXL brings.
    libucp = next((REAL.parents[2] / "lib").glob("libucp*.so*"))
    ucx = {"NIXL_RS_BACKENDS": "ucx", "NIXL_RS_UCX_LIB": str(libucp)}
    # Names of their own: what a killed worker published is there for a while.
    name, other = f"source-{ours_reads}", f"target-{ours_reads}"
    source = workers(name, real=ours_reads, NIXL_ETCD_ENDPOINTS=etcd, **({} if ours_reads else ucx))
    target = workers(other, real=not ours_reads, NIXL_ETCD_ENDPOINTS=etcd, **(ucx if ours_reads else {}))
    assert source.ask("send") == "None"
    assert target.ask("fetch", name) == "None"
    assert target.ask("loaded", name) == "True"
    assert target.ask("pull", name, source.address) == "0 wrong"
    assert source.ask("invalidate") == "None"
    assert target.ask("gone", name) == "True"


def test_a_store_that_is_away_is_said_in_the_log(workers):
    if not hasattr(_native, "_Store"):
        pytest.skip("etcd: the module was built without it, as there is no protoc")
    (port,) = free_ports(1)
    worker = workers("lonely", NIXL_ETCD_ENDPOINTS=f"127.0.0.1:{port}")
    assert worker.ask("send") == "None"
    assert worker.ask("fetch", "nobody") == "None"
    assert worker.ask("has", "nobody") == "False"


def test_without_a_store_an_address_is_needed(workers):
    worker = workers("plain")
    for call in ("send", "partial x", "fetch nobody", "invalidate"):
        assert worker.ask(call) == "nixlInvalidParamError"


def outcome(program, **variables):
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(PYTHONPATH=OURS, **variables),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


TELEMETRY = """
import numpy as np
from nixl._api import nixl_agent, nixl_agent_config, nixlBind
agent = nixl_agent("a", nixl_agent_config(backends=["UCX"]))
memory = np.arange(256, dtype=np.uint8)
agent.register_memory([(memory.ctypes.data, 256, 0, "")], "DRAM")
one, other = ([(memory.ctypes.data + at, 128, 0)] for at in (0, 128))
handle = agent.initialize_xfer(
    "READ", agent.get_xfer_descs(one, "DRAM"), agent.get_xfer_descs(other, "DRAM"), "a")
state = agent.transfer(handle)
while state != "DONE":
    state = agent.check_xfer_state(handle)
assert memory.tolist() == [*range(128, 256)] * 2
try:
    print("told", agent.get_xfer_telemetry(handle).totalBytes)
except nixlBind.nixlNoTelemetryError as error:
    print("refused", error)
"""
TOLD, REFUSED = "told 128\n", "refused NIXL_ERR_NO_TELEMETRY\n"


@pytest.mark.parametrize("value, said", [("y", TOLD), ("1", TOLD), ("no", REFUSED), (None, REFUSED)])
def test_telemetry_is_switched_by_its_variable(value, said):
    variables = {"NIXL_TELEMETRY_ENABLE": value} if value else {}
    assert outcome(TELEMETRY, NIXL_LOG_LEVEL="ERROR", **variables) == said


def test_settings_stand_in_the_file_too(tmp_path):
    file = tmp_path / "nixl.cfg"
    file.write_text("NIXL_TELEMETRY_ENABLE = true\n")
    named = {"NIXL_CONFIG_FILE": str(file), "NIXL_LOG_LEVEL": "ERROR"}
    assert outcome(TELEMETRY, **named) == TOLD
    # The environment comes first.
    assert outcome(TELEMETRY, NIXL_TELEMETRY_ENABLE="n", **named) == REFUSED


@pytest.mark.parametrize("text", [None, "not = = toml", "NIXL_TELEMETRY_ENABLE = [1]"])
def test_a_file_that_is_none_is_refused(tmp_path, text):
    file = tmp_path / "nixl.cfg"
    if text is not None:
        file.write_text(text)
    program = """
from nixl._api import nixl_agent, nixlBind
try:
    nixl_agent("a")
except nixlBind.nixlInvalidParamError as error:
    print(error.__cause__)
"""
    said = outcome(program, NIXL_CONFIG_FILE=str(file))
    assert "NIXL_CONFIG_FILE" in said and str(file) in said


def test_variables_of_what_is_not_there_change_nothing(tmp_path):
    away = str(tmp_path / "nowhere")
    ignored = dict.fromkeys(("NIXL_PLUGIN_DIR", "NIXL_TELEMETRY_DIR", "NIXL_TRACE_BACKENDS"), away)
    ignored.update(
        NIXL_TELEMETRY_EXPORTER="prometheus",
        NIXL_TELEMETRY_PROMETHEUS_PORT="1",
        NIXL_TELEMETRY_BUFFER_SIZE="0",
        NIXL_TCPSTORE_ENDPOINT="127.0.0.1:1",
        NIXL_UCX_SGL_ENABLE="maybe",
        NIXL_LIBFABRIC_MAX_BW_PER_DRAM_SEG="x",
        NIXL_DEBUG_LOGGING="yes",
        NIXL_DISABLE_CUDA_ADDR_WA="1",
    )
    assert outcome(TELEMETRY, NIXL_LOG_LEVEL="ERROR", **ignored) == REFUSED
    assert not os.path.exists(away)


@pytest.mark.parametrize(
    "level, told",
    [("TRACE", True), ("DEBUG", True), ("INFO", True), (None, True), ("WARN", False), ("fatal", False)],
)
def test_the_level_of_the_log(level, told):
    program = 'from nixl._api import nixl_agent\nnixl_agent("a", None)\n'
    said = outcome(program, **({"NIXL_LOG_LEVEL": level} if level else {}))
    assert ("Backend UCX was instantiated" in said) is told
    assert ("Initialized NIXL agent: a" in said) is told
