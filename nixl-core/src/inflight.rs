//! The in-flight kernel: the one token that keeps an operation's memory alive (INV-1).
//!
//! A backend gets a [`Completion`] by value with every post. The token owns the operation, the
//! operation owns its plan, the plan owns the regions. So memory outlives whatever the caller does
//! with requests, regions or the agent. The backend gives the token back exactly once, by
//! [`Completion::complete`], after neither code nor device touches the memory any more.
//!
//! A token that is dropped instead (a bug, an unwinding panic) means that nobody knows whether
//! the memory is still in use: the operation is leaked for good and reported as `Abandoned`.
//!
//! There is no `unsafe` here on purpose: ownership does all of it.

use std::{collections::VecDeque, task::Waker};

use crate::{
    Error, ErrorKind, Result,
    error::fail,
    sync::{AtomicU32, Condvar, Mutex, Ordering, fence},
};

/// What owns an operation's memory and wants to know how it ended.
pub trait OpOwner: Send + Sync + 'static {
    /// Attempt number `attempt` ended; nothing touches its memory any more. Runs on the thread
    /// that completed it and must not block.
    fn finished(self: std::sync::Arc<Self>, attempt: u32, result: Result<()>);
}

/// The one token of one posted attempt. Unique, must be completed; dropping it leaks the memory.
#[must_use = "dropping a completion token leaks the operation's memory"]
pub struct Completion {
    owner: Option<std::sync::Arc<dyn OpOwner>>,
    attempt: u32,
}

impl Completion {
    /// The token of attempt `attempt` of `owner`. Allocates nothing.
    pub fn new(owner: std::sync::Arc<dyn OpOwner>, attempt: u32) -> Self {
        Self {
            owner: Some(owner),
            attempt,
        }
    }

    /// Ends the attempt: neither code nor device touches its memory from here on.
    pub fn complete(mut self, result: Result<()>) {
        if let Some(owner) = self.owner.take() {
            owner.finished(self.attempt, result);
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        let Some(owner) = self.owner.take() else {
            return;
        };
        std::mem::forget(owner.clone());
        tracing::error!("a backend dropped a completion token: its memory is leaked");
        owner.finished(
            self.attempt,
            Err(fail(
                ErrorKind::Abandoned,
                "the backend dropped the operation without completing it; its memory stays \
                 allocated",
            )),
        );
    }
}

/// How a request stands. `Stalled` is derived from progress, see `Request::status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Phase {
    Prepared = 0,
    Active = 1,
    Done = 2,
    Failed = 3,
    Cancelled = 4,
}

impl Phase {
    fn from_number(n: u32) -> Self {
        match n {
            0 => Self::Prepared,
            1 => Self::Active,
            2 => Self::Done,
            3 => Self::Failed,
            _ => Self::Cancelled,
        }
    }

    pub(crate) fn is_terminal(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// One atomic state with its views: poll, block, waker. Allocates nothing after construction.
///
/// Protocol, checked by loom (`tests/loom.rs`): the publisher stores the phase, then looks for
/// interest; whoever waits announces interest, then looks at the phase. The fence between makes
/// one of them see the other.
pub(crate) struct OpState {
    phase: AtomicU32,
    interest: AtomicU32,
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    error: Option<Error>,
    /// One for each future that waits, under its ticket, oldest first.
    wakers: VecDeque<(Ticket, Waker)>,
    last: Ticket,
}

/// Tells the futures of one operation apart; never 0.
type Ticket = u64;

impl OpState {
    pub(crate) fn new() -> Self {
        Self {
            phase: AtomicU32::new(Phase::Prepared as u32),
            interest: AtomicU32::new(0),
            inner: Mutex::new(Inner {
                error: None,
                wakers: VecDeque::new(),
                last: 0,
            }),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        Phase::from_number(self.phase.load(Ordering::Acquire))
    }

    /// Prepared or ended → Active. False if it was active already.
    pub(crate) fn begin(&self) -> bool {
        let mut now = self.phase.load(Ordering::Relaxed);
        loop {
            if now == Phase::Active as u32 {
                return false;
            }
            match self.phase.compare_exchange(
                now,
                Phase::Active as u32,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(seen) => now = seen,
            }
        }
    }

    /// Active → how it ended, then wakes whoever waits. Called once per `begin`.
    pub(crate) fn publish(&self, result: Result<()>) {
        let phase = match &result {
            Ok(()) => Phase::Done,
            Err(e) if e.kind() == ErrorKind::Cancelled => Phase::Cancelled,
            Err(_) => Phase::Failed,
        };
        if let Err(e) = result {
            self.inner.lock().error = Some(e);
        }
        self.phase.store(phase as u32, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.interest.load(Ordering::Relaxed) != 0 {
            let waiting = {
                let inner = self.inner.lock();
                self.interest.store(0, Ordering::Relaxed);
                self.changed.notify_all();
                inner.wakers.len()
            };
            self.wake(waiting);
        }
    }

    /// Wakes the oldest `count` futures, without the lock, since a waker runs anybody's code.
    fn wake(&self, count: usize) {
        for _ in 0..count {
            let oldest = self.inner.lock().wakers.pop_front();
            let Some((_, waker)) = oldest else { return };
            waker.wake();
        }
    }

    /// The error of a failed or cancelled operation.
    pub(crate) fn error(&self) -> Option<Error> {
        self.inner.lock().error.clone()
    }

    /// Leaves `waker` to be woken at the next publish, in the place of the one that was left under
    /// `ticket` (0: gets one); `Some` if it has ended already.
    pub(crate) fn register(&self, ticket: &mut Ticket, waker: &Waker) -> Option<Phase> {
        {
            let mut inner = self.inner.lock();
            if *ticket == 0 {
                inner.last += 1;
                *ticket = inner.last;
            }
            match inner.wakers.iter_mut().find(|w| w.0 == *ticket) {
                Some((_, old)) => old.clone_from(waker),
                None => inner.wakers.push_back((*ticket, waker.clone())),
            }
            self.interest.store(1, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        let phase = self.phase();
        phase.is_terminal().then_some(phase)
    }

    /// The future with `ticket` does not wait any more.
    pub(crate) fn unregister(&self, ticket: Ticket) {
        if ticket != 0 {
            self.inner.lock().wakers.retain(|w| w.0 != ticket);
        }
    }

    /// Blocks until it has ended or `timeout` is over, whichever is first.
    pub(crate) fn block(&self, timeout: std::time::Duration) -> Phase {
        let deadline = std::time::Instant::now().checked_add(timeout);
        let mut inner = self.inner.lock();
        loop {
            self.interest.store(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            let phase = self.phase();
            if phase != Phase::Active {
                return phase;
            }
            let over = match deadline {
                Some(at) => self.changed.wait_until(&mut inner, at).timed_out(),
                None => {
                    self.changed.wait(&mut inner);
                    false
                }
            };
            if over {
                return self.phase();
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        task::{Wake, Waker},
        time::Duration,
    };

    use super::*;

    struct Owner {
        memory: Vec<u8>,
        ended: Mutex<Vec<(u32, Result<()>)>>,
    }

    impl OpOwner for Owner {
        fn finished(self: std::sync::Arc<Self>, attempt: u32, result: Result<()>) {
            self.ended.lock().push((attempt, result));
        }
    }

    fn owner() -> Arc<Owner> {
        Arc::new(Owner {
            memory: vec![7; 64],
            ended: Mutex::new(Vec::new()),
        })
    }

    #[test]
    fn a_completed_token_reports_once_and_frees() {
        let op = owner();
        Completion::new(op.clone(), 3).complete(Ok(()));
        assert_eq!(*op.ended.lock(), [(3, Ok(()))]);
        assert_eq!(Arc::strong_count(&op), 1);
    }

    #[test]
    fn a_dropped_token_leaks_and_reports_abandoned() {
        let op = owner();
        let weak = Arc::downgrade(&op);
        let memory = op.memory.as_ptr();
        drop(Completion::new(op.clone(), 1));
        assert_eq!(
            op.ended.lock()[0].1.as_ref().unwrap_err().kind(),
            ErrorKind::Abandoned
        );
        drop(op);
        let leaked = weak
            .upgrade()
            .expect("the memory was freed under the device");
        assert_eq!(leaked.memory.as_ptr(), memory);
    }

    #[test]
    fn a_token_outlives_every_handle() {
        let op = owner();
        let weak = Arc::downgrade(&op);
        let token = Completion::new(op, 1);
        assert!(weak.upgrade().is_some());
        token.complete(Err(fail(ErrorKind::Cancelled, "test")));
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn states_follow_each_other_and_a_double_begin_is_refused() {
        let s = OpState::new();
        assert!(s.begin());
        assert!(!s.begin());
        s.publish(Err(fail(ErrorKind::Cancelled, "test")));
        assert_eq!(s.phase(), Phase::Cancelled);
        assert!(s.begin());
        s.publish(Ok(()));
        assert_eq!(s.block(Duration::ZERO), Phase::Done);
    }

    #[test]
    fn a_blocked_thread_and_every_future_learn_of_the_end() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.fetch_add(1, SeqCst);
            }
        }
        let s = OpState::new();
        let [one, two, gone] = [(); 3].map(|()| Arc::new(Count(AtomicUsize::new(0))));
        let mut tickets = [0; 3];
        assert!(s.begin());
        for (ticket, waker) in tickets.iter_mut().zip([&one, &two, &gone]) {
            assert_eq!(s.register(ticket, Waker::noop()), None);
            assert_eq!(s.register(ticket, &Waker::from(waker.clone())), None);
        }
        s.unregister(tickets[2]);
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(s.block(Duration::from_secs(60)), Phase::Done));
            scope.spawn(|| s.publish(Ok(())));
        });
        for (waker, woken) in [(one, 1), (two, 1), (gone, 0)] {
            assert_eq!(waker.0.load(SeqCst), woken);
        }
    }
}
