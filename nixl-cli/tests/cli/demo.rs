//! `nixl demo`.

use std::collections::BTreeSet;

use crate::run::{Ended, keys, nixl};

const SMALL: [&str; 7] = [
    "demo",
    "--layers=2",
    "--token-bytes=1024",
    "--tokens=64",
    "--block-tokens=16",
    "--backend",
    "auto",
];

fn demo(backend: &str, more: &[&str]) -> Ended {
    let args = [&SMALL[..6], &[backend], more].concat();
    nixl(&args)
}

#[test]
fn every_path_moves_a_small_cache_and_says_so() {
    for (backend, path) in [
        ("tcp", "tcp"),
        ("shm", "shm"),
        ("cma", "cma"),
        ("ipc", "shm"),
        ("auto", "shm"),
    ] {
        let report = demo(backend, &["--json"]).json();
        let wanted: BTreeSet<_> = [
            "model",
            "tokens",
            "blocks",
            "block_bytes",
            "bytes",
            "path",
            "gbps",
            "seconds",
            "ttft_overhead_ms",
            "verified",
        ]
        .into();
        assert_eq!(keys(&report), wanted);
        assert_eq!(report["path"], path, "{report}");
        assert_eq!(report["verified"], true);
        assert_eq!(report["model"], "custom");
        assert_eq!(
            (&report["tokens"], &report["blocks"]),
            (&64.into(), &16.into())
        );
        assert_eq!(report["block_bytes"], 16 << 10);
        assert_eq!(report["bytes"], 256 << 10);
        let seconds = report["seconds"].as_f64().expect("a number");
        let gbps = report["gbps"].as_f64().expect("a number");
        assert!(seconds > 0.0 && (gbps - 262_144e-9 / seconds).abs() < 1e-9 * gbps);
        let overhead = report["ttft_overhead_ms"].as_f64().expect("a number");
        // Reading JSON may move the last bit of a number.
        assert!((overhead - seconds * 1e3).abs() < 1e-9 * overhead);
    }
}

#[test]
fn a_config_json_gives_the_shape() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("config.json");
    let text = r#"{"model_type":"tiny","num_hidden_layers":3,"num_attention_heads":8,
        "num_key_value_heads":2,"hidden_size":128,"torch_dtype":"bfloat16"}"#;
    std::fs::write(&file, text).expect("written");
    let path = file.to_str().expect("UTF-8");
    let report = nixl(&["demo", "--config", path, "--tokens=33", "--json"]).json();
    assert_eq!(report["model"], "tiny");
    // 3 pages of 16 tokens, 3 layers, keys and values; 2 heads of 16 bf16 numbers a token.
    assert_eq!(
        (&report["blocks"], &report["block_bytes"]),
        (&18.into(), &1024.into())
    );
    assert_eq!(report["verified"], true);

    std::fs::write(&file, r#"{"num_hidden_layers":3}"#).expect("written");
    let bad = nixl(&["demo", "--config", path]);
    bad.failed(1, &["config.json", "num_attention_heads"]);
}

#[test]
fn people_read_lines_that_fit_and_no_progress_bar_in_a_pipe() {
    for backend in ["tcp", "auto"] {
        let ended = demo(backend, &[]);
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        for word in [
            "first transfer",
            "added to TTFT",
            "GB/s",
            "every byte is right",
        ] {
            assert!(ended.out.contains(word), "{word:?} is not in {}", ended.out);
        }
        for line in ended.out.lines().chain(ended.err.lines()) {
            assert!(line.chars().count() <= 80, "too long: {line}");
            assert!(
                !line.contains(['\r', '\x1b']),
                "no terminal, no bar: {line:?}"
            );
        }
    }
}
