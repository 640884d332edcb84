//! The copy threads and their queue.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::{Step, Task};

/// How long a task may work before others get a turn.
const SLICE: Duration = Duration::from_millis(2);

pub(super) struct Pool {
    queue: Mutex<VecDeque<Arc<dyn Task>>>,
    /// Length of the queue, readable without its lock.
    queued: AtomicUsize,
    sleepers: AtomicUsize,
    changed: Condvar,
    stop: AtomicBool,
    threads: usize,
}

impl Pool {
    pub(super) fn new(threads: usize) -> Self {
        Self {
            queue: Mutex::new(VecDeque::with_capacity(256)),
            queued: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
            threads,
        }
    }

    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    pub(super) fn push(&self, task: Arc<dyn Task>) {
        let mut queue = self.queue.lock();
        queue.push_back(task);
        self.queued.store(queue.len(), Ordering::Relaxed);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            self.changed.notify_one();
        }
    }

    fn pop(&self) -> Option<Arc<dyn Task>> {
        if self.queued.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut queue = self.queue.lock();
        let task = queue.pop_front();
        self.queued.store(queue.len(), Ordering::Relaxed);
        task
    }

    /// Body of a copy thread.
    pub(super) fn work(&self, spin: Duration) {
        let mut idle_since: Option<Instant> = None;
        while !self.stop.load(Ordering::Acquire) {
            if let Some(task) = self.pop() {
                self.run(task, Instant::now() + SLICE);
                idle_since = None;
                continue;
            }
            let since = *idle_since.get_or_insert_with(Instant::now);
            if since.elapsed() < spin {
                std::thread::yield_now();
            } else {
                self.sleep();
                idle_since = None;
            }
        }
    }

    fn sleep(&self) {
        let mut queue = self.queue.lock();
        if queue.is_empty() && !self.stop.load(Ordering::Acquire) {
            self.sleepers.fetch_add(1, Ordering::Relaxed);
            self.changed.wait(&mut queue);
            self.sleepers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn run(&self, task: Arc<dyn Task>, until: Instant) {
        if task.clone().run(until) == Step::Again {
            self.push(task);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.lock().is_empty()
    }

    /// Runs queued tasks on the calling thread until `until`; true if there was one.
    pub(super) fn run_some(&self, until: Instant) -> bool {
        let mut any = false;
        while Instant::now() < until {
            let Some(task) = self.pop() else { break };
            any = true;
            self.run(task, until);
        }
        any
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let mut queue = self.queue.lock();
        let dropped = std::mem::take(&mut *queue);
        self.queued.store(0, Ordering::Relaxed);
        self.changed.notify_all();
        drop(queue);
        drop(dropped);
    }
}
