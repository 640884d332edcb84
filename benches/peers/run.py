#!/usr/bin/env python3
"""Measures this library beside NIXL and beside plain programs; prints one report of ratios.

Sets everything up first: builds `limit` and `nixl`, installs the NIXL wheel in a virtual
environment under the target directory. Programs take turns, round by round, so that whatever
else the machine does hits all of them alike. Values are medians over the rounds of each run's
median; ratios are medians of the ratios within a round. Caches are cold at the start of every
pass, but for the single small blocks.
"""

import argparse
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time

sys.dont_write_bytecode = True

import peers
import table

DOCUMENT = peers.ROOT / "docs" / "performance.md"
# What follows this line in the document is the last report.
MARK = "<!-- printed by benches/peers/run.py -->"


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2 rounds of 4 workloads")
    parser.add_argument("--rounds", type=int, help="default 5")
    parser.add_argument("--only", choices=peers.PATHS, help="measure this path only")
    parser.add_argument("--op", choices=["read", "write"], help="measure this only")
    names = [workload.name for workload in peers.WORKLOADS]
    parser.add_argument("--workload", choices=names, action="append")
    parser.add_argument("--streams", type=int, default=2, help="TCP streams (2)")
    parser.add_argument("--write", action="store_true", help="put it in docs/performance.md")
    parser.add_argument("--without", choices=["ours", "nixl"], action="append", default=[])
    return parser.parse_args()


def say(line):
    print(line, file=sys.stderr, flush=True)


def words(path):
    try:
        return pathlib.Path(path).read_text().strip()
    except OSError:
        return "unknown"


def machine():
    """What the figures depend on; no name of the machine."""
    cpu = {}
    for line in subprocess.run(["lscpu"], capture_output=True, text=True).stdout.splitlines():
        key, _, value = line.partition(":")
        cpu.setdefault(key.strip(), value.strip())
    memory = words("/proc/meminfo").split()
    pages = words("/sys/kernel/mm/transparent_hugepage/enabled")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=peers.ROOT, capture_output=True, text=True
    )
    virtual = cpu.get("Hypervisor vendor")
    kind = f" (virtual, {virtual})" if virtual else ""
    return [
        f"{cpu.get('Model name', platform.machine())}, {os.cpu_count()} CPUs{kind}",
        f"L2 {cpu.get('L2 cache', '?')}, L3 {cpu.get('L3 cache', '?')}",
        f"{int(memory[1]) >> 20} GiB of memory, huge pages: {pages}",
        f"Linux {platform.release()}, Python {platform.python_version()}, {peers.NIXL}",
        f"commit {commit.stdout.strip() or 'unknown'}",
    ]


def plan(args, have):
    """What to run, in order: (round, workload, operation, program)."""
    quick = peers.QUICK if args.quick else [w.name for w in peers.WORKLOADS]
    chosen = [w for w in peers.WORKLOADS if w.name in (args.workload or quick)]
    paths = [args.only] if args.only else list(peers.PATHS)
    ops = [args.op] if args.op else ["read", "write"]
    rounds = args.rounds or (2 if args.quick else 5)
    steps = [
        (number, workload, op, program)
        for number in range(1, rounds + 1)
        for workload in chosen
        for op in ops
        for program in peers.programs(workload, paths, have)
    ]
    return steps, paths, ops, rounds


def measure(steps, streams, log):
    """Runs the steps; an interrupt ends them early."""
    records = []
    for done, (number, workload, op, program) in enumerate(steps, 1):
        try:
            result = peers.measure(peers.command(program, workload, op, number, streams))
        except KeyboardInterrupt:
            break
        record = {**result, "program": program, "workload": workload.name}
        record |= {"op": op, "round": number}
        records.append(record)
        log.write(json.dumps(record) + "\n")
        log.flush()
        if "error" in result:
            outcome = result["error"]
        else:
            outcome = f"{result['gbps']:.2f} GB/s, {result['total_us']['p50']:.0f} µs"
        say(f"[{done}/{len(steps)}] {workload.name} {op} {number} {program}: {outcome}")
    return records


def main():
    args = parse()
    peers.WORK.mkdir(parents=True, exist_ok=True)
    wanted = {"ours", "nixl"} - set(args.without)
    have = peers.set_up(say, wanted)
    steps, paths, ops, rounds = plan(args, have)
    before, begun = os.getloadavg(), time.monotonic()
    iperf = []
    if "tcp" in paths:
        iperf = [rate for _ in range(rounds) if (rate := peers.iperf3(args.streams))]
    with open(peers.WORK / "results.jsonl", "w") as log:
        records = measure(steps, args.streams, log)
    missing = [name for name in sorted(wanted) if not have[name]]
    minutes = (time.monotonic() - begun) / 60
    loads = f"load average {before[0]:.1f} before, {os.getloadavg()[0]:.1f} after"
    facts = [*machine(), f"{rounds} rounds in {minutes:.0f} minutes, {loads}"]
    if before[0] > os.cpu_count() / 4:
        facts.append("**busy machine: wall-clock ratios say little**")
    head = [f"`{shlex.join(['benches/peers/run.py', *sys.argv[1:]])}`"]
    head.append("\n".join(f"- {fact}" for fact in facts))
    body = table.report(records, paths, ops, iperf, args.streams, missing)
    report = "\n\n".join([*head, body]) + "\n"
    (peers.WORK / "report.md").write_text(report)
    if args.write:
        text, _, _ = DOCUMENT.read_text().partition(MARK)
        DOCUMENT.write_text(f"{text}{MARK}\n\n{report}")
    print(report)
    say(f"written: {peers.WORK / 'report.md'}, {peers.WORK / 'results.jsonl'}")
    sys.exit(any("error" in record for record in records))


if __name__ == "__main__":
    main()
