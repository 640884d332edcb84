//! Flags and variables that cannot be right.

use crate::run::{Nixl, nixl};

#[test]
fn bad_flags_are_named() {
    for (args, words) in [
        (&["demo", "--modell", "x"][..], &["--modell", "--model"][..]),
        (
            &["demo", "--model", "gpt-2"],
            &["--model", "llama3.1-8b", "deepseek-v3"],
        ),
        (&["demo", "--tokens", "0"], &["--tokens"]),
        (&["demo", "--layers", "2"], &["--token-bytes"]),
        (
            &["demo", "--config", "x", "--model", "qwen3-8b"],
            &["--config", "--model"],
        ),
        (&["demo", "--backend", "local"], &["--backend", "auto"]),
        (&["bench", "--op", "copy"], &["--op", "read, write"]),
        (&["bench", "--block", "0"], &["--block"]),
        (&["bench", "--count", "-1"], &["-1"]),
        (
            &["bench", "--layout", "heap"],
            &["--layout", "adjacent, strided, random"],
        ),
        (&["bench", "--memory", "vram:1"], &["--memory", "CUDA"]),
        (
            &["bench", "--memory", "tape"],
            &["--memory", "owned, caller"],
        ),
        (&["bench", "--streams", "17"], &["--streams", "16"]),
        (
            &["bench", "--listen", "a:1", "--connect", "b:1"],
            &["--listen", "--connect"],
        ),
        (&["plan"], &["--self", "ADDR"]),
        (&["plan", "--self", "host:1"], &["--self", "ADDR"]),
        (&["fly"], &["fly"]),
    ] {
        nixl(args).failed(2, words);
    }
}

#[test]
fn what_this_machine_lacks_is_said() {
    for command in ["demo", "bench"] {
        let ended = Nixl::start(
            &[command, "--backend", "ucx"],
            &[("NIXL_RS_UCX_LIB", "/nowhere")],
        )
        .end();
        ended.failed(1, &["Unsupported", "libucp", "/nowhere"]);
    }
}

#[test]
fn a_job_that_fits_nowhere_is_refused_before_it_begins() {
    let huge = ["bench", "--count", "4000000000", "--block", "1000000000000"];
    nixl(&huge).failed(1, &["Exhausted", "free memory"]);
}

/// Two processes share no agent: that path must not be faked.
#[test]
fn a_path_that_cannot_be_is_refused_with_its_reason() {
    let small = ["demo", "--layers=1", "--token-bytes=64", "--json"];
    let ended = Nixl::start(&small, &[("NIXL_RS_POLICY_ONLY", "local")]).end();
    ended.failed(1, &["Unsupported", "local: the peer is another process"]);
}

#[test]
fn variables_are_settings_and_unknown_ones_are_named() {
    let small = [
        "demo",
        "--layers=1",
        "--token-bytes=64",
        "--tokens=64",
        "--json",
    ];
    let ended = Nixl::start(&small, &[("NIXL_RS_POLICY_FORBID", "shm, cma")]).end();
    assert_eq!(ended.json()["path"], "tcp");
    for (name, value) in [("NIXL_RS_TCP_STEAMS", "2"), ("NIXL_RS_TCP_STREAMS", "many")] {
        Nixl::start(&small, &[(name, value)])
            .end()
            .failed(1, &[name]);
    }
}
