#!/usr/bin/env python3
"""Measures what UCX's registration cache would bring: this library with it off, as it comes, and on.

Programs take turns, round by round; a ratio is the median of the ratios within a round. Over `cma`
and `tcp` no device has to pin anything, so registering costs what UCX does by itself; with an
RDMA device (`--tls rc,ud,self`) it is the pinning that a cache saves.
"""

import argparse
import os
import statistics
import sys

sys.dont_write_bytecode = True

import peers
import run as report

# Name, bytes of a block, blocks, what is looked at.
STEPS = [
    ("prepared read, 1 block of 2 KiB, µs", 2048, 1, lambda r: r["total_us"]["p50"]),
    ("prepared read, 256 blocks of 2 KiB, µs", 2048, 256, lambda r: r["total_us"]["p50"]),
    ("registering 64 MiB, µs", 64 << 20, 1, lambda r: r["register_us"]["p50"]),
    ("deregistering 64 MiB, µs", 64 << 20, 1, lambda r: r["deregister_us"]["p50"]),
]


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tls", default="cma,tcp,self")
    return parser.parse_args()


def measure(args, block, count, cache):
    library = peers.BUILT / "ucx" / "wheel" / "lib"
    env = [f"NIXL_RS_UCX_LIB={library}", f"NIXL_RS_UCX_TLS={args.tls}"]
    env.append(f"NIXL_RS_UCX_OPTIONS=RCACHE_ENABLE={cache}")
    call = ["env", *env, peers.OURS, "bench", "--json", "--memory", "caller", "--backend", "ucx"]
    call += ["--block", block, "--count", count, "--iters", max(20, min(2000, (64 << 20) // (block * count)))]
    found = peers.measure([str(word) for word in [*call, "--registrations", 20]])
    if "error" in found:
        sys.exit(found["error"])
    return found


def main():
    args = parse()
    if not peers.set_up(report.say, {"ours"})["ours"]:
        sys.exit("this library does not build")
    lines = ["| | off | on | off/on |", "|---|---:|---:|---:|"]
    for name, block, count, value in STEPS:
        pairs = []
        for number in range(args.rounds):
            order = ("n", "try") if number % 2 else ("try", "n")
            found = {cache: value(measure(args, block, count, cache)) for cache in order}
            pairs.append((found["n"], found["try"]))
        off, on = (statistics.median(side) for side in zip(*pairs))
        ratio = statistics.median(a / b for a, b in pairs)
        lines.append(f"| {name} | {off:.2f} | {on:.2f} | {ratio:.2f} |")
        report.say(lines[-1])
    facts = [*report.machine(), f"{args.tls}, {args.rounds} rounds"]
    facts.append(f"load average {os.getloadavg()[0]:.1f}")
    print("\n".join([*(f"- {fact}" for fact in facts), "", *lines]))


if __name__ == "__main__":
    main()
