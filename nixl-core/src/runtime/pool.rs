//! The copy threads and their queue.

use std::{
    cell::Cell,
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

thread_local! {
    static INSTEAD: Cell<Instead> = const { Cell::new(Instead::Wakes) };
}

/// What a thread does about a task that it queued.
#[derive(Clone, Copy, PartialEq)]
enum Instead {
    /// Wakes a copy thread for it.
    Wakes,
    /// Looks for it by itself afterwards.
    Looks,
    /// That, and there is one.
    Queued,
}

/// Runs `work`; true if the caller has to look for a task now, for which nobody was woken.
pub(super) fn instead_of_waking<T>(work: impl FnOnce() -> T) -> (T, bool) {
    INSTEAD.set(Instead::Looks);
    let out = work();
    (out, INSTEAD.replace(Instead::Wakes) == Instead::Queued)
}

pub(super) struct Pool {
    queue: Mutex<VecDeque<Arc<dyn Task>>>,
    /// Length of the queue, readable without its lock.
    queued: AtomicUsize,
    sleepers: AtomicUsize,
    /// Threads that look for tasks all the time and so need not be woken. Falls under the
    /// queue's lock only.
    spinners: AtomicUsize,
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
            spinners: AtomicUsize::new(0),
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
        if self.stop.load(Ordering::Acquire) {
            // Nobody would take it out again, and it may hold what holds this queue.
            drop(queue);
            return;
        }
        queue.push_back(task);
        self.queued.store(queue.len(), Ordering::Relaxed);
        if INSTEAD.get() == Instead::Looks {
            INSTEAD.set(Instead::Queued);
        } else if queue.len() > self.spinners.load(Ordering::Relaxed) {
            self.wake_one();
        }
    }

    /// Under the queue's lock, so that nobody falls asleep meanwhile.
    fn wake_one(&self) {
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            self.changed.notify_one();
        }
    }

    /// For a thread that may have queued tasks and now leaves them to the copy threads.
    pub(super) fn wake_for_rest(&self) {
        if self.queued.load(Ordering::Relaxed) > 0 {
            let _queue = self.queue.lock();
            self.wake_one();
        }
    }

    /// Takes a task, and wakes a thread for the next one: whoever queued them may have lost its
    /// processor to this thread.
    fn pop(&self) -> Option<Arc<dyn Task>> {
        if self.queued.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut queue = self.queue.lock();
        let task = queue.pop_front();
        self.queued.store(queue.len(), Ordering::Relaxed);
        if !queue.is_empty() {
            self.wake_one();
        }
        task
    }

    /// Body of a copy thread.
    pub(super) fn work(&self, spin: Duration) {
        while !self.stop.load(Ordering::Acquire) {
            match self.pop() {
                Some(task) => self.run(task, Instant::now() + SLICE),
                None => self.idle(spin),
            }
        }
    }

    /// Looks for tasks for the spin time, then sleeps until there is a task.
    fn idle(&self, spin: Duration) {
        self.spinners.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let idle =
            || self.queued.load(Ordering::Relaxed) == 0 && !self.stop.load(Ordering::Acquire);
        while idle() && begun.elapsed() < spin {
            std::thread::yield_now();
        }
        let mut queue = self.queue.lock();
        self.spinners.fetch_sub(1, Ordering::Relaxed);
        if !queue.is_empty() || self.stop.load(Ordering::Acquire) {
            return;
        }
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        self.changed.wait(&mut queue);
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }

    fn run(&self, task: Arc<dyn Task>, until: Instant) {
        if task.clone().run(until) == Step::Again {
            self.push(task);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.lock().is_empty()
    }

    /// Runs one queued task on the calling thread, until `deadline` at the latest, and for as long
    /// as no other one is queued and not `done`; true if there was one.
    pub(super) fn run_one(&self, deadline: Instant, mut done: impl FnMut() -> bool) -> bool {
        let Some(task) = self.pop() else {
            return false;
        };
        loop {
            let until = deadline.min(Instant::now() + SLICE);
            if task.clone().run(until) == Step::Done {
                return true;
            }
            // Handing it over and back would wake a copy thread each time.
            let alone = self.queued.load(Ordering::Relaxed) == 0;
            if !alone || Instant::now() >= deadline || done() || self.stop.load(Ordering::Acquire) {
                self.push(task);
                return true;
            }
        }
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
