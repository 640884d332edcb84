//! What whole agents say of each failure, and that everything else of theirs goes on.

use std::time::{Duration, Instant};

use nixl_core::{
    Agent, DescList, Error, ErrorKind, MemKind, Op, PostOptions, Region, Request, Result,
};
use nixl_ucx::{Options, UcxBackend, config::UcxConfig};
use ucx_sys::ucs_status_t;

use super::{
    fake, ucp,
    world::{Faults, with},
};

const PATIENCE: Duration = Duration::from_secs(20);
const BLOCKS: u64 = 100;
const BLOCK: u64 = 512;

fn agent(name: &str) -> Agent {
    let agent = Agent::builder(name).backend(fake()).build();
    agent.expect("the agent starts")
}

/// Memory of `agent`, filled with `seed`; every byte says where it lies.
fn region(agent: &Agent, seed: u64) -> Region {
    let region = agent.allocate(2 * BLOCKS * BLOCK).expect("memory");
    region.write_at(0, &image(seed)).expect("inside");
    region
}

fn image(seed: u64) -> Vec<u8> {
    let byte = |at: u64| ((at ^ ((at >> 8) * 31) ^ (seed * 89)) % 251) as u8;
    (0..2 * BLOCKS * BLOCK).map(byte).collect()
}

/// Every other block of both, the remote ones backwards.
fn request(op: Op, agent: &Agent, here: &Region, peer: &str, there: &Region) -> Result<Request> {
    let block = |base: u64, i: u64| (base + 2 * i * BLOCK, BLOCK);
    let local = DescList::dram((0..BLOCKS).map(|i| block(here.addr(), i)));
    let remote = DescList::dram((0..BLOCKS).rev().map(|i| block(there.addr(), i)));
    assert_eq!(remote.kind(), MemKind::Dram);
    agent.create_request(op, &local, peer, &remote)
}

/// The bytes of the target are where such a request brings them.
fn check(target: &Region, before: u64, source: u64) {
    let (mut want, from) = (image(before), image(source));
    for i in 0..BLOCKS as usize {
        let block = |i: usize| 2 * i * BLOCK as usize..(2 * i + 1) * BLOCK as usize;
        want[block(i)].copy_from_slice(&from[block(BLOCKS as usize - 1 - i)]);
    }
    let mut found = vec![0; want.len()];
    target.read_at(0, &mut found).expect("inside");
    let wrong = found.iter().zip(&want).position(|(f, w)| f != w);
    assert_eq!(wrong, None, "the first wrong byte");
}

/// One agent with memory that knows two others with memory.
struct Three {
    near: Agent,
    here: Region,
    far: Agent,
    there: Region,
    third: Agent,
    elsewhere: Region,
}

const HERE: u64 = 1;
const THERE: u64 = 2;
const ELSEWHERE: u64 = 3;

impl Three {
    fn new() -> Self {
        let [near, far, third] = ["near", "far", "third"].map(agent);
        let (here, there) = (region(&near, HERE), region(&far, THERE));
        let elsewhere = region(&third, ELSEWHERE);
        let three = Self {
            near,
            here,
            far,
            there,
            third,
            elsewhere,
        };
        three.load();
        three.go_on();
        three
    }

    fn load(&self) {
        for peer in [&self.far, &self.third] {
            let blob = peer.metadata().expect("it can be written");
            self.near.load_metadata(&blob).expect("it loads");
        }
    }

    fn run(&self, op: Op) -> Result<()> {
        let request = request(op, &self.near, &self.here, "far", &self.there)?;
        request.post()?;
        request.wait(PATIENCE)
    }

    /// The third agent is reached at once, whatever became of the other one.
    fn third_goes_on(&self) {
        self.here.write_at(0, &image(HERE)).expect("inside");
        let request = request(Op::Read, &self.near, &self.here, "third", &self.elsewhere);
        let request = request.expect("it can be prepared");
        request.post().expect("it is posted");
        request.wait(PATIENCE).expect("another peer is unaffected");
        check(&self.here, HERE, ELSEWHERE);
    }

    /// Both peers are reached, the far one after a while.
    fn go_on(&self) {
        self.third_goes_on();
        let begun = Instant::now();
        self.here.write_at(0, &image(HERE)).expect("inside");
        while let Err(e) = self.run(Op::Read) {
            assert!(begun.elapsed() < PATIENCE, "it never works again: {e}");
            std::thread::yield_now();
        }
        check(&self.here, HERE, THERE);
        self.here.write_at(0, &image(HERE)).expect("inside");
    }

    /// `e` names the peer and both memories, and has each of `words`.
    fn names(&self, e: &Error, words: &[&str]) {
        assert_eq!(e.peer(), Some("far"), "{e}");
        let memories = [&self.here, &self.there].map(|r| format!("{:#x}", r.addr()));
        for word in memories
            .iter()
            .map(String::as_str)
            .chain(words.iter().copied())
        {
            assert!(e.message().contains(word), "{word:?} in {e}");
        }
    }

    /// Nothing is left in libucp.
    fn end(self) {
        let Self {
            near,
            here,
            far,
            there,
            third,
            elsewhere,
        } = self;
        drop((here, there, elsewhere));
        for agent in [near, far, third] {
            agent.shutdown(PATIENCE).expect("nothing is in flight");
        }
        let begun = Instant::now();
        loop {
            let left = with(|world| world.left());
            if left.is_empty() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "not given back: {left}");
            std::thread::yield_now();
        }
    }
}

fn set(change: impl FnOnce(&mut Faults)) {
    with(|world| {
        change(&mut world.faults);
        world.ring();
    });
}

fn worker_of_far() -> usize {
    let mut workers: Vec<_> = with(|world| world.workers.keys().copied().collect());
    workers.sort_unstable();
    workers[1]
}

#[test]
fn memory_that_cannot_be_registered_is_named() {
    for status in [ucs_status_t::UCS_ERR_NO_MEMORY, ucs_status_t(-77)] {
        let mut three = Three::new();
        set(|faults| faults.map = Some(status));
        let (here, there) = (region(&three.near, HERE), region(&three.far, THERE));
        set(|faults| faults.map = None);
        three.load();
        let words = ["registering", "ulimit -l", "something of the fake"];
        let good = std::mem::replace(&mut three.here, here.clone());
        let e = three.run(Op::Read).expect_err("UCX does not know it here");
        three.names(&e, &words);
        assert!(!e.message().contains("its owner"), "{e}");
        three.here = good;
        let good = std::mem::replace(&mut three.there, there.clone());
        let e = three.run(Op::Read).expect_err("UCX does not know it there");
        three.names(&e, &words);
        assert!(e.message().contains("its owner"), "{e}");
        three.there = good;
        three.go_on();
        drop((here, there));
        three.end();
    }
}

#[test]
fn a_machine_that_can_make_no_worker_is_told_from_one_without_ucx() {
    for (status, words) in [
        (ucs_status_t::UCS_ERR_NO_MEMORY, "ulimit -n"),
        (ucs_status_t::UCS_ERR_NO_DEVICE, "UCX_NET_DEVICES"),
        (ucs_status_t(-33), "UCX_LOG_LEVEL"),
    ] {
        set(|faults| faults.worker = Some(status));
        let config = UcxConfig::default();
        let opened = UcxBackend::over(ucp::library(), &config, Options::default());
        let e = opened.map(drop).expect_err("no worker can be made");
        let says = |word: &str| e.message().contains(word);
        assert!(says("worker") && says(words), "{e}");
        assert!(says("something of the fake"), "{e}");
        assert!(with(|world| world.left()).is_empty(), "the context is gone");
        set(|faults| faults.worker = None);
    }
    Three::new().end();
}

#[test]
fn a_peer_that_cannot_be_reached_says_what_to_compare() {
    let three = Three::new();
    let far = agent("another");
    let there = region(&far, THERE);
    let blob = far.metadata().expect("it can be written");
    set(|faults| faults.connect = Some(ucs_status_t::UCS_ERR_UNREACHABLE));
    three.near.load_metadata(&blob).expect("it loads");
    let e = three
        .near
        .connect("another", PATIENCE)
        .expect_err("unreachable");
    assert_eq!(e.peer(), Some("another"), "{e}");
    for word in ["UCX_TLS", "UCX_NET_DEVICES", "both sides"] {
        assert!(e.message().contains(word), "{e}");
    }
    three.third_goes_on();
    set(|faults| faults.connect = None);
    drop(there);
    far.shutdown(PATIENCE).expect("nothing is in flight");
    three.go_on();
    three.end();
}

/// Breaks what is between the near and the far one, both ways.
fn break_far(status: ucs_status_t) {
    let far = worker_of_far();
    with(|world| {
        world.faults.breach = Some(status);
        let near = world.workers.keys().copied().min().expect("there are");
        let between = [(near, far), (far, near)];
        world.break_endpoints(|e| between.contains(&(e.worker, e.peer)));
    });
}

#[test]
fn an_endpoint_that_fails_under_a_write_is_named_and_made_anew() {
    for status in [
        ucs_status_t::UCS_ERR_ENDPOINT_TIMEOUT,
        ucs_status_t::UCS_ERR_CONNECTION_RESET,
        ucs_status_t(-77),
    ] {
        let three = Three::new();
        // The path is proven in this direction before anything is held.
        three.run(Op::Write).expect("nothing is broken yet");
        let write = request(Op::Write, &three.near, &three.here, "far", &three.there);
        let write = write.expect("it can be prepared");
        set(|faults| faults.hold = true);
        write.post().expect("it is posted");
        let begun = Instant::now();
        while with(|world| world.uses.len()) < BLOCKS as usize {
            assert!(
                begun.elapsed() < PATIENCE,
                "only {} of its blocks are in flight",
                with(|world| world.uses.len())
            );
            std::thread::yield_now();
        }
        break_far(status);
        set(|faults| faults.hold = false);
        let e = write.wait(PATIENCE).expect_err("its endpoint failed");
        assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
        three.names(&e, &["something of the fake"]);
        let told = e.message().contains("post again") || e.message().contains("UCX_LOG_LEVEL");
        assert!(told, "{e}");
        set(|faults| faults.breach = None);
        drop(write);
        three.there.write_at(0, &image(THERE)).expect("inside");
        three.go_on();
        three.end();
    }
}

#[test]
fn whichever_post_finds_no_room_is_made_later() {
    let three = Three::new();
    let full = ucs_status_t::UCS_ERR_NO_RESOURCE;
    for n in [0, 1, 63, 64, 65, BLOCKS as usize - 1] {
        for op in [Op::Read, Op::Write] {
            three.here.write_at(0, &image(HERE)).expect("inside");
            three.there.write_at(0, &image(THERE)).expect("inside");
            set(|faults| faults.refuse_after = Some((n, full)));
            three.run(op).expect("room comes");
            assert!(
                with(|world| world.faults.refuse_after.is_none()),
                "none was refused"
            );
            match op {
                Op::Read => check(&three.here, HERE, THERE),
                Op::Write => check(&three.there, THERE, HERE),
            }
        }
    }
    three.end();
}

/// Each status that a header may have or not: as what a post returns, and as what it ends with.
#[test]
fn every_status_is_an_error_that_names_peer_and_memory() {
    let three = Three::new();
    three.run(Op::Write).expect("the path is proven");
    // What ran out may come: these are tried again.
    let pressure = [-2, -4];
    for code in (-100..0).filter(|code| !pressure.contains(code)) {
        for later in [true, false] {
            let status = ucs_status_t(code);
            set(|faults| match later {
                true => faults.status = Some(status),
                false => faults.refuse_after = Some((BLOCKS as usize / 2, status)),
            });
            let request = request(Op::Write, &three.near, &three.here, "far", &three.there);
            let request = request.expect("it can be prepared");
            request.post().expect("it is posted");
            let e = request.wait(PATIENCE).expect_err("an operation failed");
            assert_ne!(e.kind(), ErrorKind::Abandoned, "{code}: {e}");
            three.names(&e, &["something of the fake"]);
            set(|faults| (faults.status, faults.refuse_after) = (None, None));
            three.there.write_at(0, &image(THERE)).expect("inside");
        }
    }
    three.go_on();
    three.end();
}

#[test]
fn what_completes_after_the_deadline_keeps_its_memory_until_then() {
    for op in [Op::Read, Op::Write] {
        let three = Three::new();
        three.run(Op::Write).expect("the path is proven both ways");
        three.there.write_at(0, &image(THERE)).expect("inside");
        let far = worker_of_far();
        set(|faults| faults.stuck = Some(far));
        let request = request(op, &three.near, &three.here, "far", &three.there);
        let request = request.expect("it can be prepared");
        let options = PostOptions {
            deadline: Some(Duration::from_millis(200)),
            ..Default::default()
        };
        request.post_with(options).expect("it is posted");
        let e = request
            .wait(Duration::from_secs(1))
            .expect_err("it is late");
        assert_eq!(
            (e.kind(), e.peer()),
            (ErrorKind::Timeout, Some("far")),
            "{e}"
        );
        // Its operations are still there.
        let e = three
            .near
            .deregister(&three.here, Duration::from_millis(100));
        let e = e.expect_err("UCX may still touch it");
        assert_eq!(e.kind(), ErrorKind::StillMapped, "{e}");
        let addr = format!("{:#x}", three.here.addr());
        assert!(e.message().contains(&addr), "{e}");
        let other = region(&three.near, HERE);
        let Three {
            third, elsewhere, ..
        } = &three;
        let read = self::request(Op::Read, &three.near, &other, third.name(), elsewhere);
        let read = read.expect("it can be prepared");
        read.post().expect("it is posted");
        read.wait(PATIENCE).expect("another peer is unaffected");
        check(&other, HERE, ELSEWHERE);
        set(|faults| faults.stuck = None);
        match request.wait(PATIENCE) {
            // Every byte came after all.
            Ok(()) => match op {
                Op::Read => check(&three.here, HERE, THERE),
                Op::Write => check(&three.there, THERE, HERE),
            },
            Err(e) => assert_eq!(e.kind(), ErrorKind::Timeout, "{e}"),
        }
        three
            .near
            .deregister(&three.here, PATIENCE)
            .expect("nobody uses it");
        drop((request, read, other));
        three.end();
    }
}
