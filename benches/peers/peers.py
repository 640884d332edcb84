"""What is measured: the workloads, the programs, and how each is set up and called."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILT = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
WORK = BUILT / "peers"
LIMIT = BUILT / "release" / "limit"
OURS = BUILT / "release" / "nixl"
# The tests use it as well.
VENV = BUILT / "ucx" / "nixl" / "venv"
PYTHON = VENV / "bin" / "python"
NIXL = "nixl-cu12==1.5.1"
TIMEOUT = 150


@dataclasses.dataclass(frozen=True)
class Workload:
    name: str
    block: int
    count: int
    layout: str = "random"

    @property
    def bytes(self):
        return self.block * self.count

    @property
    def evicted(self):
        """Bytes of other memory to read before each pass: none where latency counts."""
        return 2 * last_level_cache() if self.count > 1 else 0


WORKLOADS = [
    Workload("llama8b-4k", 32 << 10, 16000),
    Workload("mla-4k", 18 << 10, 15250),
    Workload("page1-1k", 2 << 10, 65536),
    Workload("4096x4K", 4 << 10, 4096),
    Workload("64x64K adj", 64 << 10, 64, "adjacent"),
    Workload("16x4M adj", 4 << 20, 16, "adjacent"),
    Workload("16k x32K adj", 32 << 10, 16000, "adjacent"),
    Workload("small 8 B", 8, 1),
    Workload("small 4 KiB", 4 << 10, 1),
]
QUICK = ["llama8b-4k", "page1-1k", "64x64K adj", "small 8 B"]

# The workload on which a second copy thread is tried.
THREADED = "llama8b-4k"

# Path: its limit, the peer, ours.
PATHS = {
    "owned": ("limit-memcpy", "nixl-ucx", "ours-owned"),
    "caller": ("limit-cma", "nixl-ucx", "ours-caller"),
    "tcp": ("limit-rawsock", "nixl-tcp", "ours-tcp"),
}


def last_level_cache():
    """Bytes of the largest cache of the first CPU."""
    sizes = pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((int(path.read_text().rstrip("K\n")) << 10 for path in sizes), default=32 << 20)


def programs(workload, paths, have):
    """Names of the programs to run, each once, those first that the others are held against."""
    names = [name for column in zip(*(PATHS[path] for path in paths)) for name in column]
    if workload.name == THREADED:
        same_host = [PATHS[path] for path in paths if path != "tcp"]
        names += [f"{name}-2t" for path in same_host for name in path if "nixl" not in name]
    names = list(dict.fromkeys(names))
    return [name for name in names if have[name.split("-")[0]]]


def iterations(program, workload):
    """Passes that take about a second, at least three."""
    gigabytes, most = {"nixl-tcp": (0.5, 500), "nixl-ucx": (1.5, 5000)}.get(program, (3, 20000))
    # Whatever the size of a block, NIXL pays a system call or two for it.
    cost = workload.bytes + workload.count * (4000 if program.startswith("nixl") else 500)
    cost += workload.evicted
    return max(3, min(most, int(gigabytes * 1e9 / cost)))


def command(program, workload, op, seed, streams):
    """The command line that measures the workload."""
    kind, _, what = program.partition("-")
    call = ["--op", op, "--block", workload.block, "--count", workload.count]
    call += ["--layout", workload.layout, "--seed", seed]
    call += ["--iters", iterations(program, workload), "--evict", workload.evicted]
    if kind == "limit":
        what, _, more = what.partition("-")
        threads = streams if what == "rawsock" else 2 if more else 1
        call = [LIMIT, "--peer", what, "--threads", threads, *call]
    elif kind == "nixl":
        tls = "tcp" if what == "tcp" else "auto"
        script = pathlib.Path(__file__).with_name("nixl_peer.py")
        call = [PYTHON, script, "--tls", tls, "--timeout", TIMEOUT - 20, *call]
    else:
        call = [OURS, "bench", "--json", *call]
        if what == "tcp":
            call += ["--backend", "tcp", "--memory", "owned"]
            call += ["--streams", streams, "--threads", streams]
        else:
            memory, _, more = what.partition("-")
            call += ["--backend", "ipc", "--memory", memory]
            call += ["--threads", 2 if more else 1]
    return [str(word) for word in call]


def run(call):
    """Output of a command, or the reason why there is none; never waits longer than TIMEOUT."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("UCX_")}
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        call, stdout=pipe, stderr=pipe, text=True, env=env, start_new_session=True
    )
    try:
        out, err = child.communicate(timeout=TIMEOUT)
    except BaseException as error:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            return None, f"took over {TIMEOUT} s"
        raise
    if child.returncode != 0:
        last = (err.strip() or out.strip() or "no output").splitlines()[-1]
        return None, f"exit {child.returncode}: {last}"
    return out, None


def measure(call):
    """The JSON object that a program printed; {"error": ...} if it did not do its work."""
    out, error = run(call)
    if error:
        return {"error": error}
    lines = [line for line in out.splitlines() if line.startswith("{")]
    try:
        result = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        return {"error": "printed no JSON object"}
    if result.get("verified") is not True:
        result["error"] = "wrong bytes arrived"
    return result


def iperf3(streams):
    """GB/s that iperf3 reaches over loopback in two seconds; None where it is not installed."""
    if not shutil.which("iperf3"):
        return None
    port = str(5201 + os.getpid() % 1000)
    server = subprocess.Popen(
        ["iperf3", "-s", "-1", "-p", port, "--forceflush"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        if not any("listening" in line for line in server.stdout):
            return None
        client = ["iperf3", "-c", "127.0.0.1", "-p", port, "-P", str(streams), "-t", "2", "-J"]
        out, error = run(client)
        end = {} if error else json.loads(out)["end"]
        return end["sum_received"]["bits_per_second"] / 8e9 if "sum_received" in end else None
    finally:
        server.kill()
        server.wait()


def set_up(say, wanted):
    """Builds and installs what is missing; which kinds of program there are."""
    say("building the limit programs and nixl")
    build = ["cargo", "build", "--release", "--package"]
    have = {"limit": not subprocess.run([*build, "nixl-peers"], cwd=ROOT).returncode}
    if not have["limit"]:
        sys.exit("the limit programs do not build")
    have["ours"] = "ours" in wanted and ours_built(say, build)
    have["nixl"] = "nixl" in wanted and nixl_installed(say)
    return have


def ours_built(say, build):
    built = not subprocess.run([*build, "nixl-cli"], cwd=ROOT).returncode
    if not built or run([str(OURS), "bench", "--help"])[1]:
        say("ours: not built")
        return False
    return True


def nixl_installed(say):
    marker = VENV / "installed"
    if marker.exists() and marker.read_text() == NIXL:
        return True
    say(f"installing {NIXL} in {VENV}")
    shutil.rmtree(VENV, ignore_errors=True)
    steps = [
        [sys.executable, "-m", "venv", str(VENV)],
        [str(PYTHON), "-m", "pip", "install", "-q", "--no-deps", NIXL, "numpy"],
    ]
    for step in steps:
        if subprocess.run(step).returncode:
            say("NIXL: not installed")
            return False
    marker.write_text(NIXL)
    return True
