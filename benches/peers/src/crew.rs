//! Threads that run one pass together, and the clock.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// One thread's part of a pass.
pub(crate) trait Worker: Send {
    /// Moves this thread's share of the blocks once.
    fn pass(&mut self) -> io::Result<()>;
}

/// Runs `warmup` and then `iters` passes and times the latter: from the start of the first
/// worker, which is the calling thread, to the end of the last. `before` runs ahead of each
/// pass, untimed.
pub(crate) fn run<W: Worker>(
    mut workers: Vec<W>,
    warmup: usize,
    iters: usize,
    before: impl Fn(),
) -> io::Result<Vec<Duration>> {
    let barrier = Barrier::new(workers.len());
    let stop = AtomicBool::new(false);
    let failure = Mutex::new(None);
    let failed = || {
        let failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.is_some()
    };
    let pass = |worker: &mut W| {
        if let Err(error) = worker.pass() {
            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    };
    let Some(mut first) = workers.pop() else {
        return Ok(Vec::new());
    };
    let mut times = Vec::with_capacity(iters);
    thread::scope(|scope| {
        for mut worker in workers {
            let (barrier, stop, pass) = (&barrier, &stop, &pass);
            scope.spawn(move || {
                loop {
                    barrier.wait();
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    pass(&mut worker);
                    barrier.wait();
                }
            });
        }
        for number in 0..warmup + iters {
            before();
            let start = Instant::now();
            barrier.wait();
            pass(&mut first);
            barrier.wait();
            if number >= warmup {
                times.push(start.elapsed());
            }
            if failed() {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        barrier.wait();
    });
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(times), Err)
}
