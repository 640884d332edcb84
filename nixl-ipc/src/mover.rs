//! A prepared request: the initiator's copy threads take its chunks by turns.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use nixl_core::{
    Error, ErrorKind, Result,
    backend::{Refused, Transfer},
    error::fail,
    gate::Gate,
    inflight::Completion,
    plan::Plan,
    runtime::{Runtime, Step, Task},
};
use parking_lot::Mutex;

/// Told when something that an `acquire` waited for is there, or will never be.
pub(crate) trait Waiter: Send + Sync + 'static {
    fn resume(self: Arc<Self>);
}

/// How one path reaches the peer's memory.
///
/// # Safety
///
/// Between an `acquire` that returned true and the next `release`, `copy` moves exactly the bytes
/// of its chunk, touches no other memory, and touches none after it returned.
pub(crate) unsafe trait Side: Send + Sync + 'static {
    fn gate(&self) -> &Gate;
    /// The connection ended and this was its last post: tell it soon, on another stack.
    fn last_post(&self);
    /// Takes hold of the peer's memory for one post. `Ok(false)`: it has been asked for; `waiter`
    /// is resumed, call again then, not `fresh`.
    fn acquire(&self, plan: &Plan, waiter: &Arc<dyn Waiter>, fresh: bool) -> Result<bool>;
    /// Lets go of it.
    fn release(&self);
    /// Moves chunk `index`; returns its bytes.
    fn copy(&self, plan: &Plan, index: usize) -> Result<u64>;
    /// Errors if the peer is gone, so that what was moved may not be trusted.
    fn check(&self) -> Result<()>;
}

/// A request on one path of one connection.
pub(crate) struct Mover<S> {
    plan: Arc<Plan>,
    side: S,
    runtime: Runtime,
    /// Small enough to be copied by whoever posts it.
    inline: bool,
    stage: Mutex<Stage>,
    /// Next chunk to take.
    next: AtomicUsize,
    /// Runs on copy threads that have not ended.
    workers: AtomicUsize,
    moved: AtomicU64,
    stop: AtomicBool,
    failure: Mutex<Option<Error>>,
}

/// Who holds the token.
enum Stage {
    Idle,
    /// The peer's memory has been asked for.
    Waiting(Completion),
    Running(Completion),
}

impl Stage {
    fn take(&mut self) -> Option<Completion> {
        match std::mem::replace(self, Self::Idle) {
            Self::Idle => None,
            Self::Waiting(done) | Self::Running(done) => Some(done),
        }
    }
}

impl<S: Side> Mover<S> {
    pub(crate) fn new(plan: Arc<Plan>, side: S, runtime: Runtime, inline: bool) -> Self {
        Self {
            plan,
            side,
            runtime,
            inline,
            stage: Mutex::new(Stage::Idle),
            next: AtomicUsize::new(0),
            workers: AtomicUsize::new(0),
            moved: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// The peer's memory is held: copy. `here`: the caller's thread may do a small one.
    fn start(self: Arc<Self>, here: bool) {
        let chunks = self.plan.chunks();
        if here && self.inline {
            self.workers.store(1, Ordering::Relaxed);
            while self.step() {}
            self.leave();
            return;
        }
        let threads = self.runtime.copy_threads().min(chunks);
        self.workers.store(threads, Ordering::Relaxed);
        for _ in 1..threads {
            self.runtime.spawn(self.clone());
        }
        let runtime = self.runtime.clone();
        runtime.spawn(self);
    }

    /// Moves one chunk; false when none is left to take.
    fn step(&self) -> bool {
        if self.stop.load(Ordering::Relaxed) {
            return false;
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        if index >= self.plan.chunks() {
            return false;
        }
        let result = self
            .side
            .gate()
            .check()
            .and_then(|()| self.side.copy(&self.plan, index));
        match result {
            Ok(bytes) => {
                self.moved.fetch_add(bytes, Ordering::Relaxed);
                true
            }
            Err(error) => {
                self.fail(error);
                false
            }
        }
    }

    /// Ends the post early; the first reason stays.
    fn fail(&self, error: Error) {
        self.failure.lock().get_or_insert(error);
        self.stop.store(true, Ordering::Relaxed);
    }

    /// One thread is through. The last one completes the token: no thread touches memory then.
    fn leave(&self) {
        if self.workers.fetch_sub(1, Ordering::AcqRel) == 1 {
            let failure = self.failure.lock().take();
            let result = failure.map_or_else(|| self.side.check(), Err);
            let done = self.stage.lock().take();
            self.end(done, result);
        }
    }

    /// Gives the token back. Nothing of `self` that a next post uses is touched afterwards.
    fn end(&self, done: Option<Completion>, result: Result<()>) {
        let Some(done) = done else { return };
        self.side.release();
        done.complete(result);
        if self.side.gate().exit() {
            self.side.last_post();
        }
    }
}

// SAFETY: INV-1, the copy threads that `start` counts are the only ones that touch the plan's
// memory, by `Side::copy`, and the token completes after the last of them left.
unsafe impl<S: Side> Transfer for Mover<S> {
    fn post(self: Arc<Self>, done: Completion) -> Result<(), Refused> {
        if let Err(error) = self.side.gate().enter() {
            return Err(Refused { error, done });
        }
        self.next.store(0, Ordering::Relaxed);
        self.moved.store(0, Ordering::Relaxed);
        self.stop.store(false, Ordering::Relaxed);
        *self.failure.lock() = None;
        let waiter: Arc<dyn Waiter> = self.clone();
        // Held until the token lies in its place, so that nobody resumes or cancels before.
        let mut stage = self.stage.lock();
        match self.side.acquire(&self.plan, &waiter, true) {
            Ok(true) => {
                *stage = Stage::Running(done);
                drop(stage);
                self.start(true);
            }
            Ok(false) => *stage = Stage::Waiting(done),
            Err(error) => {
                drop(stage);
                self.side.release();
                if self.side.gate().exit() {
                    self.side.last_post();
                }
                return Err(Refused { error, done });
            }
        }
        Ok(())
    }

    fn cancel(&self) {
        let cancelled = || fail(ErrorKind::Cancelled, "cancelled");
        let done = {
            let mut stage = self.stage.lock();
            match &*stage {
                Stage::Idle => return,
                Stage::Waiting(_) => stage.take(),
                Stage::Running(_) => {
                    self.fail(cancelled());
                    return;
                }
            }
        };
        self.end(done, Err(cancelled()));
    }

    fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Only our own threads write, and they have left when the token completes.
    fn fenced(&self) -> bool {
        true
    }
}

impl<S: Side> Waiter for Mover<S> {
    fn resume(self: Arc<Self>) {
        let waiter: Arc<dyn Waiter> = self.clone();
        let mut stage = self.stage.lock();
        if !matches!(*stage, Stage::Waiting(_)) {
            return;
        }
        match self.side.acquire(&self.plan, &waiter, false) {
            Ok(false) => {}
            Ok(true) => {
                if let Some(done) = stage.take() {
                    *stage = Stage::Running(done);
                }
                drop(stage);
                self.start(false);
            }
            Err(error) => {
                let done = stage.take();
                drop(stage);
                self.end(done, Err(error));
            }
        }
    }
}

impl<S: Side> Task for Mover<S> {
    fn run(self: Arc<Self>, until: Instant) -> Step {
        while self.step() {
            if Instant::now() >= until {
                return Step::Again;
            }
        }
        self.leave();
        Step::Done
    }
}
