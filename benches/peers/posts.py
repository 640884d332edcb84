#!/usr/bin/env python3
"""Measures what posting costs for each descriptor: this library's UCX backend beside NIXL.

Both use the same kind of transport inside UCX, `cma` or `tcp`, and the libucp of the NIXL wheel;
blocks are scattered, so that nothing can be merged. Programs take turns, round by round. NIXL
moves what it can inside of the call that posts, so the time until everything is there stands
beside the post.
"""

import argparse
import itertools
import statistics
import sys

sys.dont_write_bytecode = True

import peers
import run as report

COUNTS = [1, 256, 16_000, 65_536]
BLOCK = 2048
TRANSPORTS = ["cma", "tcp"]
OPS = ["read", "write"]
# What stands between these two lines in the document is the last table.
MARKS = ("<!-- printed by benches/peers/posts.py -->", "<!-- end of posts -->")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--op", choices=OPS, help="measure this only")
    parser.add_argument("--write", action="store_true", help="put it in docs/performance.md")
    return parser.parse_args()


def command(program, transport, op, count, seed):
    """The command line that measures it."""
    workload = peers.Workload("posts", BLOCK, count)
    # NIXL's cost decides: both make as many passes.
    passes = peers.iterations("nixl-tcp" if transport == "tcp" else "nixl-ucx", workload)
    call = ["--op", op, "--block", BLOCK, "--count", count, "--layout", "random"]
    call += ["--seed", seed, "--iters", min(passes, 200)]
    if program == "nixl":
        script = peers.ROOT / "benches" / "peers" / "nixl_peer.py"
        tls = "tcp" if transport == "tcp" else "auto"
        call = [peers.PYTHON, script, "--tls", tls, "--timeout", peers.TIMEOUT - 20, *call]
    else:
        library = peers.VENV.parent / "lib"
        tls = "tcp" if transport == "tcp" else "cma,tcp,self"
        call = [f"NIXL_RS_UCX_LIB={library}", f"NIXL_RS_UCX_TLS={tls}", peers.OURS, "bench", *call]
        call = ["env", *call, "--json", "--memory", "caller", "--backend", "ucx", "--threads", 1]
    return [str(word) for word in call]


def post(record):
    found = record["post_us"]
    return found["p50"] if isinstance(found, dict) else found


def measure(args):
    """Records by (transport, operation, count, program), one for each round."""
    ops = [args.op] if args.op else OPS
    cases = list(itertools.product(TRANSPORTS, ops, COUNTS, ("ours", "nixl")))
    records = {}
    for number in range(1, args.rounds + 1):
        for transport, op, count, program in cases:
            found = peers.measure(command(program, transport, op, count, number))
            name = f"{transport} {op} {count} {program} {found.get('path', '')}"
            if "error" in found:
                sys.exit(f"{name}: {found['error']}")
            records.setdefault((transport, op, count, program), []).append(found)
            report.say(f"[{number}/{args.rounds}] {name}: post {post(found):.1f} µs")
    return records


def table(args, records):
    lines = ["| transport | op | blocks | post: ours | NIXL | /NIXL | done: ours | NIXL | /NIXL |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for transport, op, count in dict.fromkeys(key[:3] for key in records):
        cells = [transport, op, f"{count:,}"]
        ours, theirs = (records[transport, op, count, p] for p in ("ours", "nixl"))
        for value in (post, lambda record: record["total_us"]["p50"]):
            pairs = [(value(a) / count, value(b) / count) for a, b in zip(ours, theirs)]
            medians = [statistics.median(side) for side in zip(*pairs)]
            ratio = statistics.median(a / b for a, b in pairs)
            cells += [*(f"{number:.3f}" for number in medians), f"{ratio:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    facts = [*report.machine(), f"{args.rounds} rounds, {BLOCK} bytes a block"]
    return "\n".join([*(f"- {fact}" for fact in facts), "", *lines]) + "\n"


def main():
    args = parse()
    have = peers.set_up(report.say, {"ours", "nixl"})
    if not (have["ours"] and have["nixl"]):
        sys.exit("both this library and NIXL are needed")
    text = table(args, measure(args))
    if args.write:
        before, _, rest = report.DOCUMENT.read_text().partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        parts = [before, MARKS[0], "\n\n", text, "\n", MARKS[1], after]
        report.DOCUMENT.write_text("".join(parts))
    print(text)


if __name__ == "__main__":
    main()
