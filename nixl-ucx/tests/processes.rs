//! Two processes: the peer is killed, stopped, started anew, or runs another UCX.
//!
//! This file's binary is the peer too: started again with [`ROLE`] in its environment it serves
//! one region until its standard input ends.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use nixl_core::{Agent, DescList, ErrorKind, Op, Region, Request};
use nixl_ucx::{Options, UcxBackend, config::UcxConfig};
use rustix::process::{Pid, Signal, kill_process};

const ROLE: &str = "NIXL_UCX_TEST_PEER";
const PEER: &str = "peer";
/// Blocks of the served region, and their bytes.
const BLOCKS: u64 = 4096;
const BLOCK: u64 = 16 << 10;
const PATIENCE: Duration = Duration::from_secs(20);

fn agent(name: &str, lib: Option<&Path>) -> nixl_core::Result<Agent> {
    let mut config = UcxConfig::default();
    config.lib = lib.map(Path::to_owned);
    let backend = UcxBackend::open(&config, Options::default())?;
    Agent::builder(name).backend(backend).build()
}

fn pattern(block: u64) -> u8 {
    (block * 31 % 251) as u8
}

/// The peer's side.
#[test]
fn serve() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let agent = agent(PEER, None).expect("the peer starts");
    let region = agent.allocate(BLOCKS * BLOCK).expect("memory can be had");
    for block in 0..BLOCKS {
        let bytes = vec![pattern(block); BLOCK as usize];
        region.write_at(block * BLOCK, &bytes).expect("inside");
    }
    let blob = agent.metadata().expect("it can be written");
    let hex: String = blob.iter().map(|b| format!("{b:02x}")).collect();
    println!("\nserving {:#x} {hex}", region.addr());
    // Until the other side lets go.
    let _ = std::io::stdin().lines().count();
}

struct Served {
    child: Child,
    _stdin: Option<ChildStdin>,
    base: u64,
    blob: Vec<u8>,
}

impl Served {
    fn start(lib: Option<&Path>) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("it has a path"));
        command.args(["--exact", "serve", "--nocapture"]);
        command
            .env(ROLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(lib) = lib {
            command.env("NIXL_RS_UCX_LIB", lib);
        }
        let mut child = command.spawn().expect("the peer starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let line = out.lines().map_while(Result::ok);
        let line = line.into_iter().find(|l| l.starts_with("serving "));
        let line = line.expect("the peer says where its memory is");
        let mut words = line.split(' ').skip(1);
        let base = words.next().and_then(|w| w.strip_prefix("0x"));
        let base = u64::from_str_radix(base.expect("an address"), 16).expect("a number");
        let hex = words.next().expect("metadata");
        let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex");
        Self {
            _stdin: child.stdin.take(),
            child,
            base,
            blob: (0..hex.len() / 2).map(byte).collect(),
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the peer is ours");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn can_run(what: &str) -> Option<Agent> {
    match agent("here", None) {
        Ok(agent) => Some(agent),
        Err(why) => {
            println!("SKIP {what}: {why}");
            None
        }
    }
}

/// A READ of every other block of the peer's, backwards.
fn read(agent: &Agent, to: &Region, from: &Served) -> nixl_core::Result<Request> {
    let blocks = || (0..BLOCKS / 2).rev().map(|i| i * 2);
    let local = DescList::dram(blocks().map(|b| (to.addr() + b * BLOCK, BLOCK)));
    let remote = DescList::dram(blocks().map(|b| (from.base + b * BLOCK, BLOCK)));
    agent.create_request(Op::Read, &local, PEER, &remote)
}

fn check(region: &Region) {
    for block in (0..BLOCKS).step_by(2) {
        let mut bytes = vec![0; BLOCK as usize];
        region.read_at(block * BLOCK, &mut bytes).expect("inside");
        let wrong = bytes.iter().position(|b| *b != pattern(block));
        assert_eq!(wrong, None, "a byte of block {block}");
    }
}

fn run(request: &Request) -> nixl_core::Result<()> {
    request.post()?;
    request.wait(PATIENCE).map(drop)
}

#[test]
fn a_killed_peer_is_gone_and_its_successor_is_met() {
    let Some(agent) = can_run("a peer killed over UCX") else {
        return;
    };
    let mut peer = Served::start(None);
    agent.load_metadata(&peer.blob).expect("it loads");
    let region = agent.allocate(BLOCKS * BLOCK).expect("memory can be had");
    let request = read(&agent, &region, &peer).expect("it can be prepared");
    run(&request).expect("the first READ");
    check(&region);
    println!("lanes: {:?}", request.receipt().map(|r| r.lanes));
    request.post().expect("it is posted again");
    peer.signal(Signal::KILL);
    let begun = Instant::now();
    // The last READ may have been through before the signal; the next one cannot be.
    let ended = request
        .wait(PATIENCE)
        .map(drop)
        .and_then(|()| run(&request));
    let e = ended.expect_err("the peer is dead");
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
    assert!(begun.elapsed() < PATIENCE, "in bounded time");
    peer = Served::start(None);
    agent
        .load_metadata(&peer.blob)
        .expect("its successor loads");
    let request = read(&agent, &region, &peer).expect("it can be prepared");
    run(&request).expect("a READ from the successor");
    check(&region);
    drop(request);
    agent.deregister(&region, PATIENCE).expect("nobody uses it");
}

#[test]
fn a_stopped_peer_costs_a_deadline_and_nothing_else() {
    let Some(agent) = can_run("a peer stopped over UCX") else {
        return;
    };
    let peer = Served::start(None);
    agent.load_metadata(&peer.blob).expect("it loads");
    let region = agent.allocate(BLOCKS * BLOCK).expect("memory can be had");
    let request = read(&agent, &region, &peer).expect("it can be prepared");
    run(&request).expect("the first READ");
    peer.signal(Signal::STOP);
    let options = nixl_core::PostOptions {
        deadline: Some(Duration::from_millis(500)),
        ..Default::default()
    };
    request.post_with(options).expect("it is posted");
    match request.wait(PATIENCE) {
        // CMA needs nobody at the other end.
        Ok(_) => check(&region),
        Err(e) => assert_eq!(e.kind(), ErrorKind::Timeout, "{e}"),
    }
    peer.signal(Signal::CONT);
    let begun = Instant::now();
    while let Err(e) = run(&request) {
        assert!(begun.elapsed() < PATIENCE, "it never works again: {e}");
    }
    check(&region);
}

/// The libucp directories that `cargo xtask` provides.
fn provided(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ucx");
    let lib = root.join(name).join("lib");
    lib.is_dir().then_some(lib)
}

#[test]
fn another_version_is_refused_before_it_aborts() {
    let (Some(old), Some(new)) = (provided("debian"), provided("wheel")) else {
        println!("SKIP two versions of UCX: no target/ucx (cargo xtask test makes it)");
        return;
    };
    let agent = agent("here", Some(&new)).expect("the newer one starts");
    let peer = Served::start(Some(&old));
    agent.load_metadata(&peer.blob).expect("it loads");
    let begun = Instant::now();
    let e = agent.connect(PEER, Duration::from_secs(10));
    let e = e.expect_err("UCX 1.13 aborts when 1.22 connects");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "after {took:?}: {e}");
    let both = e.message().contains("1.13") && e.message().contains("1.22");
    assert!(both, "it names both versions: {e}");
    let mut peer = peer;
    let ended = peer.child.try_wait().expect("the peer is ours");
    assert_eq!(ended, None, "the peer lives on");
}

#[test]
fn a_missing_libucp_is_named() {
    let nowhere = Path::new("/nowhere/libucp.so.0");
    let e = agent("here", Some(nowhere)).map(drop);
    let e = e.expect_err("nothing is there");
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.message().contains("/nowhere/libucp.so.0"), "{e}");
}
