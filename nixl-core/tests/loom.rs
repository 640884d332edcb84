//! The completion protocol (`OpState`) under every interleaving of its threads and every value
//! that the memory model lets their loads return.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p nixl-core --release --test loom`
//!
//! The module is compiled in from its source, over loom's primitives. Its one fence can be taken
//! out, which the last models do: they must deadlock, or these models prove nothing.
#![cfg(loom)]

use std::{
    cell::Cell,
    future::poll_fn,
    task::{Poll, Waker},
    time::Duration,
};

use loom::{future::block_on, sync::Arc, thread};

#[expect(dead_code, unreachable_pub, reason = "the library uses the rest")]
#[path = "../src/error.rs"]
mod error;
#[expect(dead_code, unreachable_pub, reason = "the library uses the rest")]
#[path = "../src/inflight.rs"]
mod inflight;
#[path = "../src/sync.rs"]
mod primitives;

use error::fail;
pub(crate) use error::{Error, ErrorKind, Result};
use inflight::{OpState, Phase};

/// What the module sees as `crate::sync`.
mod sync {
    pub(crate) use super::primitives::{AtomicU32, Condvar, Mutex, Ordering};

    pub(crate) fn fence(order: Ordering) {
        if !super::FENCE_TAKEN_OUT.get() {
            super::primitives::fence(order);
        }
    }
}

thread_local! {
    /// A model runs all of its threads on one thread of the system.
    static FENCE_TAKEN_OUT: Cell<bool> = const { Cell::new(false) };
}

const LONG: Duration = Duration::from_secs(3600);

/// A model of three threads, in every interleaving with at most three preemptions: all of them
/// take minutes.
fn bounded(model: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn active() -> Arc<OpState> {
    let state = Arc::new(OpState::new());
    assert!(state.begin());
    state
}

/// Ends the present post of `state` on a thread of its own.
fn publisher(state: &Arc<OpState>, result: Result<()>) -> thread::JoinHandle<()> {
    let state = state.clone();
    thread::spawn(move || state.publish(result))
}

/// Waits as the `Future` view does. A wake that is lost deadlocks.
fn poll_to_end(state: &OpState) -> Phase {
    poll_on(state, 0)
}

fn poll_on(state: &OpState, mut ticket: u64) -> Phase {
    block_on(poll_fn(|cx| {
        match state.register(&mut ticket, cx.waker()) {
            None => Poll::Pending,
            Some(phase) => Poll::Ready(phase),
        }
    }))
}

fn a_future_learns_of_the_end() {
    let state = active();
    let publisher = publisher(&state, Ok(()));
    assert_eq!(poll_to_end(&state), Phase::Done);
    publisher.join().unwrap();
}

fn a_blocked_thread_learns_of_the_end() {
    let state = active();
    let publisher = publisher(&state, Ok(()));
    assert_eq!(state.block(LONG), Phase::Done);
    publisher.join().unwrap();
}

#[test]
fn publish_and_register_lose_no_wake() {
    loom::model(a_future_learns_of_the_end);
}

#[test]
fn publish_and_block_lose_no_wake() {
    loom::model(a_blocked_thread_learns_of_the_end);
}

#[test]
fn a_future_and_a_blocked_thread_both_learn_of_the_end() {
    bounded(|| {
        let state = active();
        let publisher = publisher(&state, Ok(()));
        let blocked = {
            let state = state.clone();
            thread::spawn(move || assert_eq!(state.block(LONG), Phase::Done))
        };
        assert_eq!(poll_to_end(&state), Phase::Done);
        blocked.join().unwrap();
        publisher.join().unwrap();
    });
}

#[test]
fn two_futures_both_learn_of_the_end() {
    bounded(|| {
        let state = active();
        let publisher = publisher(&state, Ok(()));
        let other = {
            let state = state.clone();
            thread::spawn(move || assert_eq!(poll_to_end(&state), Phase::Done))
        };
        assert_eq!(poll_to_end(&state), Phase::Done);
        other.join().unwrap();
        publisher.join().unwrap();
    });
}

#[test]
fn the_last_waker_is_the_one_that_is_woken() {
    loom::model(|| {
        let state = active();
        let publisher = publisher(&state, Ok(()));
        // A future that moved to another task: nobody waits on the first waker any more.
        let mut ticket = 0;
        let ended = state.register(&mut ticket, Waker::noop());
        assert_eq!(poll_on(&state, ticket), Phase::Done);
        assert!(matches!(ended, None | Some(Phase::Done)));
        publisher.join().unwrap();
    });
}

#[test]
fn who_sees_a_failure_sees_its_reason() {
    loom::model(|| {
        let state = active();
        let publisher = publisher(&state, Err(fail(ErrorKind::PeerGone, "test")));
        while state.phase() == Phase::Active {
            thread::yield_now();
        }
        assert_eq!(state.phase(), Phase::Failed);
        assert_eq!(state.error().map(|e| e.kind()), Some(ErrorKind::PeerGone));
        publisher.join().unwrap();
    });
}

#[test]
fn one_of_two_begins_wins() {
    loom::model(|| {
        let state = Arc::new(OpState::new());
        let other = {
            let state = state.clone();
            thread::spawn(move || state.begin())
        };
        let here = state.begin();
        assert!(here ^ other.join().unwrap());
        assert_eq!(state.phase(), Phase::Active);
    });
}

/// A publisher that is slow to look for interest meets the next post's: it may wake for nothing,
/// and that must not cost the next post its wake.
#[test]
fn a_repost_while_the_publisher_still_looks_loses_no_wake() {
    bounded(|| {
        let state = active();
        let first = publisher(&state, Err(fail(ErrorKind::Cancelled, "test")));
        assert_eq!(state.block(LONG), Phase::Cancelled);
        assert!(state.begin());
        let second = publisher(&state, Ok(()));
        assert_eq!(poll_to_end(&state), Phase::Done);
        first.join().unwrap();
        second.join().unwrap();
    });
}

fn without_the_fence(model: fn()) {
    FENCE_TAKEN_OUT.set(true);
    loom::model(model);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fence_a_future_sleeps_for_good() {
    without_the_fence(a_future_learns_of_the_end);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fence_a_blocked_thread_sleeps_for_good() {
    without_the_fence(a_blocked_thread_learns_of_the_end);
}
