//! Whoever else held it lets go of what operations in flight use (INV-1).
//!
//! Core's regions hold registrations too, as long as nobody takes them away, and connections hold
//! keys. Here both are gone, so that what a post holds by itself is all there is: the fake aborts
//! when a registration or a key goes while a request uses it.

use std::{sync::Arc, time::Duration};

use nixl_conformance::rig::{Link, Rig};
use nixl_core::{ErrorKind, Op};
use ucx_sys::ucs_status_t;

use super::{
    faults::{Move, THREADS, finish, peer_of_first, rig, set_hold},
    world::with,
};

/// Operations of a post: one for each block, and a WRITE's flush.
fn operations(kind: Op) -> usize {
    300 + usize::from(kind == Op::Write)
}

/// Registrations and keys that operations in flight use.
fn used() -> Vec<usize> {
    with(|world| {
        let blocks = world.uses.values().filter(|(memory, _)| *memory != 0);
        let mut used: Vec<_> = blocks.flat_map(|(m, k)| [*m, *k]).collect();
        used.sort_unstable();
        used.dedup();
        used
    })
}

/// How many of `handles` libucp still has.
fn left_of(handles: &[usize]) -> usize {
    with(|world| {
        let there = |h: &&usize| world.memory.contains_key(h) || world.keys.contains_key(h);
        handles.iter().filter(there).count()
    })
}

/// Hands over everything, then takes away whatever holds registration and key besides the post.
fn post_alone(rig: &Rig, link: &Link, moved: &Move) -> Vec<usize> {
    set_hold(true);
    moved.op.post().expect("the post is taken");
    rig.wait("everything to be in flight", || {
        with(|world| world.uses.len()) == operations(moved.kind)
    });
    let used = used();
    assert_eq!(used.len(), 2, "one registration here, one key");
    for region in &moved.local.regions {
        link.from.withdraw(region);
        region.drop_registrations();
    }
    for card in moved.remote.cards() {
        link.near.forget(card.id);
    }
    // Whatever was dropped is freed in the engine's next turn.
    rig.settle(link);
    assert_eq!(left_of(&used), 2, "both are in use");
    used
}

#[test]
fn a_post_holds_registration_and_key_of_its_operations() {
    for kind in [Op::Read, Op::Write] {
        let rig = rig(THREADS);
        let link = rig.pair();
        let moved = Move::new(&rig, &link, kind);
        rig.settle(&link);
        let used = post_alone(&rig, &link, &moved);
        set_hold(false);
        rig.end(&moved.op).expect("it has all that it needs");
        moved.check();
        rig.settle(&link);
        assert_eq!(left_of(&used), 0, "nobody needs them any more");
        finish(rig, (moved, link));
    }
}

#[test]
fn a_released_post_holds_them_to_its_end() {
    for kind in [Op::Read, Op::Write] {
        let rig = rig(THREADS);
        let link = rig.pair();
        let moved = Move::new(&rig, &link, kind);
        rig.settle(&link);
        let used = post_alone(&rig, &link, &moved);
        let Move {
            local, remote, op, ..
        } = moved;
        op.transfer().cancel();
        let post = Arc::downgrade(&op);
        drop((local, op));
        rig.settle(&link);
        assert_eq!(left_of(&used), 2, "both are in use");
        assert!(post.upgrade().is_some(), "its token keeps it");
        set_hold(false);
        rig.wait("the post to be freed", || post.upgrade().is_none());
        rig.wait("its handles to be freed", || left_of(&used) == 0);
        if kind == Op::Write {
            remote.check(7, "there");
        }
        finish(rig, (remote, link));
    }
}

#[test]
fn a_broken_endpoint_frees_them_when_its_operations_have_ended() {
    for kind in [Op::Read, Op::Write] {
        let rig = rig(THREADS);
        let link = rig.pair();
        let moved = Move::new(&rig, &link, kind);
        rig.settle(&link);
        let used = post_alone(&rig, &link, &moved);
        let target = peer_of_first();
        with(|world| {
            world.faults.stuck = Some(target);
            world.faults.status = Some(ucs_status_t::UCS_ERR_ENDPOINT_TIMEOUT);
            world.break_endpoints(|endpoint| endpoint.peer == target);
        });
        set_hold(false);
        let ended = rig.wait_for(Duration::from_millis(100), || !moved.op.is_open());
        assert!(!ended, "the token came back under operations in flight");
        assert_eq!(left_of(&used), 2, "both are in use");
        with(|world| {
            world.faults.stuck = None;
            world.ring();
        });
        let e = rig.end(&moved.op).expect_err("its endpoint broke");
        assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
        rig.wait("its handles to be freed", || left_of(&used) == 0);
        moved.target().check_partly(7, "broken off");
        rig.wait("the end to be told", || link.near.closed().is_some());
        with(|world| {
            world.faults.status = None;
            world.break_endpoints(|endpoint| endpoint.worker == target);
        });
        finish(rig, (moved, link));
    }
}
