//! What a simulated backend is told to do wrong, and the handle that tells it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use nixl_core::ErrorKind;

use super::engine::Engine;

/// `times` operations fail with `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// How many more.
    pub times: u32,
    /// With which error.
    pub kind: ErrorKind,
}

/// What goes wrong. The default is nothing. Counted faults are used up as they happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// Transfers that are queued together advance, and so complete, in an order drawn from the
    /// configured seed instead of first come, first served.
    pub reorder: bool,
    /// No transfer moves more than this many bytes, until [`SimControl::release`].
    pub stall_after: Option<u64>,
    /// Posts that are refused; each gives its token back.
    pub refuse_posts: Option<Failing>,
    /// Transfers that fail once they have moved `fail_after` bytes (sooner if they are shorter).
    pub fail_transfers: Option<Failing>,
    /// Bytes that a failing transfer moves first.
    pub fail_after: u64,
    /// Transfers whose token is dropped instead of completed: a bug in a backend.
    pub drop_tokens: u32,
    /// Cancelling does nothing.
    pub deaf_to_cancel: bool,
    /// `forget` does nothing: a peer that keeps a withdrawn region mapped.
    pub keeps_leases: bool,
    /// Every connection is cut after this many steps. A step is one chunk moved or one message
    /// delivered.
    pub cut_after: Option<u64>,
    /// Messages to this agent wait until [`SimControl::release`].
    pub hold_messages: bool,
    /// Connects that fail.
    pub refuse_connects: Option<Failing>,
    /// Connects get no answer: not until [`SimControl::release`], which connects them.
    pub silent_connects: bool,
}

/// What a simulated backend has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimCounts {
    /// Calls of `connect`.
    pub connects: u64,
    /// Posts taken and refused.
    pub posts: u64,
    /// Posts refused.
    pub refused: u64,
    /// Calls of `cancel`.
    pub cancels: u64,
    /// Messages sent.
    pub sends: u64,
    /// Messages delivered to this agent.
    pub delivered: u64,
    /// Tokens completed.
    pub completed: u64,
    /// Regions forgotten.
    pub forgets: u64,
    /// Payload bytes copied.
    pub bytes: u64,
}

/// Steers one simulated backend from a test. Clones steer the same one.
#[derive(Clone)]
pub struct SimControl(pub(super) Arc<Engine>);

impl SimControl {
    /// Changes the fault plan and sees to what it now allows.
    pub fn faults(&self, change: impl FnOnce(&mut FaultPlan)) {
        self.0.change_faults(change);
    }

    /// Lets go of what is held: stalled transfers, messages, unanswered connects.
    pub fn release(&self) {
        self.faults(|plan| {
            plan.stall_after = None;
            plan.hold_messages = false;
            plan.silent_connects = false;
        });
    }

    /// Cuts every connection, as a broken network does: what is on its way is lost. New ones can
    /// be made.
    pub fn cut(&self) {
        self.0.end_all("the simulated network was cut", true);
    }

    /// Ends the simulated process: connections are cut and nobody can connect again.
    pub fn kill(&self) {
        self.0.die(true);
    }

    /// Transfers posted and not completed.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    /// What it has done so far.
    pub fn counts(&self) -> SimCounts {
        self.0.counters.snapshot()
    }
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) connects: AtomicU64,
    pub(super) posts: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) cancels: AtomicU64,
    pub(super) sends: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) completed: AtomicU64,
    pub(super) forgets: AtomicU64,
    pub(super) bytes: AtomicU64,
}

impl Counters {
    fn snapshot(&self) -> SimCounts {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        SimCounts {
            connects: read(&self.connects),
            posts: read(&self.posts),
            refused: read(&self.refused),
            cancels: read(&self.cancels),
            sends: read(&self.sends),
            delivered: read(&self.delivered),
            completed: read(&self.completed),
            forgets: read(&self.forgets),
            bytes: read(&self.bytes),
        }
    }
}

pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Takes one of the failures that are left.
pub(super) fn take(failing: &mut Option<Failing>) -> Option<ErrorKind> {
    let left = failing.as_mut()?;
    let kind = left.kind;
    match left.times.checked_sub(1)? {
        0 => *failing = None,
        n => left.times = n,
    }
    Some(kind)
}
