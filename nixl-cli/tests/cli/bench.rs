//! `nixl bench` between two processes here.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::run::{keys, nixl};

/// Keys that scripts rely on, and those that were added.
pub(crate) fn check_keys(report: &Value) {
    let wanted: BTreeSet<_> = [
        "op",
        "block",
        "count",
        "layout",
        "memory",
        "backend",
        "path",
        "streams",
        "gbps",
        "mean_us",
        "total_us",
        "post_us",
        "prep_us",
        "verified",
        "lanes",
        "threads",
        "iters",
        "post_p99_us",
    ]
    .into();
    assert_eq!(keys(report), wanted);
    assert_eq!(keys(&report["total_us"]), ["p50", "p99"].into());
}

fn all_shapes(op: &str, backend: &str) {
    for layout in ["adjacent", "strided", "random"] {
        for memory in ["owned", "caller"] {
            let report = nixl(&[
                "bench",
                "--block=3000",
                "--count=40",
                "--iters=3",
                "--json",
                "--op",
                op,
                "--backend",
                backend,
                "--layout",
                layout,
                "--memory",
                memory,
            ])
            .json();
            check_keys(&report);
            let path = match (backend, memory) {
                ("ipc", "owned") => "shm",
                ("ipc", _) => "cma",
                _ => backend,
            };
            for (key, value) in [
                ("op", op),
                ("backend", backend),
                ("layout", layout),
                ("memory", memory),
                ("path", path),
            ] {
                assert_eq!(report[key], value, "{report}");
            }
            assert_eq!(
                (&report["block"], &report["count"]),
                (&3000.into(), &40.into())
            );
            assert_eq!(
                (&report["iters"], &report["verified"]),
                (&3.into(), &true.into())
            );
            let (p50, p99) = (&report["total_us"]["p50"], &report["total_us"]["p99"]);
            assert!(
                p50.as_f64() > Some(0.0) && p50.as_f64() <= p99.as_f64(),
                "{report}"
            );
        }
    }
}

#[test]
fn read_over_tcp() {
    all_shapes("read", "tcp");
}

#[test]
fn write_over_tcp() {
    all_shapes("write", "tcp");
}

#[test]
fn read_over_ipc() {
    all_shapes("read", "ipc");
}

#[test]
fn write_over_ipc() {
    all_shapes("write", "ipc");
}

#[test]
fn streams_and_threads_are_taken_and_reported() {
    let report = nixl(&[
        "bench",
        "--backend=tcp",
        "--streams=2",
        "--threads=1",
        "--count=8",
        "--iters=2",
        "--evict=4096",
        "--json",
    ])
    .json();
    assert_eq!(
        (&report["streams"], &report["threads"]),
        (&2.into(), &1.into())
    );
    assert_eq!(report["verified"], true);
}

/// `--threads 0`: neither side has threads, progress is made where they wait.
#[test]
fn callers_make_progress() {
    for backend in ["tcp", "ipc"] {
        for op in ["read", "write"] {
            let report = nixl(&[
                "bench",
                "--threads=0",
                "--count=8",
                "--iters=2",
                "--json",
                "--op",
                op,
                "--backend",
                backend,
            ])
            .json();
            assert_eq!(report["threads"], 0);
            assert_eq!(report["verified"], true);
        }
    }
}

#[test]
fn an_idle_agent_is_measured() {
    let report = nixl(&["bench", "--count=8", "--iters=2", "--idle=1", "--json"]).json();
    let percent = report["idle_cpu_percent"].as_f64().expect("a number");
    // The target is 0.1; a debug build on a busy machine only must not spin.
    assert!((0.0..20.0).contains(&percent), "{percent} % of a core");
}

#[test]
fn people_read_lines_that_fit() {
    let ended = nixl(&["bench", "--count=8", "--iters=2"]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.out.lines().all(|l| l.len() <= 80), "{}", ended.out);
    assert!(ended.out.contains("every byte is right"), "{}", ended.out);
}

#[test]
fn notifications_are_measured_there_and_back() {
    let report = nixl(&["bench", "--count=8", "--iters=2", "--echo=20", "--json"]).json();
    let half = &report["notify_us"];
    let [p50, p99] = ["p50", "p99"].map(|p| half[p].as_f64().expect("a number"));
    assert!(0.0 < p50 && p50 <= p99, "{half}");
}

#[test]
fn registering_is_measured() {
    let rounds = "--registrations=3";
    let report = nixl(&["bench", "--count=8", "--iters=2", rounds, "--json"]).json();
    for key in ["register_us", "deregister_us"] {
        let p50 = report[key]["p50"].as_f64().expect("a number");
        assert!(p50 > 0.0, "{key}: {p50}");
    }
}
