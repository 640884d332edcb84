//! The work of one simulated backend: a queue of events, then the transfers posted here.
//!
//! Single-flight: at most one run of the task is queued or at work, so messages stay in order and
//! whoever handles the end of a connection knows that none of its transfers is being moved.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use nixl_core::{
    Error, ErrorKind, Result,
    auth::PeerIdentity,
    backend::{ConnectDone, Context, PeerAddress, Refused},
    error::fail,
    inflight::Completion,
    runtime::{Step, Task},
};
use parking_lot::Mutex;

use super::{
    FaultPlan, SimConfig,
    fault::{Counters, add, take},
    link::{self, SimEndpoint},
    transfer::{Job, SimTransfer},
};

pub(super) struct Engine {
    pub(super) config: SimConfig,
    pub(super) counters: Counters,
    ctx: OnceLock<Context>,
    state: Mutex<State>,
}

struct State {
    faults: FaultPlan,
    rng: u64,
    /// A run of the task is queued or at work.
    scheduled: bool,
    dead: bool,
    steps: u64,
    in_flight: usize,
    events: VecDeque<Event>,
    jobs: VecDeque<Job>,
    ends: Vec<Arc<SimEndpoint>>,
}

pub(super) enum Event {
    Connect(Arc<PeerAddress>, ConnectDone),
    Accepted(Arc<SimEndpoint>, PeerIdentity),
    Message(Arc<SimEndpoint>, Bytes),
    Closed(Arc<SimEndpoint>, Error),
}

enum Work {
    Event(Event),
    Job(Job, Option<u64>),
}

impl Engine {
    pub(super) fn new(config: SimConfig) -> Arc<Self> {
        Arc::new(Self {
            counters: Counters::default(),
            ctx: OnceLock::new(),
            state: Mutex::new(State {
                faults: config.faults.clone(),
                rng: config.seed,
                scheduled: false,
                dead: false,
                steps: 0,
                in_flight: 0,
                events: VecDeque::new(),
                jobs: VecDeque::new(),
                ends: Vec::new(),
            }),
            config,
        })
    }

    pub(super) fn start(&self, ctx: Context) -> Result<()> {
        self.ctx
            .set(ctx)
            .map_err(|_| fail(ErrorKind::ApiMisuse, "the backend was started twice"))
    }

    pub(super) fn context(&self) -> Result<&Context> {
        self.ctx
            .get()
            .ok_or_else(|| fail(ErrorKind::ApiMisuse, "the backend was not started"))
    }

    pub(super) fn in_flight(&self) -> usize {
        self.state.lock().in_flight
    }

    pub(super) fn change_faults(self: &Arc<Self>, change: impl FnOnce(&mut FaultPlan)) {
        let mut state = self.state.lock();
        change(&mut state.faults);
        state.steps = 0;
        self.schedule(&mut state);
    }

    pub(super) fn push(self: &Arc<Self>, event: Event) {
        let mut state = self.state.lock();
        state.events.push_back(event);
        self.schedule(&mut state);
    }

    /// Queues the end of `end`'s connection, behind its messages or, if `abrupt`, in their place.
    pub(super) fn push_end(self: &Arc<Self>, end: Arc<SimEndpoint>, why: Error, abrupt: bool) {
        let mut state = self.state.lock();
        if abrupt {
            state.drop_messages(&end);
        }
        state.events.push_back(Event::Closed(end, why));
        self.schedule(&mut state);
    }

    fn schedule(self: &Arc<Self>, state: &mut State) {
        if let Some(ctx) = self.ctx.get()
            && !state.scheduled
        {
            state.scheduled = true;
            ctx.runtime.spawn(self.clone());
        }
    }

    /// Keeps `end` until its connection is closed. Errors: `PeerGone` after `die`.
    pub(super) fn adopt(self: &Arc<Self>, end: &Arc<SimEndpoint>) -> Result<()> {
        let mut state = self.state.lock();
        if state.dead {
            return Err(gone("the simulated process has ended"));
        }
        state.ends.push(end.clone());
        Ok(())
    }

    pub(super) fn connect(self: &Arc<Self>, peer: Arc<PeerAddress>, done: ConnectDone) {
        add(&self.counters.connects, 1);
        if let Err(e) = self.context() {
            return done.failed(e);
        }
        if self.state.lock().dead {
            return done.failed(gone("the simulated process has ended"));
        }
        self.push(Event::Connect(peer, done));
    }

    fn connect_now(self: &Arc<Self>, peer: &PeerAddress, done: ConnectDone) {
        let refused = take(&mut self.state.lock().faults.refuse_connects);
        match refused {
            Some(kind) => done.failed(fail(kind, "the fault plan refuses this connect")),
            None => link::connect(self, peer, done),
        }
    }

    pub(super) fn post(
        self: &Arc<Self>,
        transfer: Arc<SimTransfer>,
        done: Completion,
    ) -> Result<(), Refused> {
        add(&self.counters.posts, 1);
        let mut state = self.state.lock();
        let refused = match take(&mut state.faults.refuse_posts) {
            Some(kind) => Some(fail(kind, "the fault plan refuses this post")),
            None => transfer
                .endpoint()
                .is_closed()
                .then(|| gone("the connection is closed")),
        };
        if let Some(error) = refused {
            add(&self.counters.refused, 1);
            return Err(Refused { error, done });
        }
        transfer.begin();
        let fails =
            take(&mut state.faults.fail_transfers).map(|kind| (state.faults.fail_after, kind));
        let drops = state.faults.drop_tokens > 0;
        state.faults.drop_tokens = state.faults.drop_tokens.saturating_sub(1);
        state.jobs.push_back(Job::new(transfer, done, fails, drops));
        state.in_flight += 1;
        self.schedule(&mut state);
        Ok(())
    }

    /// Marks with `mark` what is to be cancelled and has it looked at, unless the plan is deaf.
    pub(super) fn cancel(self: &Arc<Self>, mark: impl FnOnce()) {
        add(&self.counters.cancels, 1);
        let mut state = self.state.lock();
        if !state.faults.deaf_to_cancel {
            mark();
            self.schedule(&mut state);
        }
    }

    /// Bytes of messages that wait to be delivered at `end`.
    pub(super) fn queued_for(&self, end: &Arc<SimEndpoint>) -> u64 {
        let state = self.state.lock();
        let waiting = state.events.iter().map(|event| match event {
            Event::Message(to, message) if Arc::ptr_eq(to, end) => message.len() as u64,
            _ => 0,
        });
        waiting.sum()
    }

    pub(super) fn keeps_leases(&self) -> bool {
        self.state.lock().faults.keeps_leases
    }

    pub(super) fn end_all(&self, why: &'static str, abrupt: bool) {
        let ends = self.state.lock().ends.clone();
        for end in ends {
            end.hang_up(&gone(why), abrupt);
        }
    }

    pub(super) fn die(&self, abrupt: bool) {
        let Some(ctx) = self.ctx.get() else { return };
        super::withdraw(self.config.name, ctx.identity.generation);
        let waiting = {
            let mut state = self.state.lock();
            state.dead = true;
            let (waiting, rest) = std::mem::take(&mut state.events)
                .into_iter()
                .partition(|e| matches!(e, Event::Connect(..)));
            state.events = rest;
            waiting
        };
        for event in waiting {
            if let Event::Connect(_, done) = event {
                done.failed(gone("the simulated process has ended"));
            }
        }
        self.end_all("the simulated process has ended", abrupt);
    }

    fn next(&self) -> Option<Work> {
        let mut state = self.state.lock();
        if let Some(event) = state.next_event() {
            return Some(Work::Event(event));
        }
        let limit = state.faults.stall_after;
        match state.next_job() {
            Some(job) => Some(Work::Job(job, limit)),
            None => {
                state.scheduled = false;
                None
            }
        }
    }

    fn handle(self: &Arc<Self>, event: Event) {
        match event {
            Event::Connect(peer, done) => self.connect_now(&peer, done),
            Event::Accepted(end, peer) => link::accepted(self, end, peer),
            Event::Message(end, message) => {
                add(&self.counters.delivered, 1);
                self.count_step();
                end.deliver(&message);
            }
            Event::Closed(end, why) => self.closed(&end, why),
        }
    }

    /// Completes what is in flight on `end`, then reports its end.
    fn closed(&self, end: &Arc<SimEndpoint>, why: Error) {
        let jobs: VecDeque<Job> = {
            let mut state = self.state.lock();
            state.ends.retain(|e| !Arc::ptr_eq(e, end));
            state.drop_messages(end);
            let (mine, rest) = std::mem::take(&mut state.jobs)
                .into_iter()
                .partition(|job| Arc::ptr_eq(job.transfer().endpoint(), end));
            state.jobs = rest;
            mine
        };
        for job in jobs {
            self.finish(job, Err(why.clone()));
        }
        end.ended(why);
    }

    fn advance(&self, mut job: Job, limit: Option<u64>) {
        let before = job.transfer().bytes_moved();
        let ended = job.step(limit);
        add(&self.counters.bytes, job.transfer().bytes_moved() - before);
        match ended {
            Some(result) => self.finish(job, result),
            None => self.state.lock().jobs.push_front(job),
        }
        self.count_step();
    }

    fn finish(&self, job: Job, result: Result<()>) {
        self.state.lock().in_flight -= 1;
        add(&self.counters.completed, 1);
        job.finish(result);
    }

    fn count_step(&self) {
        let due = {
            let mut state = self.state.lock();
            state.steps += 1;
            let due = state.faults.cut_after.is_some_and(|n| state.steps >= n);
            if due {
                state.faults.cut_after = None;
            }
            due
        };
        if due {
            self.end_all("the fault plan cut the connection", true);
        }
    }
}

impl Task for Engine {
    fn run(self: Arc<Self>, until: Instant) -> Step {
        loop {
            match self.next() {
                None => return Step::Done,
                Some(Work::Event(event)) => self.handle(event),
                Some(Work::Job(job, limit)) => self.advance(job, limit),
            }
            if Instant::now() >= until {
                return Step::Again;
            }
        }
    }
}

impl State {
    fn drop_messages(&mut self, end: &Arc<SimEndpoint>) {
        self.events
            .retain(|e| !matches!(e, Event::Message(of, _) if Arc::ptr_eq(of, end)));
    }

    fn next_event(&mut self) -> Option<Event> {
        let faults = &self.faults;
        let at = self.events.iter().position(|event| match event {
            Event::Connect(..) => !faults.silent_connects,
            Event::Message(..) => !faults.hold_messages,
            Event::Accepted(..) | Event::Closed(..) => true,
        })?;
        self.events.remove(at)
    }

    fn next_job(&mut self) -> Option<Job> {
        let limit = self.faults.stall_after;
        let ready = |job: &Job| !job.is_stalled(limit);
        let count = self.jobs.iter().filter(|job| ready(job)).count();
        let nth = match count {
            0 => return None,
            n if self.faults.reorder => (random(&mut self.rng) % n as u64) as usize,
            _ => 0,
        };
        let at = (0..self.jobs.len())
            .filter(|i| ready(&self.jobs[*i]))
            .nth(nth)?;
        self.jobs.remove(at)
    }
}

pub(super) fn gone(why: &'static str) -> Error {
    fail(ErrorKind::PeerGone, why)
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    crate::mix(*state)
}
