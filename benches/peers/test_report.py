"""The report's arithmetic and verdicts, on made-up measurements."""

import unittest

import peers
import table


def record(program, workload, round, gbps, op="read", **more):
    total = {"p50": 1000 / gbps, "p99": 2000 / gbps}
    made = {"program": program, "workload": workload, "op": op, "round": round}
    return {**made, "gbps": gbps, "total_us": total, **more}


def rows(report, *words):
    lines = (line.strip("| ").split("|") for line in report.splitlines())
    cells = ([cell.strip() for cell in line] for line in lines)
    return [line for line in cells if all(word in line for word in words)]


def report(records, paths=("owned", "caller", "tcp"), missing=()):
    return table.report(records, list(paths), ["read", "write"], [4.0, 5.0], 2, list(missing))


class Bandwidth(unittest.TestCase):
    def verdict(self, path, workload, limit, nixl, ours):
        values = zip(peers.PATHS[path], (limit, nixl, ours))
        records = [record(name, workload, 1, gbps) for name, gbps in values if gbps]
        (row,) = rows(report(records), workload, path)
        return row[-1]

    def test_nine_tenths_of_the_limit(self):
        self.assertEqual(self.verdict("owned", "llama8b-4k", 10, 1, 9.1), "yes")
        self.assertEqual(self.verdict("owned", "llama8b-4k", 10, 1, 8.9), "no")

    def test_a_multiple_of_nixl_where_the_limit_leaves_room(self):
        self.assertEqual(self.verdict("caller", "page1-1k", 2.0, 0.39, 1.9), "no")
        self.assertEqual(self.verdict("caller", "page1-1k", 1.9, 0.39, 1.9), "yes")
        self.assertEqual(self.verdict("caller", "mla-4k", 5.0, 2.4, 4.7), "no")
        self.assertEqual(self.verdict("tcp", "mla-4k", 4.0, 0.7, 3.6), "yes")
        self.assertEqual(self.verdict("tcp", "mla-4k", 4.0, 0.79, 3.7), "no")

    def test_never_below_nixl_where_blocks_adjoin(self):
        self.assertEqual(self.verdict("owned", "16x4M adj", 10, 9.6, 9.5), "no")
        self.assertEqual(self.verdict("owned", "16x4M adj", 10, 9.6, 9.7), "yes")

    def test_what_was_not_measured_has_no_verdict(self):
        self.assertEqual(self.verdict("owned", "mla-4k", 10, 1, None), "-")
        self.assertEqual(self.verdict("owned", "mla-4k", 10, None, 9.5), "yes")

    def test_ratios_compare_within_a_round(self):
        pairs = [(1, 10, 5), (2, 2, 1.8), (3, 4, 3.2)]
        records = []
        for round, limit, ours in pairs:
            records.append(record("limit-memcpy", "mla-4k", round, limit))
            records.append(record("ours-owned", "mla-4k", round, ours))
        (row,) = rows(report(records), "mla-4k", "owned")
        self.assertEqual(row[3:6], ["3.20", "4.00", "0.80"])


class Times(unittest.TestCase):
    def test_both_forms_of_post_time_are_read(self):
        ours = record("ours-tcp", "llama8b-4k", 1, 3, post_us=10.0, post_p99_us=600.0)
        nixl = record("nixl-tcp", "llama8b-4k", 1, 1, post_us={"p50": 40.0, "p99": 60.0})
        made = report([ours, nixl])
        (p50,) = rows(made, "post 16,000, p50")
        (p99,) = rows(made, "post 16,000, p99")
        self.assertEqual(p50[3:], ["10.0", "40.0", "0.25", "yes"])
        self.assertEqual(p99[3:], ["600", "60.0", "10.0", "no"])

    def test_more_descriptors_take_no_longer_to_post(self):
        for grown, met in ((11.9, "yes"), (12.1, "no")):
            few = record("ours-owned", "llama8b-4k", 1, 3, post_us=10.0)
            many = record("ours-owned", "page1-1k", 1, 3, post_us=grown)
            (row,) = rows(report([few, many]), "post 65,536, p50")
            self.assertEqual(row[-1], met)

    def test_a_second_thread(self):
        records = [record("ours-owned", "llama8b-4k", 1, 5)]
        records.append(record("ours-owned-2t", "llama8b-4k", 1, 8))
        records.append(record("limit-memcpy", "llama8b-4k", 1, 6))
        records.append(record("limit-memcpy-2t", "llama8b-4k", 1, 9))
        (row,) = rows(report(records), "1.60")
        self.assertEqual(row[-2:], ["1.50", "yes"])


class Report(unittest.TestCase):
    def test_failures_are_named_and_leave_no_number(self):
        failed = record("ours-tcp", "mla-4k", 1, 99, error="wrong bytes arrived")
        made = report([failed, record("limit-rawsock", "mla-4k", 1, 2)], missing=["nixl"])
        self.assertIn("ours-tcp, mla-4k, read, 1 rounds: wrong bytes arrived", made)
        self.assertIn("nixl: not built or not installed.", made)
        self.assertNotIn("99", made)

    def test_it_is_eighty_columns_wide(self):
        records = []
        for workload in peers.WORKLOADS:
            for op in ("read", "write"):
                for path in peers.PATHS.values():
                    for name in path:
                        post = {"p50": 1234567.0, "p99": 7654321.0}
                        more = {"post_us": post, "prep_us": 1234567.0}
                        records.append(record(name, workload.name, 1, 12.345, op, **more))
        made = report(records)
        self.assertGreater(len(made.splitlines()), 80)
        self.assertLessEqual(max(map(len, made.splitlines())), 80)


class Commands(unittest.TestCase):
    def test_a_program_is_asked_for_what_its_row_says(self):
        workload = peers.WORKLOADS[0]
        for program, words in {
            "ours-owned": "--backend ipc --memory owned --threads 1",
            "ours-caller-2t": "--backend ipc --memory caller --threads 2",
            "limit-cma-2t": "--peer cma --threads 2",
            "ours-tcp": "--backend tcp --memory owned --streams 3 --threads 3",
        }.items():
            call = " ".join(peers.command(program, workload, "write", 7, 3))
            self.assertIn(words, call)
            self.assertIn("--op write --block 32768 --count 16000 --layout random", call)

    def test_what_is_missing_is_not_run(self):
        have = {"limit": True, "ours": True, "nixl": False}
        names = peers.programs(peers.WORKLOADS[0], ["tcp"], have)
        self.assertEqual(names, ["limit-rawsock", "ours-tcp"])


if __name__ == "__main__":
    unittest.main()
