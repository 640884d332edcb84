use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
};

use rustix::{event::EventfdFlags, io::Errno};

use super::*;

struct Counter {
    runs: AtomicUsize,
    want: usize,
}

impl Task for Counter {
    fn run(self: Arc<Self>, _: Instant) -> Step {
        if self.runs.fetch_add(1, SeqCst) + 1 < self.want {
            Step::Again
        } else {
            Step::Done
        }
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn modes() -> [Progress; 2] {
    [Progress::Threads { copy_threads: 2 }, Progress::Caller]
}

#[test]
fn tasks_run_until_done() {
    for mode in modes() {
        let rt = Runtime::start(mode, Duration::from_micros(50)).unwrap();
        let task = Arc::new(Counter {
            runs: AtomicUsize::new(0),
            want: 1000,
        });
        rt.spawn(task.clone());
        assert!(rt.wait(soon(), || task.runs.load(SeqCst) == 1000));
        rt.stop();
        assert_eq!(Arc::strong_count(&task), 1);
    }
}

struct Drain {
    fd: std::os::fd::OwnedFd,
    sum: AtomicU64,
}

impl Watch for Drain {
    fn ready(&self, _: Readiness) {
        let mut buf = [0; 8];
        loop {
            match rustix::io::read(&self.fd, &mut buf) {
                Ok(_) => self.sum.fetch_add(u64::from_ne_bytes(buf), SeqCst),
                Err(Errno::AGAIN) => return,
                Err(e) => panic!("{e}"),
            };
        }
    }
}

#[test]
fn readiness_reaches_the_handler_until_the_token_is_dropped() {
    for mode in modes() {
        let rt = Runtime::start(mode, Duration::ZERO).unwrap();
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let fd = rustix::event::eventfd(0, flags).unwrap();
        let drain = Arc::new(Drain {
            fd: fd.try_clone().unwrap(),
            sum: AtomicU64::new(0),
        });
        let token = rt.watch(fd.as_fd(), drain.clone()).unwrap();
        for i in 1..=20u64 {
            rustix::io::write(&fd, &i.to_ne_bytes()).unwrap();
            assert!(rt.wait(soon(), || drain.sum.load(SeqCst) == i * (i + 1) / 2));
        }
        drop(token);
        rt.stop();
        assert_eq!(
            Arc::strong_count(&drain),
            1,
            "the reactor let go of the handler"
        );
    }
}

struct Ticks {
    count: AtomicUsize,
    every: Duration,
}

impl Tick for Ticks {
    fn tick(&self, now: Instant) -> Option<Instant> {
        self.count.fetch_add(1, SeqCst);
        Some(now + self.every)
    }
}

#[test]
fn tickers_run_when_they_ask_and_end_with_their_owner() {
    for mode in modes() {
        let rt = Runtime::start(mode, Duration::ZERO).unwrap();
        let ticks = Arc::new(Ticks {
            count: AtomicUsize::new(0),
            every: Duration::from_millis(1),
        });
        let weak: Weak<dyn Tick> = Arc::downgrade(&(ticks.clone() as Arc<dyn Tick>));
        rt.add_ticker(weak);
        assert!(rt.wait(soon(), || ticks.count.load(SeqCst) >= 5));
        rt.stop();
    }
}

/// Counts ticks and asks for none.
struct Counted(AtomicUsize);

impl Tick for Counted {
    fn tick(&self, _: Instant) -> Option<Instant> {
        self.0.fetch_add(1, SeqCst);
        None
    }
}

/// Ticks that last until the next one was asked for.
struct Chained {
    begun: AtomicUsize,
    asked: AtomicUsize,
}

impl Tick for Chained {
    fn tick(&self, _: Instant) -> Option<Instant> {
        let nth = self.begun.fetch_add(1, SeqCst) + 1;
        while self.asked.load(SeqCst) <= nth {
            std::thread::yield_now();
        }
        None
    }
}

#[test]
fn a_tick_that_is_asked_for_while_another_runs_comes_in_time() {
    const ROUNDS: usize = 20;
    let rt = Runtime::start(Progress::Threads { copy_threads: 1 }, Duration::ZERO).unwrap();
    let ticks = Arc::new(Chained {
        begun: AtomicUsize::new(0),
        asked: AtomicUsize::new(1),
    });
    let weak: Weak<dyn Tick> = Arc::downgrade(&(ticks.clone() as Arc<dyn Tick>));
    rt.add_ticker(weak);
    for round in 1..=ROUNDS {
        let begun = Instant::now();
        while ticks.begun.load(SeqCst) < round {
            let waited = begun.elapsed();
            assert!(waited < MAX_SLEEP / 2, "round {round}: {waited:?}");
        }
        rt.tick_by(Instant::now() + Duration::from_millis(1));
        ticks.asked.fetch_add(1, SeqCst);
    }
    ticks.asked.store(usize::MAX, SeqCst);
    rt.stop();
}

#[test]
fn a_caller_that_sleeps_wakes_for_what_others_hand_it() {
    let rt = Runtime::start(Progress::Caller, Duration::ZERO).unwrap();
    let ticks = Arc::new(Counted(AtomicUsize::new(0)));
    let weak: Weak<dyn Tick> = Arc::downgrade(&(ticks.clone() as Arc<dyn Tick>));
    rt.add_ticker(weak);
    let task = Arc::new(Counter {
        runs: AtomicUsize::new(0),
        want: 1,
    });
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                rt.progress(Duration::from_secs(20));
            }
        });
        for round in 1..=20 {
            std::thread::sleep(Duration::from_millis(2));
            let seen = ticks.0.load(SeqCst);
            let begun = Instant::now();
            rt.spawn(task.clone());
            while task.runs.load(SeqCst) < round {
                assert!(begun.elapsed() < MAX_SLEEP / 2, "a task waits");
            }
            std::thread::sleep(Duration::from_millis(2));
            rt.tick_by(Instant::now());
            while ticks.0.load(SeqCst) == seen {
                assert!(begun.elapsed() < MAX_SLEEP / 2, "a tick waits");
            }
        }
        stop.store(true, SeqCst);
        rt.spawn(task.clone());
    });
    rt.stop();
}

#[test]
fn a_thread_that_looks_in_takes_no_wake_up_from_the_sleeper() {
    let rt = Runtime::start(Progress::Threads { copy_threads: 1 }, Duration::ZERO).unwrap();
    let ticks = Arc::new(Counted(AtomicUsize::new(0)));
    let weak: Weak<dyn Tick> = Arc::downgrade(&(ticks.clone() as Arc<dyn Tick>));
    rt.add_ticker(weak);
    for round in 0..50 {
        std::thread::sleep(Duration::from_millis(1));
        let seen = ticks.0.load(SeqCst);
        let begun = Instant::now();
        rt.tick_by(begun);
        while ticks.0.load(SeqCst) == seen {
            rt.poll();
            let waited = begun.elapsed();
            assert!(waited < MAX_SLEEP / 2, "round {round}: {waited:?}");
        }
    }
    rt.stop();
}

#[test]
fn an_idle_runtime_sleeps() {
    let rt = Runtime::start(
        Progress::Threads { copy_threads: 2 },
        Duration::from_micros(50),
    )
    .unwrap();
    let cpu = || {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
    };
    std::thread::sleep(Duration::from_millis(100));
    let before = cpu();
    std::thread::sleep(Duration::from_secs(1));
    let used = cpu() - before;
    assert!(
        used < Duration::from_millis(5),
        "idle for 1 s took {used:?} of CPU"
    );
    rt.stop();
}

/// Keeps the thread that runs it until it is let go.
struct Blocker {
    begun: AtomicUsize,
    go: std::sync::Barrier,
}

impl Task for Blocker {
    fn run(self: Arc<Self>, _: Instant) -> Step {
        self.begun.fetch_add(1, SeqCst);
        self.go.wait();
        Step::Done
    }
}

/// A runtime whose only copy thread is kept, and what keeps it.
fn without_free_copy_threads() -> (Runtime, Arc<Blocker>) {
    let rt = Runtime::start(
        Progress::Threads { copy_threads: 1 },
        Duration::from_micros(50),
    )
    .unwrap();
    let blocker = Arc::new(Blocker {
        begun: AtomicUsize::new(0),
        go: std::sync::Barrier::new(2),
    });
    rt.spawn(blocker.clone());
    while blocker.begun.load(SeqCst) == 0 {
        std::thread::yield_now();
    }
    (rt, blocker)
}

struct RunsOn {
    thread: Mutex<Option<std::thread::ThreadId>>,
}

impl Task for RunsOn {
    fn run(self: Arc<Self>, _: Instant) -> Step {
        *self.thread.lock() = Some(std::thread::current().id());
        Step::Done
    }
}

#[test]
fn a_waiting_caller_runs_what_no_copy_thread_can() {
    let (rt, blocker) = without_free_copy_threads();
    let task = Arc::new(RunsOn {
        thread: Mutex::new(None),
    });
    rt.spawn(task.clone());
    assert!(rt.spin_until(soon(), || task.thread.lock().is_some()));
    assert_eq!(*task.thread.lock(), Some(std::thread::current().id()));
    blocker.go.wait();
    rt.stop();
}

/// Queues a task when its fd is ready.
struct Spawner {
    rt: Runtime,
    task: Arc<RunsOn>,
}

impl Watch for Spawner {
    fn ready(&self, readiness: Readiness) {
        if readiness.readable {
            self.rt.spawn(self.task.clone());
        }
    }
}

#[test]
fn the_progress_thread_runs_what_its_events_queue() {
    let (rt, blocker) = without_free_copy_threads();
    let fd = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
    let task = Arc::new(RunsOn {
        thread: Mutex::new(None),
    });
    let spawner = Arc::new(Spawner {
        rt: rt.clone(),
        task: task.clone(),
    });
    let token = rt.watch(fd.as_fd(), spawner).unwrap();
    rustix::io::write(&fd, &1_u64.to_ne_bytes()).unwrap();
    let until = soon();
    while task.thread.lock().is_none() && Instant::now() < until {
        std::thread::yield_now();
    }
    let ran_on = task.thread.lock().take();
    assert!(ran_on.is_some_and(|id| id != std::thread::current().id()));
    drop(token);
    blocker.go.wait();
    rt.stop();
}

#[test]
fn a_helper_keeps_its_task_until_others_wait_or_it_has_what_it_wants() {
    let task = |want| {
        let runs = AtomicUsize::new(0);
        Arc::new(Counter { runs, want })
    };
    let pool = Pool::new(0);
    let alone = task(100);
    pool.push(alone.clone());
    assert!(pool.run_one(soon(), || false));
    assert_eq!(alone.runs.load(SeqCst), 100);
    assert!(pool.is_empty());

    let wanted = task(100);
    pool.push(wanted.clone());
    assert!(pool.run_one(soon(), || wanted.runs.load(SeqCst) == 3));
    assert_eq!(wanted.runs.load(SeqCst), 3);

    let other = task(1);
    pool.push(other.clone());
    assert!(pool.run_one(soon(), || false));
    assert_eq!(wanted.runs.load(SeqCst), 4, "the other one's turn");
    assert!(pool.run_one(soon(), || false));
    assert_eq!(other.runs.load(SeqCst), 1);
    assert!(!pool.is_empty());
}

struct Looked(AtomicUsize);

impl Source for Looked {
    fn poll(&self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn whoever_waits_looks_at_the_sources() {
    for mode in modes() {
        let rt = Runtime::start(mode, Duration::from_secs(20)).unwrap();
        let source = Arc::new(Looked(AtomicUsize::new(0)));
        let held: Weak<dyn Source> = Arc::downgrade(&source) as _;
        rt.add_source(held);
        assert!(rt.spin_until(soon(), || source.0.load(SeqCst) >= 3));
        rt.stop();
        assert_eq!(Arc::strong_count(&source), 1);
    }
}

#[test]
fn a_watch_for_one_call_is_called_again_only_on_demand() {
    let rt = Runtime::start(Progress::Caller, Duration::ZERO).unwrap();
    let fd = rustix::event::eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let drain = Arc::new(Drain {
        fd: fd.try_clone().unwrap(),
        sum: AtomicU64::new(0),
    });
    let token = rt.watch_once(fd.as_fd(), drain.clone()).unwrap();
    // An eventfd is writable, which is a reason as well.
    assert!(rt.progress(Duration::ZERO));
    rustix::io::write(&fd, &1u64.to_ne_bytes()).unwrap();
    assert!(!rt.progress(Duration::ZERO));
    assert_eq!(drain.sum.load(SeqCst), 0);
    token.again();
    assert!(rt.progress(Duration::ZERO));
    assert_eq!(drain.sum.load(SeqCst), 1);
    rt.stop();
}
