"""Turns measurements into one Markdown report of at most 80 columns."""

import statistics

from peers import PATHS, THREADED, WORKLOADS

ABSENT = "-"


class Results:
    """Measurements by program, workload and operation, one for each round."""

    def __init__(self, records):
        self.records = {}
        self.failures = {}
        for record in records:
            key = (record["program"], record["workload"], record["op"])
            if "error" in record:
                self.failures.setdefault((*key, record["error"]), []).append(record["round"])
            else:
                self.records.setdefault(key, {})[record["round"]] = record

    def median(self, key, value):
        """Median over the rounds of what `value` takes from a record; None without any."""
        found = [value(record) for record in self.records.get(key, {}).values()]
        found = [number for number in found if number is not None]
        return statistics.median(found) if found else None

    def ratio(self, ours, theirs, value):
        """Median over the rounds of ours / theirs within the round."""
        left, right = self.records.get(ours, {}), self.records.get(theirs, {})
        both = [value(left[r]) / value(right[r]) for r in left.keys() & right.keys()]
        return statistics.median(both) if both else None


def gbps(record):
    return record["gbps"]


def total(record):
    return record["total_us"]["p50"]


def prep(record):
    return record.get("prep_us")


def post(quantile):
    """The post time of a record: NIXL's has both quantiles in one object."""

    def value(record):
        found = record.get("post_us")
        if isinstance(found, dict):
            return found[quantile]
        return found if quantile == "p50" else record.get("post_p99_us")

    return value


def bandwidth_met(workload, path, rates, ratios):
    """Whether the targets for this row are reached; None where ours is absent."""
    (_, limit, nixl), (to_limit, to_nixl) = rates, ratios
    if to_limit is None:
        return None
    if to_limit < 0.9:
        return False
    if to_nixl is None:
        return True
    if path == "tcp":
        factor = 5
    elif workload.layout == "adjacent":
        return to_nixl >= 1
    else:
        factor = 5 if workload.block <= 4 << 10 else 2
    return to_nixl >= factor or factor * nixl >= limit


def bandwidth(results, paths, ops):
    rows = []
    for workload in WORKLOADS:
        for op in ops if workload.count > 1 else ():
            for path in paths:
                limit, nixl, ours = (
                    (program, workload.name, op) for program in PATHS[path]
                )
                rates = [results.median(key, gbps) for key in (ours, limit, nixl)]
                if rates == [None] * 3:
                    continue
                ratios = [results.ratio(ours, other, gbps) for other in (limit, nixl)]
                met = bandwidth_met(workload, path, rates, ratios)
                numbers = [rates[0], rates[1], ratios[0], rates[2], ratios[1]]
                rows.append([workload.name, op, path, *map(short, numbers), yes(met)])
    head = ["GB/s", "op", "path", "ours", "limit", "/limit", "NIXL", "/NIXL", "met"]
    return table(head, rows)


# What, workload, value, and whether ours is as it should be, given NIXL's and our own post of
# 16,000; None if that cannot be told.
TIMES = [
    ("post 16,000, p50", "llama8b-4k", post("p50"), lambda us, nixl, base: us <= 50),
    ("post 16,000, p99", "llama8b-4k", post("p99"), lambda us, nixl, base: us <= 500),
    ("post 65,536, p50", "page1-1k", post("p50"), lambda us, nixl, base: base and us <= 1.2 * base),
    ("prepare 65,536", "page1-1k", prep, lambda us, nixl, base: us <= 10_000),
    ("8 B", "small 8 B", total, lambda us, nixl, base: nixl and us < nixl),
    ("4 KiB", "small 4 KiB", total, lambda us, nixl, base: nixl and us < nixl),
]


def times(results, paths, ops):
    """Posting, preparing, latency: microseconds, and the ratio to NIXL."""
    rows = []
    for what, workload, value, target in TIMES:
        for op in ops:
            for path in paths:
                _, nixl, ours = ((program, workload, op) for program in PATHS[path])
                mine, theirs = (results.median(key, value) for key in (ours, nixl))
                base = results.median((ours[0], "llama8b-4k", op), post("p50"))
                if mine is None and theirs is None:
                    continue
                numbers = [mine, theirs, results.ratio(ours, nixl, value)]
                met = None if mine is None else target(mine, theirs, base)
                rows.append([what, op, path, *map(short, numbers), yes(met)])
    return table(["µs", "op", "path", "ours", "NIXL", "/NIXL", "met"], rows)


def latency_limits(results, paths, ops):
    rows = []
    for op in ops:
        for path in paths:
            found = [
                results.median((PATHS[path][0], workload, op), total)
                for workload in ("small 8 B", "small 4 KiB")
            ]
            if any(found):
                rows.append([op, path, *map(short, found)])
    return table(["limit, µs", "path", "8 B", "4 KiB"], rows)


def threads(results, paths, ops):
    """What a second copy thread brings, and what a second thread brings the limit program."""
    rows = []
    for op in ops:
        for path in paths:
            limit, _, ours = PATHS[path]
            one, two = ((f"{ours}{more}", THREADED, op) for more in ("", "-2t"))
            ratio = results.ratio(two, one, gbps)
            if ratio is not None:
                rates = [results.median(key, gbps) for key in (one, two)]
                most = results.ratio((f"{limit}-2t", THREADED, op), (limit, THREADED, op), gbps)
                row = [THREADED, op, path, *map(short, [*rates, ratio]), short(most)]
                rows.append([*row, yes(ratio >= 1.6)])
    head = ["GB/s", "op", "path", "1 thread", "2 threads", "ratio", "limit's", "met"]
    return table(head, rows)


def failures(results):
    lines = []
    for (program, workload, op, error), rounds in results.failures.items():
        lines.append(f"- {program}, {workload}, {op}, {len(rounds)} rounds: {error}")
    return "\n".join(lines)


def report(records, paths, ops, iperf, streams, missing):
    """The whole report: one section for each kind of target, empty ones left out."""
    results = Results(records)
    parts = [bandwidth(results, paths, ops), times(results, paths, ops)]
    parts += [latency_limits(results, paths, ops), threads(results, paths, ops)]
    if "tcp" in paths:
        rate = f"{statistics.median(iperf):.2f} GB/s" if iperf else "no figure (is it installed?)"
        parts.append(f"iperf3, {streams} streams: {rate}.")
    parts += [f"{name}: not built or not installed." for name in missing]
    if results.failures:
        parts.append("What failed:\n\n" + failures(results))
    return "\n\n".join(part for part in parts if part)


def short(number):
    """Three digits that count."""
    if number is None:
        return ABSENT
    if number >= 100:
        return f"{number:.0f}"
    if number >= 10:
        return f"{number:.1f}"
    return f"{number:.2f}" if number >= 0.01 else "<0.01"


def yes(met):
    return ABSENT if met is None else "yes" if met else "no"


def table(head, rows):
    """Markdown; the columns of numbers flush right. Empty without rows."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    names = next(i for i, title in enumerate(head) if title == "path") + 1

    def line(cells):
        sides = [str.ljust if i < names else str.rjust for i in range(len(cells))]
        padded = (side(cell, width) for side, cell, width in zip(sides, cells, widths))
        return "| " + " | ".join(padded) + " |"

    rules = ["-" * w if i < names else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(head), line(rules), *map(line, rows)])
