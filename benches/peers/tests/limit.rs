//! Every limit program moves every layout right, and notices when it did not.

use std::process::Command;

use serde_json::Value;

fn limit(args: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_limit"))
        .args(args.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{args}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn for_all(extra: &str, check: impl Fn(&Value)) {
    for peer in ["memcpy", "cma", "rawsock"] {
        for op in ["read", "write"] {
            for layout in ["adjacent", "strided", "random"] {
                check(&limit(&format!(
                    "--peer {peer} --op {op} --layout {layout} --iters 2 {extra}"
                )));
            }
        }
    }
}

#[test]
fn every_byte_arrives_in_its_place() {
    // An odd block size, more blocks than one call takes, threads that share unevenly.
    for_all(
        "--block 1001 --count 2500 --threads 3 --evict 100000",
        |report| {
            assert_eq!(report["verified"], true, "{report}");
            assert_eq!(report["count"], 2500);
            assert!(report["gbps"].as_f64().unwrap() > 0.0);
        },
    );
}

#[test]
fn fewer_blocks_than_threads_arrive() {
    for count in [1, 4] {
        for_all(
            &format!("--block 8 --count {count} --threads 3"),
            |report| {
                assert_eq!(report["verified"], true, "{report}");
            },
        );
    }
}

#[test]
fn a_flipped_byte_is_noticed() {
    for_all("--block 1001 --count 100 --corrupt", |report| {
        assert_eq!(report["verified"], false, "{report}");
    });
}

#[test]
fn what_makes_no_sense_is_refused() {
    for args in [
        "",
        "--peer smoke",
        "--peer cma --count 0",
        "--peer cma --block",
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_limit"));
        let output = command.args(args.split_whitespace()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args}: {output:?}");
    }
}
