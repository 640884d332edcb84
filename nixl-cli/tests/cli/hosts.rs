//! `nixl bench --listen` and `--connect`, as on two hosts, over loopback.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::{
    bench::check_keys,
    run::{Nixl, nixl},
};

fn secret(dir: &Path, name: &str, text: &str) -> String {
    let file = dir.join(name);
    fs::write(&file, text).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
    file.to_str().expect("UTF-8").to_owned()
}

fn listen(more: &[&str]) -> (Nixl, String) {
    let args = [&["bench", "--listen", "127.0.0.1:0"], more].concat();
    let mut listener = Nixl::start(&args, &[]);
    let line = listener.error_line();
    let addr = line
        .strip_prefix("listening on ")
        .and_then(|rest| rest.split(';').next());
    let addr = addr
        .unwrap_or_else(|| panic!("no address in {line:?}"))
        .to_owned();
    (listener, addr)
}

fn connect(addr: &str, more: &[&str]) -> crate::run::Ended {
    let small = [
        "bench",
        "--count=16",
        "--iters=2",
        "--json",
        "--connect",
        addr,
    ];
    nixl(&[&small, more].concat())
}

#[test]
fn a_benchmark_from_another_host() {
    for backend in ["tcp", "auto"] {
        let (listener, addr) = listen(&[]);
        let report = connect(&addr, &["--backend", backend, "--op=write"]).json();
        check_keys(&report);
        assert_eq!(report["verified"], true);
        let listener = listener.end();
        assert_eq!(
            (listener.code, &*listener.out),
            (Some(0), ""),
            "{}",
            listener.err
        );
    }
}

#[test]
fn the_secret_decides() {
    let dir = tempfile::tempdir().expect("a directory");
    let good = secret(dir.path(), "good", "correct horse battery staple\n");
    let wrong = secret(dir.path(), "wrong", "incorrect horse battery staple\n");
    let (listener, addr) = listen(&["--secret-file", &good]);
    connect(&addr, &["--secret-file", &wrong]).failed(1, &["Unauthenticated", "key"]);
    connect(&addr, &[]).failed(1, &["Unauthenticated", "key"]);
    let report = connect(&addr, &["--secret-file", &good]).json();
    assert_eq!(report["verified"], true);
    assert_eq!(listener.end().code, Some(0));
}

#[test]
fn an_address_beyond_loopback_needs_a_secret() {
    nixl(&["bench", "--listen", "0.0.0.0:0"]).failed(1, &["NotAllowed", "0.0.0.0"]);
}

#[test]
fn nobody_listens() {
    // Port 1 is never given out to a listener that asks for any port.
    nixl(&["bench", "--connect", "127.0.0.1:1"]).failed(1, &["127.0.0.1:1"]);
}

#[test]
fn a_plan_for_a_listener_leaves_it_for_the_benchmark() {
    let (listener, addr) = listen(&[]);
    let plan = nixl(&["plan", &addr]);
    assert_eq!(plan.code, Some(0), "{}", plan.err);
    assert!(plan.out.contains("reads from bench-target"), "{}", plan.out);
    assert!(
        plan.out.lines().all(|l| l.chars().count() <= 80),
        "{}",
        plan.out
    );
    assert_eq!(connect(&addr, &[]).json()["verified"], true);
    assert_eq!(listener.end().code, Some(0));
}
