//! Transfers that do not run to their end: cancelled, cut off, refused.

use std::{sync::Arc, time::Duration};

use nixl_core::{ErrorKind, Op};

use super::{Move, linger, still_works};
use crate::rig::{Link, Rig, TestOp, must_fail};

/// Longest time from `cancel` to the token.
const CANCELLED_WITHIN: Duration = Duration::from_secs(5);

/// A post after the end of the connection gives its token back, or completes it with the error.
pub fn refused_posts_return_the_token(rig: &Rig) {
    let link = rig.pair();
    for op in rig.ops() {
        let moved = Move::single(&link, op, 100_000, 9);
        let op = moved.prepare(rig, &link);
        rig.run(&op).expect("the transfer succeeds");
        moved.target().clear();
        let second = rig.connect(&link.from, &link.to);
        let other = moved.prepare(rig, &second);
        second.near.endpoint().close();
        rig.wait("the end", || second.near.closed().is_some());
        let e = must_fail(rig.run(&other), "posting on a closed connection");
        assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
        let e = second.near.endpoint().send("late".into()).err();
        assert!(e.is_some(), "sending on a closed connection succeeded");
        moved
            .target()
            .check_untouched("posted on a closed connection");
        rig.run(&op).expect("the first connection is another");
        moved.check("on the first connection");
    }
}

/// `cancel` ends a transfer soon, and then nothing touches its memory; connection and transfer
/// can be used again.
pub fn cancel_midway(rig: &Rig) {
    let link = rig.pair();
    for op in rig.ops() {
        let moved = Move::long(&link, op, 300);
        let op = moved.prepare(rig, &link);
        op.transfer().cancel();
        for wait_for_bytes in [false, true] {
            moved.source().fill(300);
            moved.target().clear();
            op.post()
                .expect("cancelling what is not posted means nothing");
            if wait_for_bytes {
                rig.wait("progress", || op.transfer().moved() > 0 || !op.is_open());
            }
            op.transfer().cancel();
            op.transfer().cancel();
            assert!(
                rig.wait_for(CANCELLED_WITHIN.min(rig.patience()), || !op.is_open()),
                "the token came later than {CANCELLED_WITHIN:?} after the cancel"
            );
            match rig.end(&op) {
                Ok(()) => moved.check("done before it was cancelled"),
                Err(e) => assert_eq!(e.kind(), ErrorKind::Cancelled, "{e}"),
            }
            nothing_lands_late(rig, &link, &moved, &op);
        }
        moved.source().fill(300);
        moved.target().clear();
        rig.run(&op)
            .expect("a cancelled transfer can be posted again");
        moved.check("posted after a cancel");
    }
    still_works(rig, &link);
}

/// The token came back: from here on local memory is ours, and so is the target's where a failed
/// WRITE is said to be fenced. Overwrites both and looks for bytes that should not be there.
fn nothing_lands_late(rig: &Rig, link: &Link, moved: &Move, op: &Arc<TestOp>) {
    let failed = matches!(op.result(), Some(Err(_)));
    match moved.op {
        Op::Read => {
            moved
                .target()
                .check_partly(moved.seed, "a READ that ended early");
            moved.target().clear();
        }
        Op::Write if failed && op.transfer().fenced() => {
            moved.source().fill(moved.seed + 1000);
            moved.target().clear();
        }
        Op::Write => moved.source().fill(moved.seed + 1000),
    }
    if link.near.closed().is_none() && link.far.closed().is_none() {
        rig.settle(link);
    }
    linger(rig);
    let late = "written after the token was completed";
    match moved.op {
        Op::Read => moved.target().check_untouched(late),
        Op::Write if failed && op.transfer().fenced() => moved.target().check_untouched(late),
        Op::Write => moved
            .target()
            .check_partly(moved.seed, "read after the token was completed"),
    }
}

/// What `end_it` does while three transfers run ends each of them once, then both ends of the
/// connection; nothing is touched afterwards.
fn ends_midway(rig: &Rig, op: Op, kinds: &[ErrorKind], end_it: impl FnOnce(&Link)) -> Link {
    let link = rig.pair();
    let moves: Vec<_> = (0..3).map(|i| Move::long(&link, op, 400 + 3 * i)).collect();
    let ops: Vec<_> = moves.iter().map(|m| m.prepare(rig, &link)).collect();
    for op in &ops {
        op.post().expect("the post is taken");
    }
    rig.wait("progress", || {
        ops.iter()
            .any(|op| op.transfer().moved() > 0 || !op.is_open())
    });
    end_it(&link);
    for (moved, op) in moves.iter().zip(&ops) {
        match rig.end(op) {
            Ok(()) => moved.check("done before the end"),
            Err(e) => assert!(kinds.contains(&e.kind()), "the connection ended: {e}"),
        }
    }
    for (side, name) in [(&link.near, "near"), (&link.far, "far")] {
        rig.wait(&format!("the {name} end to report"), || {
            side.closed().is_some()
        });
    }
    for (moved, op) in moves.iter().zip(&ops) {
        nothing_lands_late(rig, &link, moved, op);
    }
    let e = must_fail(rig.run(&ops[0]), "posting after the end");
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
    for moved in &moves {
        rig.wait("the peer's regions to be let go", || {
            moved.remote.regions[0].pins() == 0
        });
    }
    link
}

/// The peer shuts down while transfers run.
pub fn peer_dies(rig: &Rig) {
    for op in rig.ops() {
        let link = ends_midway(rig, op, &[ErrorKind::PeerGone], |link| {
            link.to.backend.shutdown()
        });
        let other = rig.node("c");
        still_works(rig, &rig.connect(&link.from, &other));
    }
}

/// Either side closes the connection while transfers run; a new one can be made.
pub fn closed_midway(rig: &Rig) {
    for op in rig.ops() {
        let kinds = [ErrorKind::PeerGone, ErrorKind::Cancelled];
        let link = ends_midway(rig, op, &kinds, |link| {
            link.near.endpoint().close();
            link.near.endpoint().close();
        });
        still_works(rig, &rig.connect(&link.from, &link.to));
        let link = ends_midway(rig, op, &kinds[..1], |link| link.far.endpoint().close());
        still_works(rig, &rig.connect(&link.from, &link.to));
    }
}
