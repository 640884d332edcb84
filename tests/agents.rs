//! Two agents over the real backends, as a program uses them through the facade.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nixl::{
    Agent, Config, DescList, ErrorKind, Op, PostOptions, Region, Request, Status,
    meta::{
        DEFAULT_LABEL,
        tcp::{self, ClientConfig, MetaServer, ServerConfig},
    },
};

/// Longest wait for anything; nothing should come near it.
const LIMIT: Duration = Duration::from_secs(20);
const BLOCK: u64 = 3000;
const BLOCKS: u64 = 50;

/// Two agents that have loaded each other, restricted to `path`.
struct Pair {
    near: Agent,
    far: Agent,
}

impl Pair {
    fn new(path: &str, threads: usize) -> Self {
        let agent = |name| agent(name, path, threads);
        let (near, far) = (agent("near"), agent("far"));
        let pair = Self { near, far };
        pair.introduce();
        pair
    }

    /// Tells both about each other's regions.
    fn introduce(&self) {
        let load = |to: &Agent, from: &Agent| {
            let name = to.load_metadata(&from.metadata().expect("metadata"));
            assert_eq!(name.expect("it loads"), from.name());
        };
        load(&self.near, &self.far);
        load(&self.far, &self.near);
    }

    /// Lets both progress until it is so: under `Progress::Caller` neither has threads.
    fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !so() {
            assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} for {what}");
            self.near.progress(Duration::from_millis(1));
            self.far.progress(Duration::from_millis(1));
        }
    }

    fn run(&self, request: &Request, options: PostOptions) -> nixl::Result<()> {
        request.post_with(options)?;
        self.until("the request", || {
            !matches!(request.status(), Status::Active | Status::Stalled)
        });
        request.wait(Duration::ZERO)
    }
}

fn agent(name: &str, path: &str, threads: usize) -> Agent {
    let mut config = Config::default();
    config.policy.only = vec![path.to_owned()];
    config.agent.copy_threads = threads;
    let builder = config.agent(name).expect("good settings");
    builder.build().expect("the agent starts")
}

/// Byte `at` of block `block` of `seed`.
fn byte(seed: u64, block: u64, at: u64) -> u8 {
    let n = (seed << 40) ^ (block << 20) ^ at;
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn pattern(seed: u64) -> Vec<u8> {
    let block = |b| (0..BLOCK).map(move |at| byte(seed, b, at));
    (0..BLOCKS).flat_map(block).collect()
}

fn bytes(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; region.len() as usize];
    region.read_at(0, &mut bytes).expect("in bounds");
    bytes
}

/// Block `i` of the pattern stands in slot `order(i)`.
fn fill(region: &Region, seed: u64, order: fn(u64) -> u64) {
    let all = pattern(seed);
    for (i, block) in (0..).zip(all.chunks(BLOCK as usize)) {
        let at = order(i) * BLOCK;
        region.write_at(at, block).expect("in bounds");
    }
}

fn list(region: &Region, order: fn(u64) -> u64) -> DescList {
    DescList::dram((0..BLOCKS).map(|i| (region.addr() + order(i) * BLOCK, BLOCK)))
}

fn scattered(i: u64) -> u64 {
    i * 7 % BLOCKS
}

fn in_order(i: u64) -> u64 {
    i
}

fn both_ways(path: &str, threads: usize) {
    let pair = Pair::new(path, threads);
    for owned in [true, false] {
        let memory = |agent: &Agent| match owned {
            true => agent.allocate(BLOCK * BLOCKS).expect("memory"),
            false => {
                let buffer = vec![0; (BLOCK * BLOCKS) as usize];
                agent.register_buffer(buffer).expect("memory")
            }
        };
        let (here, there) = (memory(&pair.near), memory(&pair.far));
        pair.introduce();
        for (seed, op) in [(1, Op::Read), (2, Op::Write)] {
            let (here_list, there_list) = (list(&here, in_order), list(&there, scattered));
            let request = pair
                .near
                .create_request(op, &here_list, "far", &there_list)
                .expect("prepared");
            for seed in [seed, seed + 10] {
                match op {
                    Op::Read => fill(&there, seed, scattered),
                    Op::Write => fill(&here, seed, in_order),
                }
                let text = format!("{} {seed}", op.as_str());
                let options = PostOptions {
                    notification: Some(text.clone().into()),
                    ..PostOptions::default()
                };
                pair.run(&request, options).expect("it succeeds");
                match op {
                    Op::Read => assert!(bytes(&here) == pattern(seed), "{path} {owned}"),
                    Op::Write => {
                        fill(&here, seed, scattered);
                        assert!(bytes(&here) == bytes(&there), "{path} {owned}");
                    }
                }
                let receipt = request.receipt().expect("it ended well");
                assert_eq!((receipt.path, receipt.op), (path, op));
                assert_eq!(
                    (receipt.bytes, receipt.descriptors),
                    (BLOCK * BLOCKS, BLOCKS)
                );
                assert_eq!((receipt.merged, receipt.attempts), (BLOCKS, 1));
                let mut heard = None;
                pair.until("the notification", || {
                    heard = pair.far.take_notification();
                    heard.is_some()
                });
                let heard = heard.expect("just taken");
                assert_eq!((&*heard.from, heard.verified), ("near", true));
                assert_eq!(heard.data, text.as_bytes());
            }
        }
    }
    // Lone ones, the other way, in order.
    for i in 0..100u8 {
        pair.far.notify("near", &[i]).expect("queued");
    }
    let mut got = Vec::new();
    pair.until("a hundred notifications", || {
        got.extend(pair.near.notifications().into_iter().map(|n| n.data[0]));
        got.len() >= 100
    });
    assert!(got.into_iter().eq(0..100));
}

#[test]
fn local_with_threads() {
    both_ways("local", 2);
}

#[test]
fn local_with_the_callers_progress() {
    both_ways("local", 0);
}

#[test]
fn tcp_with_threads() {
    both_ways("tcp", 2);
}

#[test]
fn tcp_with_the_callers_progress() {
    both_ways("tcp", 0);
}

/// Withdrawn memory is out of reach, whether the initiator has heard of it or not; memory
/// registered later is in reach.
#[test]
fn regions_come_and_go() {
    for path in ["local", "tcp"] {
        let pair = Pair::new(path, 2);
        let here = pair.near.allocate(BLOCK * BLOCKS).expect("memory");
        let first = pair.far.allocate(BLOCK * BLOCKS).expect("memory");
        pair.introduce();
        let read = |from: &Region| {
            let (here, there) = (list(&here, in_order), list(from, in_order));
            pair.near.create_request(Op::Read, &here, "far", &there)
        };
        let request = read(&first).expect("prepared");
        fill(&first, 3, in_order);
        pair.run(&request, PostOptions::default())
            .expect("it succeeds");
        assert!(bytes(&here) == pattern(3));

        fill(&first, 4, in_order);
        pair.far.deregister(&first, LIMIT).expect("nobody uses it");
        let e = pair
            .run(&request, PostOptions::default())
            .expect_err("it is withdrawn");
        assert_eq!(e.kind(), ErrorKind::NotRegistered, "{path}: {e}");
        assert!(
            bytes(&here) == pattern(3),
            "{path}: bytes moved all the same"
        );

        let blob = pair
            .far
            .withdrawal(std::slice::from_ref(&first))
            .expect("metadata");
        pair.near.load_metadata(&blob).expect("it loads");
        let e = read(&first).expect_err("it is unknown now");
        assert_eq!(e.kind(), ErrorKind::NotRegistered, "{path}: {e}");

        let second = pair.far.allocate(BLOCK * BLOCKS).expect("memory");
        fill(&second, 5, in_order);
        let blob = pair
            .far
            .partial_metadata(std::slice::from_ref(&second), false);
        pair.near
            .load_metadata(&blob.expect("metadata"))
            .expect("it loads");
        let request = read(&second).expect("prepared");
        pair.run(&request, PostOptions::default())
            .expect("it succeeds");
        assert!(bytes(&here) == pattern(5));
    }
}

/// Fetch, send and refused invalidate through the listener that the facade's handler serves.
#[test]
fn metadata_goes_through_the_listener() {
    let far = Arc::new(agent("far", "tcp", 2));
    let near = agent("near", "tcp", 2);
    let server = MetaServer::start(ServerConfig::default(), nixl::metadata_handler(&far));
    let server = server.expect("it listens");
    let (addr, client) = (server.local_addr().to_string(), ClientConfig::default());

    let blob = tcp::fetch(&addr, DEFAULT_LABEL, &client).expect("fetched");
    assert_eq!(near.load_metadata(&blob).expect("it loads"), "far");
    let name = tcp::send(&addr, &near.metadata().expect("metadata"), &client);
    assert_eq!(name.expect("sent"), "near");
    assert_eq!(far.peers(), ["near"]);
    far.notify("near", b"you are known").expect("queued");
    let heard = near.wait_notification(LIMIT).expect("it arrives");
    assert_eq!(
        (&heard.data[..], heard.verified),
        (&b"you are known"[..], true)
    );

    let e = tcp::fetch(&addr, "other", &client).expect_err("no such label");
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    let e = tcp::send(&addr, b"garbage", &client).expect_err("no metadata");
    assert_eq!(e.kind(), ErrorKind::Malformed, "{e}");
    let e = tcp::invalidate(&addr, "near", &client).expect_err("not without a key");
    assert_eq!(e.kind(), ErrorKind::NotAllowed, "{e}");
    assert_eq!(far.peers(), ["near"]);

    drop(far);
    let e = tcp::fetch(&addr, DEFAULT_LABEL, &client).expect_err("nobody is there");
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
}

/// The best path of the default policy between two agents of one process.
#[test]
fn the_default_takes_the_shortest_way() {
    let build = |name| {
        let builder = Config::default().agent(name).expect("good settings");
        builder.build().expect("the agent starts")
    };
    let pair = Pair {
        near: build("near"),
        far: build("far"),
    };
    let (here, there) = (
        pair.near.allocate(BLOCK * BLOCKS).expect("memory"),
        pair.far.allocate(BLOCK * BLOCKS).expect("memory"),
    );
    pair.introduce();
    fill(&there, 6, in_order);
    let (here_list, there_list) = (list(&here, in_order), list(&there, in_order));
    let request = pair
        .near
        .create_request(Op::Read, &here_list, "far", &there_list)
        .expect("prepared");
    pair.run(&request, PostOptions::default())
        .expect("it succeeds");
    assert!(bytes(&here) == pattern(6));
    let receipt = request.receipt().expect("it ended well");
    assert_eq!((receipt.path, receipt.merged), ("local", 1));
}

/// `Duration::MAX` waits for as long as it takes.
#[test]
fn no_timeout_is_too_long() {
    let pair = Pair::new("tcp", 2);
    pair.near.connect("far", Duration::MAX).expect("connected");
    pair.near
        .prove("far", Op::Read, Duration::MAX)
        .expect("known");
    pair.far.notify("near", b"hello").expect("queued");
    let heard = pair
        .near
        .wait_notification(Duration::MAX)
        .expect("it comes");
    assert_eq!(&heard.data[..], b"hello");
    let region = pair.near.allocate(1).expect("memory");
    pair.near.deregister(&region, Duration::MAX).expect("free");
    pair.near
        .shutdown(Duration::MAX)
        .expect("nothing is active");
}
