//! What a real libucp does rarely.

use std::time::Duration;

use nixl_conformance::{
    Progress,
    rig::{Layout, Link, Memory, Rig, Spread, TestOp},
};
use nixl_core::{ErrorKind, Op};

use super::{fake, world::with};
use ucx_sys::ucs_status_t;

pub(crate) const THREADS: Progress = Progress::Threads { copy_threads: 2 };

pub(crate) fn rig(progress: Progress) -> Rig {
    Rig::new(Box::new(|| std::sync::Arc::new(fake())), "ucx", progress)
}

/// A READ or WRITE of 300 scattered blocks, with its source filled.
pub(crate) struct Move {
    pub(crate) local: Spread,
    pub(crate) remote: Spread,
    pub(crate) op: std::sync::Arc<TestOp>,
    pub(crate) kind: Op,
}

impl Move {
    pub(crate) fn new(rig: &Rig, link: &Link, kind: Op) -> Self {
        let spread =
            |node, seed| Spread::new(node, &[Memory::Heap], Layout::Random, (300, 512), seed);
        let (local, remote) = (spread(&link.from, 1), spread(&link.to, 2));
        let (source, target) = match kind {
            Op::Read => (&remote, &local),
            Op::Write => (&local, &remote),
        };
        source.fill(7);
        target.clear();
        let (here, there) = (local.list(), remote.list());
        let plan = rig.plan(kind, &link.from, &here, &remote.cards(), &there);
        let op = rig.prepare(&link.near, &plan);
        Self {
            local,
            remote,
            op,
            kind,
        }
    }

    pub(crate) fn check(&self) {
        self.local.check(7, "here");
        self.remote.check(7, "there");
    }

    pub(crate) fn target(&self) -> &Spread {
        match self.kind {
            Op::Read => &self.local,
            Op::Write => &self.remote,
        }
    }
}

pub(crate) fn set_hold(hold: bool) {
    with(|world| {
        world.faults.hold = hold;
        world.ring();
    });
}

/// Ends the nodes and what the test `held`, and sees that libucp got back all that it gave out.
pub(crate) fn finish(rig: Rig, held: impl Sized) {
    rig.finish();
    drop(held);
    let left = with(|world| world.left());
    assert!(left.is_empty(), "not given back: {left}");
}

fn in_flight() -> bool {
    with(|world| world.workers.values().any(|w| !w.operations.is_empty()))
}

#[test]
fn what_finds_no_room_is_tried_again() {
    for progress in [THREADS, Progress::Caller] {
        let rig = rig(progress);
        let link = rig.pair();
        for kind in [Op::Read, Op::Write] {
            let moved = Move::new(&rig, &link, kind);
            rig.settle(&link);
            with(|world| world.faults.no_resource = 50);
            rig.run(&moved.op).expect("room comes");
            assert_eq!(
                with(|world| world.faults.no_resource),
                0,
                "none was refused"
            );
            moved.check();
        }
        finish(rig, link);
    }
}

#[test]
fn a_cancelled_operation_keeps_its_memory_until_it_is_over() {
    for kind in [Op::Read, Op::Write] {
        let rig = rig(THREADS);
        let link = rig.pair();
        let moved = Move::new(&rig, &link, kind);
        rig.settle(&link);
        set_hold(true);
        moved.op.post().expect("the post is taken");
        rig.wait("operations in flight", in_flight);
        moved.op.transfer().cancel();
        let ended = rig.wait_for(Duration::from_millis(100), || !moved.op.is_open());
        assert!(!ended, "the token came back under operations in flight");
        set_hold(false);
        match rig.end(&moved.op) {
            Ok(()) => moved.check(),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Cancelled, "{e}");
                assert!(moved.op.transfer().fenced(), "the flush was complete");
                moved.target().check_partly(7, "cancelled");
            }
        }
        finish(rig, (moved, link));
    }
}

#[test]
fn a_broken_endpoint_ends_its_operations_and_nobody_else_s() {
    for kind in [Op::Read, Op::Write] {
        let rig = rig(THREADS);
        let link = rig.pair();
        let third = rig.node("c");
        let other = rig.connect(&link.from, &third);
        let (broken, whole) = (Move::new(&rig, &link, kind), Move::new(&rig, &other, kind));
        rig.settle(&link);
        rig.settle(&other);
        set_hold(true);
        broken.op.post().expect("the post is taken");
        whole.op.post().expect("the post is taken");
        rig.wait("operations in flight", || in_flight_on_all(2));
        let victim = peer_of_first();
        with(|world| world.break_endpoints(|endpoint| endpoint.peer == victim));
        let e = rig.end(&broken.op).expect_err("its endpoint broke");
        assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
        if kind == Op::Write {
            assert!(!broken.op.transfer().fenced(), "bytes may still land");
        }
        assert!(whole.op.is_open(), "another connection's");
        set_hold(false);
        rig.end(&whole.op).expect("its endpoint is whole");
        whole.check();
        rig.wait("the end to be told", || link.near.closed().is_some());
        with(|world| world.break_endpoints(|endpoint| endpoint.worker == victim));
        finish(rig, (broken, whole, link, other, third));
    }
}

/// Whether at least so many endpoints have operations in flight.
fn in_flight_on_all(endpoints: usize) -> bool {
    with(|world| {
        let operations = world.workers.values().flat_map(|w| &w.operations);
        let busy: std::collections::HashSet<_> = operations.map(|op| op.endpoint).collect();
        busy.len() >= endpoints
    })
}

/// The second worker that was made: that of the first link's target.
pub(crate) fn peer_of_first() -> usize {
    let mut workers: Vec<_> = with(|world| world.workers.keys().copied().collect());
    workers.sort_unstable();
    workers[1]
}

#[test]
fn a_refused_key_is_an_error_of_the_request() {
    let rig = rig(THREADS);
    let link = rig.pair();
    with(|world| world.faults.refuse_keys = true);
    let moved = Move::new(&rig, &link, Op::Read);
    let e = rig.run(&moved.op).expect_err("the key cannot be unpacked");
    assert!(e.message().contains("remote key"), "{e}");
    with(|world| world.faults.refuse_keys = false);
    rig.run(&moved.op).expect("it is asked for again");
    moved.check();
    finish(rig, (moved, link));
}

#[test]
fn a_status_that_no_header_names_fails_the_request() {
    for kind in [Op::Read, Op::Write] {
        let rig = rig(THREADS);
        let link = rig.pair();
        let moved = Move::new(&rig, &link, kind);
        rig.settle(&link);
        with(|world| world.faults.status = Some(ucs_status_t(-77)));
        rig.run(&moved.op).expect_err("every operation failed");
        moved.target().check_partly(7, "failed");
        with(|world| world.faults.status = None);
        finish(rig, (moved, link));
    }
}

#[test]
fn a_worker_that_cannot_be_armed_is_asked_again() {
    let rig = rig(THREADS);
    let link = rig.pair();
    let moved = Move::new(&rig, &link, Op::Read);
    rig.settle(&link);
    with(|world| {
        world.faults.busy_arms = 100;
        world.ring();
    });
    rig.run(&moved.op).expect("it goes on");
    moved.check();
    let tried = || with(|world| world.faults.busy_arms == 0);
    rig.wait("every refusal to be met", tried);
    finish(rig, (moved, link));
}
