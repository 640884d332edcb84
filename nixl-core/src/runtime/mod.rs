//! Core's threads: one progress thread with a reactor, and a pool of copy threads.
//!
//! Backends own no threads. They watch file descriptors and spawn tasks; under
//! [`Progress::Caller`] the same work runs inside `Agent::progress`.

mod pollers;
mod pool;
mod reactor;
#[cfg(test)]
mod tests;
mod turn;

use std::{
    os::fd::BorrowedFd,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use pollers::Pollers;
use pool::Pool;
pub use reactor::{Readiness, Watch, WatchToken};
use rustix::event::epoll::EventFlags;
pub use turn::Turn;

use crate::Result;

/// Longest slice of work inside one `Agent::progress` call.
const CALLER_SLICE: Duration = Duration::from_millis(1);
/// How long the progress thread works on a task that it queued itself before a copy thread goes
/// on: waking one takes a good part of that, and more where it has to wait for a processor.
const HELP: Duration = Duration::from_micros(250);
/// Longest sleep of the progress thread: bounds how late a newly set, near deadline is seen.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// When `timeout` is over; some decades on for times that no clock can hold (`Duration::MAX`).
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    later(Instant::now(), timeout)
}

/// [`deadline_after`] from another time on.
pub(crate) fn later(at: Instant, timeout: Duration) -> Instant {
    at.checked_add(timeout)
        .unwrap_or_else(|| at + Duration::from_secs(1 << 30))
}

/// Who makes progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Core's own threads: one progress thread and `copy_threads` copy threads (≥ 1).
    Threads {
        /// Threads that copy memory and move socket payload.
        copy_threads: usize,
    },
    /// No threads: work advances inside `Agent::progress` only.
    Caller,
}

/// How a task wants to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing left to do now; spawn it again when there is.
    Done,
    /// More to do: run it again after others had a turn.
    Again,
}

/// Work for a copy thread. The same task may be spawned several times and then runs on several
/// threads at once; it must be written for that.
pub trait Task: Send + Sync + 'static {
    /// Works until about `until`, never blocks, never panics.
    fn run(self: Arc<Self>, until: Instant) -> Step;
}

/// Something that wants to be called at times.
pub trait Tick: Send + Sync + 'static {
    /// Does what is due and says when it wants to be called next. Must not block.
    fn tick(&self, now: Instant) -> Option<Instant>;
}

/// Something that a thread which waits can look at sooner than the reactor tells of it.
pub trait Source: Send + Sync + 'static {
    /// Looks for events, and handles them. Called all the time by callers that wait, several at once
    /// maybe. Must be quick where there is nothing, and not block.
    fn poll(&self);
}

/// Rounds of the reactor after the threads stopped: handlers may make each other ready.
const LAST_POLLS: usize = 64;

/// Handle to the threads; clones share them.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    pollers: Pollers,
    pool: Pool,
    threaded: bool,
    spin: Duration,
    stop: AtomicBool,
    tickers: Mutex<Vec<Weak<dyn Tick>>>,
    /// When the progress thread means to wake up, in nanoseconds of [`Pollers::nanos`].
    wakes_at: AtomicU64,
    /// The earliest tick that was asked for since the tickers last ran.
    due: AtomicU64,
    /// Callers asleep in `progress`, where there is no progress thread.
    sleepers: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Runtime {
    /// Starts the threads of `mode`. `spin`: how long a thread polls after its last event before
    /// it blocks.
    pub fn start(mode: Progress, spin: Duration) -> Result<Self> {
        let (threaded, copiers) = match mode {
            Progress::Threads { copy_threads } => (true, copy_threads.max(1)),
            Progress::Caller => (false, 0),
        };
        let inner = Arc::new(Inner {
            pollers: Pollers::new(Instant::now())?,
            pool: Pool::new(copiers),
            threaded,
            spin,
            stop: AtomicBool::new(false),
            tickers: Mutex::new(Vec::new()),
            wakes_at: AtomicU64::new(0),
            due: AtomicU64::new(u64::MAX),
            sleepers: AtomicUsize::new(0),
            threads: Mutex::new(Vec::new()),
        });
        let runtime = Self(inner);
        if let Err(e) = runtime.launch_all(copiers) {
            runtime.stop();
            return Err(e);
        }
        Ok(runtime)
    }

    fn launch_all(&self, copiers: usize) -> Result<()> {
        for i in 0..copiers {
            let this = self.0.clone();
            self.launch(format!("nixl-copy-{i}"), move || this.pool.work(this.spin))?;
        }
        if self.0.threaded {
            let this = self.0.clone();
            self.launch("nixl-progress".to_owned(), move || this.progress_loop())?;
        }
        Ok(())
    }

    fn launch(&self, name: String, body: impl FnOnce() + Send + 'static) -> Result<()> {
        let handle = std::thread::Builder::new()
            .name(name)
            .spawn(body)
            .map_err(|e| crate::Error::os("starting a thread (see ulimit -u)", e))?;
        self.0.threads.lock().push(handle);
        Ok(())
    }

    /// Queues `task` for one run on a copy thread. Allocates nothing once the queue is warm.
    pub fn spawn(&self, task: Arc<dyn Task>) {
        self.0.pool.push(task);
        self.0.wake_sleepers();
    }

    /// Copy threads, at least 1: how many runs of one task can be at work at once.
    pub fn copy_threads(&self) -> usize {
        self.0.pool.threads().max(1)
    }

    /// Whether core's own threads run (false: `Progress::Caller`).
    pub fn is_threaded(&self) -> bool {
        self.0.threaded
    }

    /// Calls `handler` on every edge of readiness of `fd` (epoll, edge-triggered, in and out).
    /// The caller keeps `fd` open until the token is dropped. Calls may overlap.
    pub fn watch(&self, fd: BorrowedFd<'_>, handler: Arc<dyn Watch>) -> Result<WatchToken> {
        let more = EventFlags::empty();
        self.0.pollers.reactor.watch(fd, handler, more)
    }

    /// Calls `handler` once when `fd` is ready, and once more after each [`WatchToken::again`]: for
    /// what says often that it is ready and is looked after for a while then.
    pub fn watch_once(&self, fd: BorrowedFd<'_>, handler: Arc<dyn Watch>) -> Result<WatchToken> {
        let more = EventFlags::ONESHOT;
        self.0.pollers.reactor.watch(fd, handler, more)
    }

    /// Calls `tick` now and then at the times it asks for, for as long as it is alive.
    pub fn add_ticker(&self, ticker: Weak<dyn Tick>) {
        self.0.tickers.lock().push(ticker);
        self.0.pollers.reactor.wake();
    }

    /// Has callers that wait look at `source`, for as long as it is alive. Events that nobody looks
    /// for are the reactor's, so it is watched as well.
    pub fn add_source(&self, source: Weak<dyn Source>) {
        self.0.pollers.add_source(source);
    }

    /// Makes sure that tickers run at `at` or soon after. Free when that is later than the next
    /// planned wake-up.
    pub fn tick_by(&self, at: Instant) {
        let at = self.0.pollers.nanos(at);
        // Note, then look: whoever is about to sleep says until when, then looks at the note.
        self.0.due.fetch_min(at, Ordering::SeqCst);
        if at < self.0.wakes_at.load(Ordering::SeqCst) {
            self.0.pollers.reactor.wake();
        }
        self.0.wake_sleepers();
    }

    /// Polls until `done` or `deadline`; true if `done`. Makes progress meanwhile under
    /// `Progress::Caller`, else sleeps between looks. Never call it from a task, watch or tick.
    pub fn wait(&self, deadline: Instant, mut done: impl FnMut() -> bool) -> bool {
        let begun = Instant::now();
        loop {
            if done() {
                return true;
            }
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            if !self.0.threaded {
                self.progress(Duration::from_millis(1));
            } else if now - begun < self.0.spin {
                self.poll();
            } else {
                std::thread::sleep(Duration::from_micros(200).min(deadline - now));
            }
        }
    }

    /// Spins for at most the spin time, polling the reactor from the calling thread and running
    /// queued tasks: whoever waits for a copy is the first who can begin it. True if `done`.
    pub(crate) fn spin_until(&self, deadline: Instant, mut done: impl FnMut() -> bool) -> bool {
        let pollers = &self.0.pollers;
        pollers.enter();
        let mut begun = Instant::now();
        let ended = loop {
            if done() {
                break true;
            }
            pollers.pause();
            let helped = self.0.pool.run_one(deadline, &mut done);
            pollers.enter();
            pollers.poll_sources();
            let (now, queued) = pool::instead_of_waking(|| pollers.poll());
            if helped || queued {
                begun = now;
            }
            if now >= deadline || now - begun >= self.0.spin {
                break done();
            }
            if begun != now {
                // Whoever is to answer may have been put on this core.
                std::thread::yield_now();
            }
        };
        self.0.pool.wake_for_rest();
        if ended {
            pollers.pause();
        } else {
            pollers.give_up();
        }
        ended
    }

    fn poll(&self) {
        self.0.pollers.reactor.poll();
    }

    /// One slice of ≤ 1 ms of work, waiting at most `wait` for something to do. True if anything
    /// was done.
    pub fn progress(&self, wait: Duration) -> bool {
        let now = Instant::now();
        let until = now + CALLER_SLICE;
        let next = now + self.0.own_tickers(now);
        let mut any = self.0.pollers.reactor.poll() > 0;
        any |= self.0.pool.run_some(until);
        if !any && !wait.is_zero() {
            any = self.0.doze(next.min(later(now, wait))) > 0;
            any |= self.0.pool.run_some(Instant::now() + CALLER_SLICE);
        }
        any
    }

    /// Stops and joins the threads, and handles what is ready then. Tasks still queued are dropped,
    /// and those queued later.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::Release);
        self.0.pool.stop();
        self.0.pollers.reactor.wake();
        let me = std::thread::current().id();
        for handle in std::mem::take(&mut *self.0.threads.lock()) {
            if handle.thread().id() != me {
                let _ = handle.join();
            }
        }
        // Backends leave the end of their connections to the reactor, and peers wait for it.
        for _ in 0..LAST_POLLS {
            if self.0.pollers.reactor.poll() == 0 {
                break;
            }
        }
    }
}

impl Inner {
    fn wake_sleepers(&self) {
        if !self.threaded && self.sleepers.load(Ordering::SeqCst) > 0 {
            self.pollers.reactor.wake();
        }
    }

    /// Polls the reactor until `until` at the latest, less if a task or a tick is due sooner.
    fn doze(&self, until: Instant) -> usize {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        // Announced, so whatever comes from here on wakes us.
        let now = Instant::now();
        let due = Duration::from_nanos(self.due.load(Ordering::SeqCst));
        let until = until.min(later(self.pollers.epoch, due));
        let sleep = if self.pool.is_empty() {
            until.saturating_duration_since(now)
        } else {
            Duration::ZERO
        };
        let events = self.pollers.reactor.sleep(sleep);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        events
    }

    /// [`Inner::run_tickers`] where that is not the progress thread's.
    fn own_tickers(&self, now: Instant) -> Duration {
        if self.threaded {
            MAX_SLEEP
        } else {
            self.run_tickers(now)
        }
    }

    fn run_tickers(&self, now: Instant) -> Duration {
        // From here on a tick that is asked for is another one.
        self.due.store(u64::MAX, Ordering::SeqCst);
        let mut next = now + MAX_SLEEP;
        let mut i = 0;
        loop {
            let ticker = match self.tickers.lock().get(i) {
                None => break,
                Some(weak) => weak.upgrade(),
            };
            match ticker {
                Some(ticker) => {
                    if let Some(at) = ticker.tick(now) {
                        next = next.min(at);
                    }
                    i += 1;
                }
                None => {
                    self.tickers.lock().swap_remove(i);
                }
            }
        }
        next.saturating_duration_since(now)
    }

    fn progress_loop(&self) {
        let mut last_event = Instant::now();
        let mut next_tick = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            let now = Instant::now();
            if now >= next_tick || self.pollers.nanos(now) >= self.due.load(Ordering::SeqCst) {
                next_tick = now + self.run_tickers(now);
            }
            if self.pollers.nap(now) {
                continue;
            }
            let spinning = now - last_event < self.spin;
            let sleep = if spinning {
                Duration::ZERO
            } else {
                next_tick.saturating_duration_since(now)
            };
            let wakes_at = self.pollers.nanos(now + sleep);
            self.wakes_at.store(wakes_at, Ordering::SeqCst);
            // Asked for just before that could be seen.
            let due = self.due.load(Ordering::SeqCst);
            let early = Duration::from_nanos(wakes_at.saturating_sub(due));
            let sleep = sleep.saturating_sub(early);
            let (events, queued) = pool::instead_of_waking(|| self.pollers.reactor.sleep(sleep));
            if queued {
                self.pool.run_one(Instant::now() + HELP, || false);
            }
            if events > 0 {
                last_event = Instant::now();
                next_tick = next_tick.min(last_event + Duration::from_millis(10));
            } else if spinning {
                std::thread::yield_now();
            } else {
                next_tick = Instant::now();
            }
        }
    }
}
