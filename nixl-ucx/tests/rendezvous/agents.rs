//! Whole agents: which path carries a request and what the receipt says, that the configured scheme
//! is the one that UCX uses, a peer that is killed or stopped.

use std::{
    io::{BufRead, BufReader, Read as _},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use nixl_core::{
    Agent, DescList, ErrorKind, MemKind, Op, PostOptions, Receipt, Region, Request,
    negotiate::{Demand, Policy},
};
use nixl_ucx::{
    Options, RNDV_TCP, TCP, UcxBackend, Version,
    config::{Mode, UcxConfig},
};
use rustix::process::{Pid, Signal, kill_process};

const ROLE: &str = "NIXL_UCX_TEST_RENDEZVOUS_PEER";
const PEER: &str = "peer";
/// Blocks of a served region, and their bytes.
const BLOCKS: u64 = 2048;
const BLOCK: u64 = 16 << 10;
const PATIENCE: Duration = Duration::from_secs(20);

type Settings<'a> = &'a [(&'a str, &'a str)];

fn backend(mode: Mode, settings: Settings<'_>) -> nixl_core::Result<UcxBackend> {
    let mut config = UcxConfig::default();
    config.mode = mode;
    if !settings.iter().any(|(key, _)| *key == "TLS") {
        config.set("TLS", "tcp")?;
    }
    for (key, value) in settings {
        config.set(key, value)?;
    }
    UcxBackend::open(&config, Options::default())
}

/// An agent, and its UCX; `None` where there is none.
fn agent(name: &str, mode: Mode, settings: Settings<'_>) -> Option<(Agent, Version)> {
    agent_with(name, mode, settings, Policy::default())
}

fn agent_with(
    name: &str,
    mode: Mode,
    settings: Settings<'_>,
    policy: Policy,
) -> Option<(Agent, Version)> {
    let made = backend(mode, settings).and_then(|backend| {
        let version = backend.library().version();
        let agent = Agent::builder(name).backend(backend).policy(policy);
        Ok((agent.build()?, version))
    });
    made.map_err(|why| println!("SKIP rendezvous over UCX: {why}"))
        .ok()
}

/// Byte `at` of block `block`, after `round` rounds of writing.
fn pattern(block: u64, at: u64, round: u8) -> u8 {
    (block.wrapping_mul(31) ^ at.wrapping_mul(7) ^ (at >> 8)) as u8 ^ round
}

fn fill(region: &Region, round: u8) {
    for block in 0..BLOCKS {
        let bytes: Vec<_> = (0..BLOCK).map(|at| pattern(block, at, round)).collect();
        region.write_at(block * BLOCK, &bytes).expect("inside");
    }
}

/// Every other block has the pattern of `round`, byte for byte.
fn check(region: &Region, round: u8) {
    for block in (0..BLOCKS).step_by(2) {
        let mut bytes = vec![0; BLOCK as usize];
        region.read_at(block * BLOCK, &mut bytes).expect("inside");
        let wrong = (0..BLOCK).find(|at| bytes[*at as usize] != pattern(block, *at, round));
        assert_eq!(wrong, None, "the first wrong byte of block {block}");
    }
}

/// Every other block, backwards.
fn request(agent: &Agent, op: Op, here: &Region, there: u64) -> Request {
    let blocks = || (0..BLOCKS / 2).rev().map(|i| i * 2 * BLOCK);
    let local = DescList::dram(blocks().map(|at| (here.addr() + at, BLOCK)));
    let remote = DescList::dram(blocks().map(|at| (there + at, BLOCK)));
    let request = agent.create_request(op, &local, PEER, &remote);
    request.expect("it can be prepared")
}

fn run(request: &Request) -> nixl_core::Result<Receipt> {
    request.post()?;
    request.wait(PATIENCE)?;
    Ok(request.receipt().expect("it ended well"))
}

fn memory(agent: &Agent) -> Region {
    agent.allocate(BLOCKS * BLOCK).expect("memory can be had")
}

/// Two agents of this process.
struct Two {
    here: Agent,
    region: Region,
    theirs: Region,
    _there: Agent,
    version: Version,
}

fn two(mode: Mode, settings: Settings<'_>) -> Option<Two> {
    two_with(mode, settings, Policy::default())
}

fn two_with(mode: Mode, settings: Settings<'_>, policy: Policy) -> Option<Two> {
    let (here, version) = agent_with("here", mode, settings, policy)?;
    let (there, _) = agent(PEER, mode, settings)?;
    let (region, theirs) = (memory(&here), memory(&there));
    let blob = there.metadata().expect("it can be written");
    here.load_metadata(&blob).expect("it loads");
    Some(Two {
        here,
        region,
        theirs,
        _there: there,
        version,
    })
}

#[test]
fn transfers_over_emulated_lanes_go_by_rendezvous() {
    let Some(two) = two(Mode::Auto, &[("RNDV_SCHEME", "put_zcopy")]) else {
        return;
    };
    fill(&two.theirs, 1);
    let read = request(&two.here, Op::Read, &two.region, two.theirs.addr());
    let receipt = run(&read).expect("the READ");
    check(&two.region, 1);
    assert_eq!(receipt.path, RNDV_TCP);
    assert_eq!(&*receipt.lanes, "ucx:tcp,rndv=put_zcopy");
    fill(&two.region, 2);
    let write = request(&two.here, Op::Write, &two.region, two.theirs.addr());
    let receipt = run(&write).expect("the WRITE");
    check(&two.theirs, 2);
    assert_eq!(receipt.path, RNDV_TCP);
    let small = Demand {
        op: Op::Read,
        local: MemKind::Dram,
        remote: MemKind::Dram,
        all_remote_shareable: true,
        descs: 1,
        bytes: 8,
    };
    let found = two.here.explain(PEER, &small).expect("it is loaded");
    let ranked: Vec<_> = found.ranked.iter().map(|c| c.path).collect();
    assert_eq!(ranked, [RNDV_TCP]);
    let codes = found.rejected.iter().map(|r| (r.0, r.2.code()));
    assert_eq!(codes.collect::<Vec<_>>(), [(TCP, "hazard")]);
}

#[test]
fn where_one_sided_operations_are_refused_rendezvous_carries() {
    let refuse = [("PROTO_EMULATION_ENABLE", "n")];
    let policy = Policy {
        prefer: vec![TCP.to_owned()],
        ..Policy::default()
    };
    let Some(two) = two_with(Mode::Auto, &refuse, policy) else {
        return;
    };
    if !two.version.at_least(1, 21) {
        return println!(
            "SKIP emulation switched off: UCX {} always emulates",
            two.version
        );
    }
    fill(&two.theirs, 3);
    let read = |bytes| {
        let local = DescList::dram([(two.region.addr(), bytes)]);
        let remote = DescList::dram([(two.theirs.addr(), bytes)]);
        two.here.create_request(Op::Read, &local, PEER, &remote)
    };
    let receipt = run(&read(8).expect("it can be prepared")).expect("the READ");
    assert_eq!(receipt.path, RNDV_TCP, "{receipt:?}");
    let mut bytes = [0; 8];
    two.region.read_at(0, &mut bytes).expect("inside");
    assert_eq!(bytes, std::array::from_fn(|at| pattern(0, at as u64, 3)));
}

#[test]
fn modes_are_kept_to() {
    for (mode, path) in [(Mode::Rma, TCP), (Mode::Rendezvous, RNDV_TCP)] {
        let Some(two) = two(mode, &[]) else { return };
        fill(&two.theirs, 4);
        let read = request(&two.here, Op::Read, &two.region, two.theirs.addr());
        assert_eq!(run(&read).expect("the READ").path, path);
        check(&two.region, 4);
    }
}

// --- a peer in another process ---

/// The peer's side.
#[test]
fn serve() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let settings: Vec<_> = role.split(';').filter_map(|s| s.split_once('=')).collect();
    let (agent, _) = agent(PEER, Mode::Rendezvous, &settings).expect("the peer starts");
    let region = memory(&agent);
    fill(&region, 5);
    let blob = agent.metadata().expect("it can be written");
    let hex: String = blob.iter().map(|b| format!("{b:02x}")).collect();
    println!("\nserving {:#x} {hex}", region.addr());
    // Until the other side lets go.
    let _ = std::io::stdin().lines().count();
}

struct Served {
    child: Child,
    stdin: Option<ChildStdin>,
    out: BufReader<std::process::ChildStdout>,
    base: u64,
    blob: Vec<u8>,
}

impl Served {
    fn start(settings: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("it has a path"));
        command.args(["--exact", "agents::serve", "--nocapture"]);
        command.env(ROLE, settings);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the peer starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        while !line.starts_with("serving ") {
            line.clear();
            let n = out.read_line(&mut line).expect("it is text");
            assert!(n > 0, "the peer says where its memory is");
        }
        let mut words = line.trim_end().split(' ').skip(1);
        let base = words.next().and_then(|w| w.strip_prefix("0x"));
        let base = u64::from_str_radix(base.expect("an address"), 16).expect("a number");
        let hex = words.next().expect("metadata");
        let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex");
        Self {
            stdin: child.stdin.take(),
            child,
            out,
            base,
            blob: (0..hex.len() / 2).map(byte).collect(),
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the peer is ours");
    }

    /// Lets it end; what it printed meanwhile.
    fn finish(mut self) -> String {
        drop(self.stdin.take());
        let lines = self.out.by_ref().lines().map_while(Result::ok);
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_configured_scheme_is_the_one_that_ucx_uses() {
    // UCX's words for its protocols, over lanes that have both.
    let schemes = [
        ("get_zcopy", "read from remote"),
        ("put_zcopy", "write to remote"),
    ];
    for (scheme, words) in schemes {
        let settings = [
            ("TLS", "cma,tcp"),
            ("RNDV_SCHEME", scheme),
            ("RNDV_THRESH", "0"),
        ];
        let Some((here, version)) = agent("here", Mode::Rendezvous, &settings) else {
            return;
        };
        if !version.at_least(1, 16) {
            return println!("SKIP what UCX says of its protocols: UCX {version} says nothing");
        }
        let peer = Served::start(&format!(
            "TLS=cma,tcp;RNDV_SCHEME={scheme};RNDV_THRESH=0;PROTO_INFO=y;LOG_LEVEL=info"
        ));
        here.load_metadata(&peer.blob).expect("it loads");
        let region = memory(&here);
        let read = request(&here, Op::Read, &region, peer.base);
        let receipt = run(&read).expect("the READ");
        check(&region, 5);
        assert_eq!(&*receipt.lanes, format!("ucx:cma,rndv={scheme}"));
        let said = peer.finish();
        let data = said.lines().filter(|line| line.contains("rendezvous"));
        let data: Vec<_> = data.filter(|line| line.contains("remote")).collect();
        assert!(!data.is_empty(), "nothing of rendezvous:\n{said}");
        let all = data.iter().all(|line| line.contains(words));
        assert!(all, "{scheme}, but UCX says {data:#?}");
    }
}

#[test]
fn a_killed_peer_is_gone_and_its_successor_is_met() {
    let Some((here, _)) = agent("here", Mode::Rendezvous, &[]) else {
        return;
    };
    let peer = Served::start("");
    here.load_metadata(&peer.blob).expect("it loads");
    let region = memory(&here);
    for op in [Op::Read, Op::Write] {
        let request = request(&here, op, &region, peer.base);
        run(&request).expect("the peer lives");
    }
    check(&region, 5);
    let read = request(&here, Op::Read, &region, peer.base);
    read.post().expect("it is posted");
    peer.signal(Signal::KILL);
    let begun = Instant::now();
    // The first may have been through before the signal; the next one cannot be.
    let ended = read.wait(PATIENCE).and_then(|()| run(&read));
    let e = ended.expect_err("the peer is dead");
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
    assert!(begun.elapsed() < PATIENCE, "in bounded time");
    let peer = Served::start("");
    here.load_metadata(&peer.blob).expect("its successor loads");
    let read = request(&here, Op::Read, &region, peer.base);
    run(&read).expect("a READ from the successor");
    check(&region, 5);
    drop(read);
    here.deregister(&region, PATIENCE).expect("nobody uses it");
}

#[test]
fn a_stopped_peer_costs_a_deadline_and_nothing_else() {
    let Some((here, _)) = agent("here", Mode::Rendezvous, &[]) else {
        return;
    };
    let peer = Served::start("");
    here.load_metadata(&peer.blob).expect("it loads");
    let region = memory(&here);
    let read = request(&here, Op::Read, &region, peer.base);
    run(&read).expect("the first READ");
    peer.signal(Signal::STOP);
    let options = PostOptions {
        deadline: Some(Duration::from_millis(500)),
        ..Default::default()
    };
    read.post_with(options).expect("it is posted");
    let begun = Instant::now();
    let e = read.wait(PATIENCE).expect_err("nobody serves it");
    assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(3),
        "its deadline was 0.5 s, it took {took:?}"
    );
    // The memory is ours again, whatever the peer still has on its way.
    fill(&region, 6);
    peer.signal(Signal::CONT);
    let begun = Instant::now();
    let other = memory(&here);
    let again = request(&here, Op::Read, &other, peer.base);
    while let Err(e) = run(&again) {
        assert!(begun.elapsed() < PATIENCE, "it never works again: {e}");
    }
    check(&other, 5);
    check(&region, 6);
}
