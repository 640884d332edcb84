#!/usr/bin/env python3
"""Measures this library's UCX backend beside `ucx_perftest`, on the same libucp and transports.

One block of 64 MiB, and notifications back to back. Both programs get the same: transports,
endpoints that report failures (`-e`), one operation at a time, warm memory of ordinary pages that
was written before (without that `ucx_perftest` reads huge pages of zeros). Ours checks every
byte before and after the timed loop. Programs take turns, round by round; a ratio is the median
of the ratios within a round.
"""

import argparse
import itertools
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True

import peers
import run as report

BLOCK = 64 << 20
PASSES = {"cma": 60, "tcp": 20}
OPS = {"read": ["ucp_get"], "write": ["ucp_put_bw", "-O", "1"]}
ECHOES = 20_000
ECHO_BYTES = 64
# How both wait for messages: name, our `agent.spin_us`, perftest's option.
WAITS = [("as it comes", 50, ["-E", "poll"]), ("blocking", 0, ["-E", "sleep"])]
UCX = peers.BUILT / "ucx"
PORT = 13_000 + os.getpid() % 1000
# What stands between these two lines in the document is the last table.
MARKS = ("<!-- printed by benches/peers/perftest.py -->", "<!-- end of perftest -->")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ucx", choices=["wheel", "debian"], default="wheel")
    parser.add_argument("--only", choices=["bandwidth", "latency"], help="measure this only")
    parser.add_argument("--write", action="store_true", help="put it in docs/performance.md")
    return parser.parse_args()


def debian_tool():
    """Debian's `ucx_perftest`; downloaded if it is not there."""
    into = UCX / "utils"
    tool = into / "usr" / "bin" / "ucx_perftest"
    if not tool.exists():
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True)
        subprocess.run(["apt-get", "-q", "download", "ucx-utils"], cwd=into, check=True)
        package = next(into.glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", package, into], check=True)
    return tool


def tool(ucx):
    """(`ucx_perftest`, the directories that it has to find its libraries in)."""
    libraries = (UCX / ucx / "lib").resolve()
    if not libraries.is_dir():
        sys.exit(f"no {libraries}: cargo xtask ucx gets it")
    if ucx == "debian":
        return debian_tool(), [libraries]
    packages = libraries.parents[1]
    return libraries.parent / "bin" / "ucx_perftest", [libraries, packages / "libucx_cu12.libs"]


def transports(kind):
    return "tcp" if kind == "tcp" else "cma,tcp,self"


class Perftest:
    """`ucx_perftest` between two processes."""

    def __init__(self, ucx):
        self.tool, libraries = tool(ucx)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("UCX_")}
        self.env["LD_LIBRARY_PATH"] = ":".join(map(str, libraries))
        # Ordinary pages, each written once.
        self.env |= {"UCX_ALLOC_PRIO": "heap", "MALLOC_PERTURB_": "165"}
        # As our profile `local`: without it endpoints that report failures do not take CMA.
        self.env["UCX_CMA_MEMORY_INVALIDATE"] = "y"
        self.env["UCX_WARN_UNUSED_ENV_VARS"] = "n"
        self.port = PORT

    def run(self, kind, options):
        """The line of final figures, as numbers."""
        self.port += 1
        env = {**self.env, "UCX_TLS": transports(kind)}
        base = [self.tool, "-p", self.port, "-e", "-f", *options]
        server = self.start(base, env)
        try:
            # It says nothing when it listens.
            time.sleep(0.3)
            client = [str(w) for w in [*base, "127.0.0.1"]]
            done = subprocess.run(
                client, env=env, capture_output=True, text=True, timeout=peers.TIMEOUT
            )
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        last = done.stdout.strip().splitlines()[-1:]
        # "inf" stands where the last interval had no operation.
        found = re.findall(r"\d+\.?\d*|inf", last[0]) if last else []
        if done.returncode or len(found) < 7:
            sys.exit(f"ucx_perftest {options}: {done.stderr.strip() or done.stdout.strip()}")
        return [float(number) for number in found[-8:]]

    def start(self, call, env):
        call = [str(word) for word in call]
        out = subprocess.DEVNULL
        return subprocess.Popen(call, env=env, stdout=out, stderr=out, start_new_session=True)

    def bandwidth(self, kind, op):
        """GB/s over the whole run."""
        options = ["-t", *OPS[op], "-s", BLOCK, "-n", PASSES[kind], "-w", 3]
        # Mean latency over the run: microseconds for each block.
        return BLOCK / self.run(kind, options)[3] / 1e3

    def latency(self, how):
        """Microseconds for one way, the median."""
        options = ["-t", "ucp_am_lat", "-s", ECHO_BYTES, "-n", ECHOES, "-w", 500, *how]
        return self.run("tcp", options)[1]


class Ours:
    """`nixl bench` over the same libucp."""

    def __init__(self, ucx):
        self.library = (UCX / ucx / "lib").resolve()

    def run(self, kind, options, spin=50):
        env = [f"NIXL_RS_UCX_LIB={self.library}", f"NIXL_RS_UCX_TLS={transports(kind)}"]
        env += ["NIXL_RS_UCX_MODE=rma", f"NIXL_RS_AGENT_SPIN_US={spin}"]
        call = ["env", *env, peers.OURS, "bench", "--json", "--count", 1, "--threads", 1]
        call += ["--memory", "caller", "--backend", "ucx", *options]
        found = peers.measure([str(word) for word in call])
        if "error" in found:
            sys.exit(f"{kind} {options}: {found['error']}")
        if found["path"] != f"ucx_{kind}":
            sys.exit(f"{kind} was asked for, {found['path']} was used")
        return found

    def bandwidth(self, kind, op):
        options = ["--op", op, "--block", BLOCK, "--iters", PASSES[kind]]
        return BLOCK / self.run(kind, options)["mean_us"] / 1e3

    def latency(self, spin):
        options = ["--block", 8, "--iters", 10, "--echo", ECHOES]
        return self.run("tcp", options, spin)["notify_us"]["p50"]


def measure(args, ours, theirs):
    """(ours, perftest's) by what was measured, one pair for each round."""
    kinds = ["tcp"] if args.ucx == "debian" else ["cma", "tcp"]
    steps = {}
    if args.only != "latency":
        for kind, op in itertools.product(kinds, OPS):
            name = f"{kind}, {op} of 64 MiB, GB/s"
            steps[name] = (
                lambda kind=kind, op=op: ours.bandwidth(kind, op),
                lambda kind=kind, op=op: theirs.bandwidth(kind, op),
            )
    if args.only != "bandwidth":
        for name, spin, how in WAITS:
            steps[f"tcp, notification, {name}, µs"] = (
                lambda spin=spin: ours.latency(spin),
                lambda how=how: theirs.latency(how),
            )
    found = {name: [] for name in steps}
    for number, (name, pair) in itertools.product(range(1, args.rounds + 1), steps.items()):
        # Neither is always the one that comes second.
        order = (0, 1) if number % 2 else (1, 0)
        values = {which: pair[which]() for which in order}
        found[name].append((values[0], values[1]))
        report.say(f"[{number}/{args.rounds}] {name}: {values[0]:.2f}, perftest {values[1]:.2f}")
    return found


def table(args, found, load):
    lines = ["| | ours | ucx_perftest | ratio | from | to |", "|---|---:|---:|---:|---:|---:|"]
    for name, pairs in found.items():
        medians = [f"{statistics.median(side):.2f}" for side in zip(*pairs)]
        ratios = sorted(a / b for a, b in pairs)
        shown = (statistics.median(ratios), ratios[0], ratios[-1])
        cells = [name, *medians, *(f"{ratio:.2f}" for ratio in shown)]
        lines.append(f"| {' | '.join(cells)} |")
    ucx = {"wheel": "libucx-cu12 1.22.0", "debian": "Debian's UCX 1.13.1"}[args.ucx]
    facts = [*report.machine(), f"{ucx}, {args.rounds} rounds"]
    facts.append(f"load average {load:.1f} before, {os.getloadavg()[0]:.1f} after")
    return "\n".join([*(f"- {fact}" for fact in facts), "", *lines]) + "\n"


def main():
    args = parse()
    load = os.getloadavg()[0]
    have = peers.set_up(report.say, {"ours"})
    if not have["ours"]:
        sys.exit("this library does not build")
    text = table(args, measure(args, Ours(args.ucx), Perftest(args.ucx)), load)
    if args.write:
        before, _, rest = report.DOCUMENT.read_text().partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        parts = [before, MARKS[0], "\n\n", text, "\n", MARKS[1], after]
        report.DOCUMENT.write_text("".join(parts))
    print(text)


if __name__ == "__main__":
    main()
