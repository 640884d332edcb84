//! One of the two processes dies.

use std::{fs, time::Instant};

use rustix::process::Signal;

use crate::run::{Nixl, kill, wait};

/// Never ends by itself.
fn endless(backend: &str) -> Nixl {
    let args = [
        "bench",
        "--block=4096",
        "--count=64",
        "--iters=4000000000",
        "--json",
        "--backend",
        backend,
    ];
    Nixl::start(&args, &[("NIXL_RS_AGENT_DEADLINE_MS", "5000")])
}

/// Processor time of a process in clock ticks (proc_pid_stat(5)).
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let number = |i| {
        fields
            .split_whitespace()
            .nth(i)
            .and_then(|f| f.parse::<u64>().ok())
    };
    number(11).unwrap_or(0) + number(12).unwrap_or(0)
}

/// Setting up takes a fraction of this.
fn wait_until_it_transfers(nixl: &Nixl) {
    wait("transfers", || ticks(nixl.pid()) > 40);
}

/// The target is killed amid transfers: an error within the deadline.
fn killed_target(backend: &str) {
    let nixl = endless(backend);
    let target = nixl.target();
    wait_until_it_transfers(&nixl);
    kill(target, Signal::KILL);
    let killed = Instant::now();
    nixl.end().failed(1, &["PeerGone", "bench-target"]);
    let took = killed.elapsed();
    assert!(took.as_secs() < 8, "{backend}: {took:?}");
}

#[test]
fn a_target_killed_over_tcp() {
    killed_target("tcp");
}

#[test]
fn a_target_killed_over_shared_memory() {
    killed_target("shm");
}

#[test]
fn a_target_killed_over_cma() {
    killed_target("cma");
}

#[test]
fn a_target_killed_at_its_start_is_an_error() {
    let nixl = endless("tcp");
    kill(nixl.target(), Signal::KILL);
    let ended = nixl.end();
    ended.failed(1, &["error"]);
}

#[test]
fn the_target_does_not_outlive_the_command() {
    let nixl = endless("auto");
    let target = nixl.target();
    wait_until_it_transfers(&nixl);
    assert!(fs::exists(format!("/proc/{target}")).expect("/proc"));
    kill(nixl.pid(), Signal::KILL);
    assert_eq!(nixl.end().code, None, "killed");
}
