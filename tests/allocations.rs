//! Posting, progressing and completing a prepared request allocates nothing, on any thread.

mod common;

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
    time::{Duration, Instant},
};

use common::{
    child,
    heap::{self, Heap},
    pair::{Job, LIMIT, Threads, agent},
};
use nixl::{Agent, Op, Request, Status};

#[global_allocator]
static HEAP: Heap = Heap;

const TEST: &str = "post_progress_and_complete_allocate_nothing";

/// Posts in a row without an allocation that count as warm.
const WARM: u32 = 5;
/// Posts until it must be warm.
const PATIENCE: u32 = 100_000;
/// Fewest posts that are held to it, and the least time: some ticks run meanwhile.
const MEASURED: u32 = 10;
const SPAN: Duration = Duration::from_millis(100);

/// The seeds of both sides' bytes.
const OURS: u64 = 0xa;
const THEIRS: u64 = 0xb;

/// Everything an application does from post to completion, in each of the ways to wait.
struct Caller<'a> {
    agent: &'a Agent,
    /// An agent of this process that has no threads either.
    peer: Option<&'a Agent>,
    request: &'a Request,
    waker: Waker,
    called: Arc<AtomicU64>,
}

impl<'a> Caller<'a> {
    fn new(agent: &'a Agent, peer: Option<&'a Agent>, request: &'a Request) -> Self {
        let called = Arc::new(AtomicU64::new(0));
        let count = called.clone();
        request.on_complete(Box::new(move |result| {
            assert_eq!(*result, Ok(()));
            count.fetch_add(1, SeqCst);
        }));
        agent.event_fd().unwrap();
        Self {
            agent,
            peer,
            request,
            waker: Waker::from(Arc::new(Unpark(std::thread::current()))),
            called,
        }
    }

    fn round(&self, number: u32) {
        let called = self.called.load(SeqCst);
        self.request.post().unwrap();
        match (self.peer, number % 3) {
            (Some(peer), _) => self.drive(peer),
            (None, 0) => self.request.wait(LIMIT).unwrap(),
            (None, 1) => self.poll(),
            (None, _) => self.sleep(),
        }
        let receipt = self.request.receipt().unwrap();
        assert_eq!(receipt.attempts, 1);
        // The callback runs right after the end became visible.
        while self.called.load(SeqCst) == called {
            std::thread::yield_now();
        }
    }

    fn drive(&self, peer: &Agent) {
        while self.request.status() == Status::Active {
            self.agent.progress(Duration::ZERO);
            peer.progress(Duration::ZERO);
        }
    }

    fn poll(&self) {
        while self.request.status() == Status::Active {
            std::thread::yield_now();
        }
    }

    fn sleep(&self) {
        let mut done = pin!(self.request.done());
        let mut cx = Context::from_waker(&self.waker);
        loop {
            match done.as_mut().poll(&mut cx) {
                Poll::Ready(result) => return result.unwrap(),
                Poll::Pending => std::thread::park_timeout(LIMIT),
            }
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Spans in one of which nothing may be allocated.
const SPANS: u32 = 3;

fn hold(what: &str, caller: &Caller<'_>) {
    let begun = Instant::now();
    let mut quiet = 0;
    for number in 0..PATIENCE {
        let before = heap::calls();
        caller.round(number);
        quiet = if heap::calls() == before {
            quiet + 1
        } else {
            0
        };
        if quiet >= WARM && begun.elapsed() > SPAN {
            break;
        }
    }
    assert!(
        quiet >= WARM,
        "{what}: still allocating after {PATIENCE} posts"
    );
    let rounds = || {
        let begun = Instant::now();
        let mut number = 0;
        while number < MEASURED || begun.elapsed() < SPAN {
            caller.round(number);
            number += 1;
        }
    };
    // A pool grows when posts overlap as they never did before: that is warming up, too. What
    // allocates steadily does so in every span.
    let mut found = None;
    for _ in 0..SPANS {
        found = heap::allocations_in(rounds);
        if found.is_none() {
            return;
        }
    }
    panic!("{what}: {}", found.unwrap_or_default());
}

/// A READ and a WRITE of the same blocks; the bytes arrive each time.
fn hold_both(path: &str, job: Job, initiator: &Agent, driven: Option<&Agent>, target: (&str, u64)) {
    let what = |op: &str| {
        let threads = if driven.is_some() { "no" } else { "own" };
        format!(
            "{op} of {} blocks over {path}, {threads} threads",
            job.count
        )
    };
    let (peer, base) = target;
    let memory = job.initiator_memory(initiator, OURS);
    let read = job.request(Op::Read, initiator, &memory, peer, base);
    hold(&what("READ"), &Caller::new(initiator, driven, &read));
    assert_eq!(read.receipt().unwrap().path, path);
    job.check(&memory, THEIRS);

    job.refill(&memory, OURS);
    let write = job.request(Op::Write, initiator, &memory, peer, base);
    hold(&what("WRITE"), &Caller::new(initiator, driven, &write));
    job.refill(&memory, THEIRS);
    Caller::new(initiator, driven, &read).round(0);
    job.check(&memory, OURS);
}

/// Both agents in this process, so that the target's side counts too.
fn in_one_process(path: &str, job: Job, threads: Threads) {
    let target = agent("target", path, threads);
    let initiator = agent("initiator", path, threads);
    let memory = job.target_memory(&target, THEIRS);
    initiator
        .load_metadata(&target.metadata().unwrap())
        .unwrap();
    let driven = (threads == Threads::Caller).then_some(&target);
    hold_both(path, job, &initiator, driven, ("target", memory.addr()));
}

/// The target in a process of its own: these paths exist between processes only.
fn in_two_processes(path: &str, job: Job) {
    let initiator = agent("initiator", path, Threads::Own);
    let target = child::start(TEST, &initiator, path, job, THEIRS);
    hold_both(path, job, &initiator, None, (child::NAME, target.base));
}

#[test]
fn post_progress_and_complete_allocate_nothing() {
    child::serve_if_asked();
    // The trap catches what it is set for; the test harness may allocate at the same time.
    let caught = || heap::allocations_in(|| drop(std::hint::black_box(vec![0u8; 77])));
    let ours = |_| caught().is_some_and(|c| c.contains("the first of 77 bytes"));
    assert!((0..10).any(ours));
    // 8 bytes go inline, 16,000 blocks to the copy threads.
    for (count, block) in [(1, 8), (16_000, 512)] {
        let job = Job { count, block };
        in_one_process("local", job, Threads::Own);
        in_one_process("local", job, Threads::Caller);
        in_one_process("tcp", job, Threads::Own);
        in_one_process("tcp", job, Threads::Caller);
        in_two_processes("shm", job);
        in_two_processes("cma", job);
    }
}
