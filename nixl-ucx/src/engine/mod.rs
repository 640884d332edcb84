//! One worker at work: connections, messages and transfers, one thread at a time.
//!
//! Read `docs/ucx.md` first. Whoever has something for the engine leaves an [`Order`] and takes
//! the turn; if another thread has it, that one goes round once more.

mod blame;
mod close;
mod conn;
mod foreign;
mod greet;
mod mailbox;
mod park;
mod rma;
mod rndv;
mod spares;
mod step;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use nixl_core::{
    Error, Result,
    auth::PeerIdentity,
    backend::{ConnectDone, Context, PeerAddress},
    inflight::Completion,
    runtime::{Readiness, Source, Step, Task, Tick, Turn, Watch, WatchToken},
};
use parking_lot::Mutex;
use ucx_sys::Version;

pub(crate) use conn::Conn;
pub(crate) use foreign::Foreign;
use mailbox::Mailbox;
use park::Parked;
pub(crate) use rma::Rma;
pub(crate) use rndv::Rndv;

use crate::{
    address::Address,
    fault::gone,
    keys::Keys,
    ucp::{self, Worker},
    wire::Token,
};

/// The number of our active messages. 0 is NIXL's.
const MESSAGES: u32 = 2301;
/// Separates this backend's handshakes from others'.
const CHANNEL: &str = "ucx";
/// How long a thread that posts or sends may be kept.
const INLINE: Duration = Duration::from_micros(20);
/// Bytes in flight that a thread that posts may move along.
const INLINE_BYTES: u64 = 64 << 10;
/// How long the reactor may be kept.
const ON_WAKE: Duration = Duration::from_micros(50);
/// How long a turn looks for more before it arms the worker, while operations are in flight.
const SPIN: Duration = Duration::from_micros(20);
/// How late a wake-up that was lost is made up for, with operations in flight and without.
const LOOK: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(100)];

/// Something that other threads want of an engine.
pub(crate) enum Order {
    Dial(Dial),
    Reach(Foreign),
    Post(Arc<Rma>),
    /// A post that moves by rendezvous.
    Move(Arc<Rndv>),
    /// Posts of the connection that wait for keys may have been cancelled.
    Cancel(Arc<Conn>),
    Send(Arc<Conn>),
    Close(Arc<Conn>, Error),
    Tick(Instant),
    Shutdown,
}

/// On whose stack a turn runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// Inside of a call of core's: no message may be delivered there.
    Core,
    /// The reactor, or whoever looks for it.
    Runtime,
    /// A task: there is a lot to do.
    Task,
}

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stepped {
    /// There was nothing to do.
    Idle,
    Moved,
    /// All that was asked for is with UCX, and the wake-up fd may be relied on for the rest.
    Handed,
    /// What was posted is over already, and nothing else was looked after.
    Over,
}

/// A connection to make.
pub(crate) struct Dial {
    pub(crate) peer: Arc<PeerAddress>,
    pub(crate) address: Address,
    /// Which of its workers.
    pub(crate) worker: usize,
    pub(crate) done: ConnectDone,
}

/// What is told core after a step, without any lock.
enum Upcall {
    Connected(Arc<Conn>, ConnectDone),
    Refused(ConnectDone, Error),
    Accepted(Arc<Conn>, PeerIdentity),
    Message(Arc<Conn>, Vec<u8>),
    /// A notification of a NIXL agent.
    Foreign(Vec<u8>),
    Complete(Arc<Conn>, Completion, Result<()>),
    /// The connection is over, but for posts that are still being refused.
    Over(Arc<Conn>),
}

/// What an engine is made from.
pub(crate) struct Settings {
    pub(crate) context: ucp::Context,
    pub(crate) keys: Arc<Keys>,
    pub(crate) version: Version,
    pub(crate) connect_timeout: Duration,
    /// UCX may use CMA.
    pub(crate) cma: bool,
    /// The scheme of rendezvous that UCX was told to use.
    pub(crate) rndv_scheme: String,
}

pub(crate) struct Engine {
    me: Weak<Self>,
    ctx: Context,
    settings: Settings,
    worker: Worker,
    address: Bytes,
    mailbox: Arc<Mailbox>,
    turn: Turn,
    orders: Mutex<VecDeque<Order>>,
    state: Mutex<State>,
    /// The last turn left something to do.
    busy: AtomicBool,
    /// The wake-up fd tells of whatever happens, or has told the reactor.
    armed: AtomicBool,
    /// A copy thread is at it, or about to be.
    spawned: AtomicBool,
    /// When something is due next, in nanoseconds of the clock of `begun`; 0: nothing.
    due: AtomicU64,
    begun: Instant,
    /// Operations in flight and their bytes.
    flying: Flying,
    watch: OnceLock<WatchToken>,
    /// The wake-up fd is not watched before that is asked for again.
    unwatched: AtomicBool,
}

/// What is in flight on one worker.
#[derive(Default)]
struct Flying {
    ops: AtomicUsize,
    bytes: AtomicU64,
}

/// What only the turn touches.
#[derive(Default)]
struct State {
    conns: HashMap<u64, Arc<Conn>>,
    tokens: HashMap<Token, u64>,
    last: u64,
    /// Transfers with blocks to feed, in turns.
    feeding: VecDeque<Arc<Rma>>,
    /// Connections with frames to send.
    sending: VecDeque<Arc<Conn>>,
    /// Connections in the handshake, and those that close: they have deadlines.
    timed: Vec<Arc<Conn>>,
    /// Of connections that are over.
    parked: Vec<Parked>,
    rndv: rndv::Yard,
    spares: spares::Spares,
    upcalls: VecDeque<Upcall>,
    shut: bool,
}

impl Engine {
    /// A worker that listens for peers.
    pub(crate) fn start(ctx: Context, settings: Settings) -> Result<Arc<Self>> {
        let mailbox = Arc::new(Mailbox::new(ctx.clone(), settings.connect_timeout));
        let worker = Worker::new(
            &settings.context,
            mailbox.clone(),
            &[MESSAGES, foreign::NOTIFICATION, rndv::DATA],
        )?;
        let address = worker.address()?;
        let engine = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            ctx,
            settings,
            worker,
            address,
            mailbox,
            turn: Turn::default(),
            orders: Mutex::default(),
            state: Mutex::default(),
            busy: AtomicBool::new(false),
            armed: AtomicBool::new(false),
            spawned: AtomicBool::new(false),
            due: AtomicU64::new(0),
            begun: Instant::now(),
            flying: Flying::default(),
            watch: OnceLock::new(),
            unwatched: AtomicBool::new(false),
        });
        let waker = Arc::new(Waker(Arc::downgrade(&engine)));
        let fd = engine.worker.wake_fd()?;
        let token = engine.ctx.runtime.watch_once(fd, waker)?;
        // Set once, here.
        let _ = engine.watch.set(token);
        let ticker: Weak<dyn Tick> = engine.me.clone();
        engine.ctx.runtime.add_ticker(ticker);
        let source: Weak<dyn Source> = engine.me.clone();
        engine.ctx.runtime.add_source(source);
        engine.take_turn(INLINE, Caller::Core);
        Ok(engine)
    }

    /// The worker's address.
    pub(crate) fn address(&self) -> &Bytes {
        &self.address
    }

    pub(crate) fn rndv_scheme(&self) -> &str {
        &self.settings.rndv_scheme
    }

    pub(crate) fn keys(&self) -> &Arc<Keys> {
        &self.settings.keys
    }

    /// Leaves an order, and sees to it that somebody carries it out. For calls of core's.
    pub(crate) fn order(self: &Arc<Self>, order: Order) {
        self.orders.lock().push_back(order);
        self.take_turn(INLINE, Caller::Core);
    }

    /// Works for about `budget` on this thread; what is left goes to a copy thread.
    fn take_turn(self: &Arc<Self>, budget: Duration, caller: Caller) {
        let until = Instant::now() + budget;
        // Rounds after the first one may be for an event that nobody else looks after.
        let mut brief = caller == Caller::Core;
        // Whoever has the turn now goes on after us.
        let mine = self
            .turn
            .take(|| self.work(until, caller, std::mem::take(&mut brief)));
        if mine {
            self.go_on();
        }
    }

    /// Has a copy thread go on where something is left.
    fn go_on(&self) {
        if self.busy.load(Ordering::Acquire) && !self.spawned.swap(true, Ordering::AcqRel) {
            match self.me.upgrade() {
                Some(engine) => self.ctx.runtime.spawn(engine),
                // Whoever drops it finishes it.
                None => self.spawned.store(false, Ordering::Release),
            }
        }
    }

    /// Steps until there is nothing to do and the worker is armed, or until the time is over.
    ///
    /// `brief`: hands over what it can, and leaves what comes of it to the wake-up fd.
    fn work(&self, until: Instant, caller: Caller, mut brief: bool) {
        self.busy.store(true, Ordering::Release);
        let mut last = Instant::now();
        // A peer that moves a lot goes on soon.
        let mut serves = caller == Caller::Task;
        loop {
            serves &= self.is_still();
            let stepped = self.step(until, caller, brief);
            if !self.tell(caller) || (caller == Caller::Core && self.has_much_to_do()) {
                return;
            }
            let now = Instant::now();
            let rests = match stepped {
                Stepped::Idle => (self.is_still() && !serves) || now - last >= SPIN,
                Stepped::Moved => false,
                Stepped::Handed | Stepped::Over => !self.orders_left(),
            };
            // An event that came meanwhile has made the fd readable: somebody will look.
            let armed = stepped == Stepped::Over && self.armed.load(Ordering::Relaxed);
            if rests && (armed || self.arm()) {
                return self.rest();
            }
            if stepped != Stepped::Idle {
                last = now;
            }
            if now >= until {
                return;
            }
            brief = false;
        }
    }

    /// Whether no operation is in flight.
    fn is_still(&self) -> bool {
        self.flying.ops.load(Ordering::Relaxed) == 0
    }

    /// True: nothing has happened that was not looked after, and the wake-up fd tells of more.
    fn arm(&self) -> bool {
        let armed = self.worker.enter().arm().unwrap_or_else(|status| {
            // The tick looks instead.
            tracing::debug!(%status, "cannot arm a UCX worker");
            true
        });
        self.armed.store(armed, Ordering::Relaxed);
        if let Some(watch) = self.watch.get()
            && armed
            && self.unwatched.swap(false, Ordering::AcqRel)
        {
            watch.again();
        }
        armed
    }

    /// Whether more is in flight than a thread that posts may be kept for.
    fn is_loaded(&self) -> bool {
        self.flying.bytes.load(Ordering::Relaxed) > INLINE_BYTES
    }

    /// Whether what is left is for another thread than one that posts.
    fn has_much_to_do(&self) -> bool {
        let state = self.state.lock();
        self.is_loaded() || !state.feeding.is_empty() || !state.rndv.is_idle()
    }

    /// Nothing to do until the worker wakes us, or an order comes.
    fn rest(&self) {
        self.busy.store(false, Ordering::Release);
    }

    // --- time ---

    /// Something is due at `at`.
    fn due_at(&self, at: Instant) {
        let nanos = at.saturating_duration_since(self.begun).as_nanos();
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX).max(1);
        let earliest = |due: u64| (due == 0 || nanos < due).then_some(nanos);
        let _ = self
            .due
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, earliest);
        self.ctx.runtime.tick_by(at);
    }

    // --- the end ---

    /// Takes in nobody any more and closes every connection.
    pub(crate) fn shutdown(self: &Arc<Self>) {
        self.mailbox.shut();
        self.order(Order::Shutdown);
    }

    /// Works on this thread until every connection is gone, or `patience` is over. What is left then
    /// is kept for good: UCX may still touch it.
    pub(crate) fn finish(self: &Arc<Self>, patience: Duration) {
        let until = Instant::now() + patience;
        while self.has_unfinished() {
            if Instant::now() >= until {
                let left = self.state.lock().conns.len();
                tracing::error!(
                    left,
                    "UCX connections did not end; what they use stays allocated"
                );
                return;
            }
            self.orders.lock().push_back(Order::Tick(Instant::now()));
            let soon = Instant::now() + INLINE;
            self.turn.take(|| self.work(soon, Caller::Runtime, false));
        }
        let parked = self.state.lock().parked.len();
        if parked > 0 {
            tracing::debug!(
                parked,
                "UCX endpoints still ask for peers that do not answer"
            );
            // Destroying the worker would close them.
            std::mem::forget(self.clone());
        }
    }

    /// Whether something is to be done, told or looked at yet. Connections in these lists keep the
    /// engine, which would stay for good.
    fn has_unfinished(&self) -> bool {
        let state = self.state.lock();
        let over = state.conns.is_empty() && state.upcalls.is_empty() && state.timed.is_empty();
        !over || self.orders_left()
    }

    fn orders_left(&self) -> bool {
        !self.orders.lock().is_empty()
    }

    /// This engine, unless it is being dropped.
    fn shared(&self) -> Result<Arc<Self>> {
        self.me.upgrade().ok_or_else(|| gone("the agent shut down"))
    }
}

impl Task for Engine {
    fn run(self: Arc<Self>, until: Instant) -> Step {
        let mine = self.turn.take(|| self.work(until, Caller::Task, false));
        if mine && self.busy.load(Ordering::Acquire) {
            return Step::Again;
        }
        self.spawned.store(false, Ordering::SeqCst);
        // Whoever had the turn meanwhile may have counted on this task.
        if self.busy.load(Ordering::SeqCst) && !self.spawned.swap(true, Ordering::AcqRel) {
            return Step::Again;
        }
        Step::Done
    }
}

impl Source for Engine {
    /// What came is handed out at once, without arming the worker again: that it came has made the
    /// wake-up fd readable, so the reactor sees to that.
    fn poll(&self) {
        if !self.armed.load(Ordering::Relaxed) {
            return;
        }
        let mut first = true;
        let mine = self.turn.try_take(|| {
            let until = Instant::now() + ON_WAKE;
            let looked = std::mem::take(&mut first) && self.look();
            if !looked {
                self.work(until, Caller::Runtime, false);
            }
        });
        if mine {
            self.go_on();
        }
    }
}

impl Tick for Engine {
    fn tick(&self, now: Instant) -> Option<Instant> {
        let engine = self.me.upgrade()?;
        engine.orders.lock().push_back(Order::Tick(now));
        engine.take_turn(ON_WAKE, Caller::Runtime);
        let idle = self.flying.ops.load(Ordering::Relaxed) == 0;
        let look = now + LOOK[usize::from(idle)];
        Some(match self.due.load(Ordering::Relaxed) {
            0 => look,
            due => look.min(self.begun + Duration::from_nanos(due)),
        })
    }
}

/// The reactor's hold on an engine.
struct Waker(Weak<Engine>);

impl Watch for Waker {
    fn ready(&self, _: Readiness) {
        if let Some(engine) = self.0.upgrade() {
            // While somebody is at it, it would only keep the reactor's thread busy.
            engine.unwatched.store(true, Ordering::Release);
            engine.take_turn(ON_WAKE, Caller::Runtime);
        }
    }
}
