//! Every fault of the simulated backend does what its documentation says, and nothing more.
//!
//! All under `Progress::Caller`: nothing happens but what a test drives.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use nixl_conformance::{
    Backend, Progress,
    rig::{Layout, Link, Memory, Rig, Spread, TestOp, must_fail},
    sim::{Failing, FaultPlan, READ_ONLY, SimBackend, SimConfig, SimControl, WRITE_ONLY},
    suite,
};
use nixl_core::{ErrorKind, Op, Revocation};

const LEN: usize = 300_000;

/// Two connected agents, the handle of each backend, and memory to move.
struct Sims {
    rig: Rig,
    link: Link,
    near: SimControl,
    far: SimControl,
}

fn sims(config: SimConfig) -> Sims {
    let controls = Arc::new(Mutex::new(Vec::new()));
    let made = controls.clone();
    let make = move || {
        let sim = SimBackend::new(config.clone());
        made.lock().unwrap().push(sim.control());
        Arc::new(sim) as Arc<dyn Backend>
    };
    let rig = Rig::new(Box::new(make), "sim", Progress::Caller);
    let link = rig.pair();
    let controls = controls.lock().unwrap();
    let (near, far) = (controls[0].clone(), controls[1].clone());
    Sims {
        rig,
        link,
        near,
        far,
    }
}

struct Read {
    local: Spread,
    op: Arc<TestOp>,
}

impl Sims {
    /// A prepared READ of `LEN` bytes whose pattern is `seed`.
    fn read(&self, seed: u64) -> Read {
        let local = Spread::single(&self.link.from, Memory::Heap, LEN);
        let remote = Spread::single(&self.link.to, Memory::Heap, LEN);
        local.clear();
        remote.fill(seed);
        let (near, far) = (local.list(), remote.list());
        let plan = self
            .rig
            .plan(Op::Read, &self.link.from, &near, &remote.cards(), &far);
        let op = self.rig.prepare(&self.link.near, &plan);
        Read { local, op }
    }

    /// Drives both agents until nothing is left to do.
    fn drain(&self) {
        self.rig.wait_for(Duration::from_millis(5), || false);
    }
}

fn twice(kind: ErrorKind) -> Option<Failing> {
    Some(Failing { times: 2, kind })
}

#[test]
fn a_stalled_transfer_stops_at_the_byte_and_goes_on_when_released() {
    let sims = sims(SimConfig::default());
    let read = sims.read(1);
    for limit in [0, 100_001] {
        sims.near.faults(|f| f.stall_after = Some(limit));
        read.local.clear();
        read.op.post().unwrap();
        sims.drain();
        assert!(read.op.is_open());
        assert_eq!(read.op.transfer().moved(), limit);
        read.local.check_partly(1, "stalled");
        sims.near.release();
        sims.rig.end(&read.op).unwrap();
        read.local.check(1, "released");
    }
    assert_eq!(sims.near.counts().bytes, 2 * LEN as u64);
    sims.rig.finish();
}

#[test]
fn a_stalled_transfer_can_be_cancelled_unless_the_plan_is_deaf() {
    let sims = sims(SimConfig::default());
    let read = sims.read(1);
    sims.near.faults(|f| f.stall_after = Some(1000));
    read.op.post().unwrap();
    sims.drain();
    read.op.transfer().cancel();
    let e = must_fail(sims.rig.end(&read.op), "a cancelled transfer");
    assert_eq!(e.kind(), ErrorKind::Cancelled);

    sims.near.faults(|f| f.deaf_to_cancel = true);
    read.op.post().unwrap();
    read.op.transfer().cancel();
    sims.drain();
    assert!(read.op.is_open());
    assert_eq!((sims.near.in_flight(), sims.near.counts().cancels), (1, 2));
    sims.near.release();
    sims.rig.end(&read.op).unwrap();
    assert_eq!(sims.near.in_flight(), 0);
    sims.rig.finish();
}

#[test]
fn refused_posts_are_counted_down() {
    let sims = sims(SimConfig::default());
    let read = sims.read(1);
    sims.near
        .faults(|f| f.refuse_posts = twice(ErrorKind::Exhausted));
    for _ in 0..2 {
        let e = must_fail(read.op.post(), "a refused post");
        assert_eq!(e.kind(), ErrorKind::Exhausted);
    }
    sims.drain();
    read.local.check_untouched("a refused post");
    sims.rig.run(&read.op).unwrap();
    read.local.check(1, "after refusals");
    let counts = sims.near.counts();
    assert_eq!((counts.posts, counts.refused, counts.completed), (3, 2, 1));
    sims.rig.finish();
}

#[test]
fn a_transfer_fails_after_the_planned_bytes() {
    let sims = sims(SimConfig::default());
    let read = sims.read(1);
    sims.near.faults(|f| {
        f.fail_transfers = twice(ErrorKind::Backend);
        f.fail_after = 123_456;
    });
    for _ in 0..2 {
        read.local.clear();
        let e = must_fail(sims.rig.run(&read.op), "a failing transfer");
        assert_eq!(e.kind(), ErrorKind::Backend);
        assert_eq!(read.op.transfer().moved(), 123_456);
        read.local.check_partly(1, "failed midway");
    }
    sims.rig.run(&read.op).unwrap();
    read.local.check(1, "after failures");
    sims.rig.finish();
}

/// The order in which 16 transfers end that were posted before anything moved.
fn order(seed: u64) -> Vec<usize> {
    let faults = FaultPlan {
        reorder: true,
        ..FaultPlan::default()
    };
    let sims = sims(SimConfig {
        seed,
        faults,
        ..SimConfig::default()
    });
    let reads: Vec<_> = (0..16).map(|i| sims.read(i)).collect();
    for read in &reads {
        read.op.post().unwrap();
    }
    sims.rig
        .wait("all of them", || reads.iter().all(|r| !r.op.is_open()));
    let mut order: Vec<usize> = (0..16).collect();
    order.sort_by_key(|i| reads[*i].op.ended_at());
    for (i, read) in reads.iter().enumerate() {
        read.local.check(i as u64, "reordered");
    }
    sims.rig.finish();
    order
}

#[test]
fn reordering_follows_the_seed() {
    let first = order(1);
    assert_ne!(first, (0..16).collect::<Vec<_>>());
    assert_eq!(first, order(1));
    assert_ne!(first, order(2));
}

#[test]
fn connections_are_cut_after_the_planned_steps() {
    let sims = sims(SimConfig::default());
    sims.far.faults(|f| f.cut_after = Some(3));
    for n in 0..5u8 {
        sims.link.near.send(vec![n]);
    }
    sims.rig.wait("the cut", || {
        sims.link.near.closed().is_some() && sims.link.far.closed().is_some()
    });
    let came: Vec<u8> = (0..sims.link.far.received())
        .map(|n| sims.link.far.message(n).1[0])
        .collect();
    assert_eq!(came, [0, 1, 2]);
    let again = sims.rig.connect(&sims.link.from, &sims.link.to);
    sims.rig.settle(&again);
    sims.rig.finish();
}

#[test]
fn held_messages_arrive_in_order_once_released() {
    let sims = sims(SimConfig::default());
    sims.far.faults(|f| f.hold_messages = true);
    for n in 0..5u8 {
        sims.link.near.send(vec![n]);
    }
    let read = sims.read(1);
    sims.rig.run(&read.op).unwrap();
    assert_eq!(sims.link.far.received(), 0);
    sims.far.release();
    sims.rig
        .wait("the messages", || sims.link.far.received() == 5);
    assert!((0..5).all(|n| sims.link.far.message(n).1[..] == [n as u8]));
    assert_eq!(
        (sims.near.counts().sends, sims.far.counts().delivered),
        (5, 5)
    );
    sims.rig.finish();
}

#[test]
fn connects_are_refused_and_kept_waiting() {
    let sims = sims(SimConfig::default());
    sims.near
        .faults(|f| f.refuse_connects = twice(ErrorKind::Timeout));
    for _ in 0..2 {
        let refused = sims.rig.try_connect(&sims.link.from, sims.link.to.card());
        assert_eq!(refused.err().unwrap().kind(), ErrorKind::Timeout);
    }
    sims.near.faults(|f| f.silent_connects = true);
    let silent = sims.rig.begin_connect(&sims.link.from, sims.link.to.card());
    sims.drain();
    assert!(!silent.is_over());
    sims.near.release();
    let side = sims.rig.end_connect(&silent).unwrap();
    side.send(&b"hello"[..]);
    let far = sims.rig.accepted_after(&sims.link.to, &sims.link.from, 1);
    sims.rig.wait("the message", || far.received() == 1);

    sims.near.faults(|f| f.silent_connects = true);
    let never = sims.rig.begin_connect(&sims.link.from, sims.link.to.card());
    sims.near.kill();
    assert_eq!(
        sims.rig.end_connect(&never).err().unwrap().kind(),
        ErrorKind::PeerGone
    );
    assert_eq!(sims.near.counts().connects, 5);
    sims.rig.finish();
}

#[test]
fn a_killed_agent_is_gone_and_a_cut_one_comes_back() {
    let sims = sims(SimConfig::default());
    let read = sims.read(1);
    sims.near.faults(|f| f.stall_after = Some(10));
    read.op.post().unwrap();
    sims.drain();
    sims.far.cut();
    let e = must_fail(sims.rig.end(&read.op), "a transfer over a cut connection");
    assert_eq!(e.kind(), ErrorKind::PeerGone);
    let again = sims.rig.connect(&sims.link.from, &sims.link.to);
    sims.rig.settle(&again);
    sims.far.kill();
    sims.rig.wait("the end", || again.near.closed().is_some());
    let e = sims.rig.try_connect(&sims.link.from, sims.link.to.card());
    assert_eq!(e.err().unwrap().kind(), ErrorKind::PeerGone);
    sims.rig.finish();
}

#[test]
fn a_kept_lease_pins_the_region_until_the_connection_ends() {
    let sims = sims(SimConfig {
        revocation: Revocation::Cooperative,
        ..SimConfig::default()
    });
    let read = sims.read(1);
    sims.rig.run(&read.op).unwrap();
    let id = read.op.plan().remote().regions()[0].id;
    let pins = || sims.link.to.region_by_id(id).pins();
    assert_eq!(pins(), 1);
    sims.near.faults(|f| f.keeps_leases = true);
    sims.link.near.forget(id);
    assert_eq!(pins(), 1);
    sims.near.faults(|f| f.keeps_leases = false);
    sims.link.near.forget(id);
    assert_eq!(pins(), 0);
    sims.rig.run(&read.op).unwrap();
    assert_eq!(pins(), 1);
    sims.near.cut();
    sims.rig.wait("the lease to end", || pins() == 0);
    assert_eq!(sims.near.counts().forgets, 2);
    sims.rig.finish();
}

#[test]
fn a_path_without_read_or_without_write_keeps_the_contract() {
    for mem in [READ_ONLY, WRITE_ONLY] {
        let make = move || {
            let config = SimConfig {
                mem,
                ..SimConfig::default()
            };
            Arc::new(SimBackend::new(config)) as Arc<dyn Backend>
        };
        for test in [suite::unsupported_operations, suite::wrong_key] {
            suite::run(test, make, "sim", Progress::Caller);
        }
    }
}

#[test]
fn a_spread_of_blocks_knows_its_own_bytes() {
    let sims = sims(SimConfig::default());
    let memories = [Memory::Agent, Memory::Heap];
    let node = &sims.link.from;
    for layout in [Layout::Adjacent, Layout::Strided, Layout::Random] {
        let spread = Spread::new(node, &memories, layout, (10, 64), 3);
        spread.fill(5);
        assert!(spread.holds(5) && !spread.holds(6));
        for region in &spread.regions {
            let mut bytes = vec![0; region.len() as usize];
            region.read_at(0, &mut bytes).unwrap();
            for (at, byte) in bytes.into_iter().enumerate() {
                region.write_at(at as u64, &[byte ^ 0x10]).unwrap();
                assert!(!spread.holds(5), "{layout:?}: byte {at} may be anything");
                region.write_at(at as u64, &[byte]).unwrap();
            }
        }
    }
    sims.rig.finish();
}
