//! Who polls the reactor: callers that wait for something do, sooner than the progress thread
//! could be woken for it, which naps meanwhile.

use std::{
    sync::{
        Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, RwLock};

use super::{Source, reactor::Reactor};
use crate::Result;

/// How long the progress thread leaves the reactor to a thread that polls.
const NAP: Duration = Duration::from_micros(100);

pub(super) struct Pollers {
    pub(super) reactor: Reactor,
    pub(super) epoch: Instant,
    /// Callers that poll right now, and when one last did, in nanoseconds since `epoch`.
    count: AtomicUsize,
    polled_at: AtomicU64,
    nap: Mutex<()>,
    nap_over: Condvar,
    sources: RwLock<Vec<Weak<dyn Source>>>,
}

impl Pollers {
    pub(super) fn new(epoch: Instant) -> Result<Self> {
        Ok(Self {
            reactor: Reactor::new()?,
            epoch,
            count: AtomicUsize::new(0),
            polled_at: AtomicU64::new(0),
            nap: Mutex::new(()),
            nap_over: Condvar::new(),
            sources: RwLock::default(),
        })
    }

    pub(super) fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    /// This thread polls from now on.
    pub(super) fn enter(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// This thread works now, and may poll again soon.
    pub(super) fn pause(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// This thread goes to sleep: if it was the last one, events are the progress thread's again,
    /// at once.
    pub(super) fn give_up(&self) {
        if self.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            let _nap = self.nap.lock();
            self.polled_at.store(0, Ordering::Relaxed);
            self.nap_over.notify_one();
        }
    }

    pub(super) fn add_source(&self, source: Weak<dyn Source>) {
        let mut sources = self.sources.write();
        sources.retain(|known| known.strong_count() > 0);
        sources.push(source);
    }

    /// Looks once at whatever can be looked at directly.
    pub(super) fn poll_sources(&self) {
        let mut at = 0;
        // Not locked while one is polled: its handlers may add some.
        while let Some(source) = { self.sources.read().get(at).cloned() } {
            if let Some(source) = source.upgrade() {
                source.poll();
            }
            at += 1;
        }
    }

    /// Looks once for events; returns the time.
    pub(super) fn poll(&self) -> Instant {
        self.reactor.poll();
        let now = Instant::now();
        self.polled_at.store(self.nanos(now), Ordering::Relaxed);
        now
    }

    /// Naps if another thread polls; false if none does.
    pub(super) fn nap(&self, now: Instant) -> bool {
        if !self.busy(now) {
            return false;
        }
        let mut nap = self.nap.lock();
        if self.busy(Instant::now()) {
            self.nap_over.wait_for(&mut nap, NAP);
        }
        true
    }

    fn busy(&self, now: Instant) -> bool {
        let polled_at = self.polled_at.load(Ordering::Relaxed);
        let since = self.nanos(now).saturating_sub(polled_at);
        self.count.load(Ordering::Relaxed) > 0 || (polled_at != 0 && since < NAP.as_nanos() as u64)
    }
}
