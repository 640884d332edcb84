//! A request's blocks as one-sided operations, fed in batches.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nixl_core::{
    Error, ErrorKind, Op, Result,
    backend::{Refused, Transfer},
    error::fail,
    inflight::Completion,
    plan::Plan,
};
use parking_lot::Mutex;

use super::{Conn, Engine, INLINE_BYTES, Order, State, Upcall, blame::name_memory, mailbox::Event};
use crate::{
    fault::unsupported,
    imports::{Grant, Slot},
    keys::Key,
    ucp::{Api, Block, Done, Endpoint, Entered, Posted, Status},
};

/// Blocks of one transfer that are handed over before others get a turn.
const BATCH: usize = 64;
/// Operations in flight on one worker.
const MAX_OPS: usize = 1024;
/// Bytes in flight on one worker, if it is more than one block.
const MAX_BYTES: u64 = 16 << 20;
/// How long UCX may have no room for a block while nothing else is in flight.
const MAX_PRESSURE: Duration = Duration::from_secs(2);

/// One prepared request on one connection.
pub(crate) struct Rma {
    conn: Arc<Conn>,
    plan: Arc<Plan>,
    /// One for each remote region of the plan.
    slots: Box<[Arc<Slot>]>,
    /// Bytes of a block, on average.
    size: u64,
    run: Mutex<Run>,
    /// Operations that UCX has.
    flying: AtomicUsize,
    /// Blocks that are over.
    over: AtomicU64,
    /// The first failure of the present post; 0: none.
    failed: AtomicI32,
    stop: AtomicBool,
    /// Every byte is where it belongs.
    complete: AtomicBool,
    /// Bytes may still land at the target after a failure.
    loose: AtomicBool,
}

/// The present post.
#[derive(Default)]
struct Run {
    token: Option<Completion>,
    /// One for each remote region of the plan.
    grants: Vec<Arc<Grant>>,
    /// One for each local region: registered for as long as operations may use it.
    memory: Vec<Arc<Key>>,
    /// Next block to hand over.
    next: u64,
    flush: Flush,
    why: Option<Error>,
    pressed: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Flush {
    /// Not begun.
    #[default]
    No,
    /// Begun; over when nothing is in flight any more.
    Begun,
}

/// How handing over went.
enum Fed {
    /// More to hand over, there is room.
    More,
    /// More to hand over, by a thread that has the time.
    Later,
    /// More to hand over, no room now.
    Full,
    /// Nothing more to hand over.
    All,
}

impl Rma {
    pub(crate) fn new(conn: &Arc<Conn>, plan: &Arc<Plan>) -> Self {
        let regions = plan.remote().regions().iter();
        Self {
            conn: conn.clone(),
            slots: regions.map(|r| conn.imports.slot(r)).collect(),
            size: (plan.bytes() / plan.merged().max(1)).max(1),
            plan: plan.clone(),
            run: Mutex::default(),
            flying: AtomicUsize::new(0),
            over: AtomicU64::new(0),
            failed: AtomicI32::new(0),
            stop: AtomicBool::new(false),
            complete: AtomicBool::new(false),
            loose: AtomicBool::new(false),
        }
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.conn.engine
    }

    /// Looks for keys and registrations. `Ok(false)`: some key has been asked for.
    fn acquire(&self, run: &mut Run, fresh: bool) -> Result<bool> {
        self.conn.gate.check()?;
        run.grants.clear();
        let mut all = true;
        for slot in &self.slots {
            match self.conn.imports.get(slot, fresh)? {
                Some(grant) => run.grants.push(grant),
                None => all = false,
            }
        }
        if !all {
            return Ok(false);
        }
        if self.plan.op() == Op::Write {
            run.grants.iter().try_for_each(|g| g.check_writable())?;
        }
        run.memory.clear();
        for region in self.plan.local().regions() {
            run.memory.push(self.engine().keys().get(region.id())?);
        }
        Ok(true)
    }

    /// Whether no more blocks are to be handed over.
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
            || self.failed.load(Ordering::Acquire) != 0
            || self.conn.gate.check().is_err()
    }

    /// Why a stopped post ends.
    fn reason(&self, api: &Api) -> Error {
        if let Err(why) = self.conn.gate.check() {
            return why;
        }
        match Status::from_code(self.failed.load(Ordering::Acquire)) {
            // A connection that ends says so. Otherwise UCX itself gives up what it cannot do.
            Some(Status::CANCELED) => unsupported(format!(
                "UCX refuses one-sided operations over the lanes of this connection: {}; see \
                 UCX_PROTO_EMULATION_ENABLE",
                Status::CANCELED.error(api, "an operation ended").message()
            )),
            Some(status) => status.error(api, "a one-sided operation failed"),
            None => fail(ErrorKind::Cancelled, "cancelled"),
        }
    }

    /// Hands over blocks while there is room, and time: emulated operations copy at once.
    fn feed(
        self: &Arc<Self>,
        run: &mut Run,
        (entered, endpoint): (&Entered<'_>, &Endpoint),
        inline: Option<Instant>,
    ) -> Fed {
        let room = &self.engine().flying;
        let blocks = self.plan.merged();
        for _ in 0..BATCH {
            if self.is_stopped() || run.next >= blocks {
                return Fed::All;
            }
            if inline.is_some_and(|until| self.size > INLINE_BYTES || Instant::now() >= until) {
                return Fed::Later;
            }
            let ops = room.ops.load(Ordering::Relaxed);
            let bytes = room.bytes.load(Ordering::Relaxed);
            if ops >= MAX_OPS || (ops > 0 && bytes + self.size > MAX_BYTES) {
                return Fed::Full;
            }
            match self.hand_over(run, entered, endpoint) {
                Ok(()) => {
                    run.next += 1;
                    run.pressed = None;
                }
                Err(status) if status.is_pressure() => {
                    let since = *run.pressed.get_or_insert_with(Instant::now);
                    if ops > 0 || since.elapsed() < MAX_PRESSURE {
                        return Fed::Full;
                    }
                    self.note(status);
                }
                Err(status) => self.note(status),
            }
        }
        Fed::More
    }

    /// Hands over block number `next`.
    fn hand_over(
        self: &Arc<Self>,
        run: &Run,
        entered: &Entered<'_>,
        endpoint: &Endpoint,
    ) -> Result<(), Status> {
        let Some(piece) = self.plan.piece(run.next) else {
            return Ok(());
        };
        let block = Block {
            local: piece.local,
            len: piece.len,
            memory: &run.memory[piece.local_region as usize].memory,
            remote: piece.remote,
            key: &run.grants[piece.remote_region as usize].key,
            many: self.plan.merged() > 1,
        };
        self.take_off();
        let begun = match self.plan.op() {
            // SAFETY: INV-1, `self` holds the plan, which holds the local regions, and until
            // nothing is in flight the run holds their registrations.
            Op::Read => unsafe { entered.get(endpoint, &block, self) },
            Op::Write => {
                self.loose.store(true, Ordering::Relaxed);
                // SAFETY: INV-1, as above.
                unsafe { entered.put(endpoint, &block, self) }
            }
        };
        if begun != Ok(Posted::Later) {
            self.land();
        }
        begun.map(|posted| {
            if posted == Posted::Now {
                self.over.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    fn take_off(&self) {
        let flying = &self.engine().flying;
        flying.ops.fetch_add(1, Ordering::Relaxed);
        flying.bytes.fetch_add(self.size, Ordering::Relaxed);
        self.flying.fetch_add(1, Ordering::Relaxed);
    }

    /// True: it was the last one.
    fn land(&self) -> bool {
        let flying = &self.engine().flying;
        flying.ops.fetch_sub(1, Ordering::Relaxed);
        flying.bytes.fetch_sub(self.size, Ordering::Relaxed);
        self.flying.fetch_sub(1, Ordering::AcqRel) == 1
    }

    fn note(&self, status: Status) {
        let code = status.code();
        let _ = self
            .failed
            .compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
    }

    fn is_quiet(&self) -> bool {
        self.flying.load(Ordering::Acquire) == 0
    }
}

impl Done for Rma {
    fn api(&self) -> &Api {
        self.engine().settings.context.api()
    }

    fn done(self: Arc<Self>, status: Status) {
        match status.ok() {
            Ok(()) => {
                self.over.fetch_add(1, Ordering::Relaxed);
            }
            Err(status) => self.note(status),
        }
        if self.land() {
            let engine = self.engine().clone();
            engine.mailbox.push(Event::Quiet(self));
        }
    }
}

impl Engine {
    /// A post begins, or goes on after its keys have come.
    pub(super) fn begin(&self, state: &mut State, rma: &Arc<Rma>, fresh: bool) {
        let mut run = rma.run.lock();
        if fresh {
            rma.conn.inner.lock().posts += 1;
        }
        if rma.stop.load(Ordering::Acquire) {
            run.why = Some(fail(ErrorKind::Cancelled, "cancelled"));
            return self.end(state, rma, &mut run);
        }
        match rma.acquire(&mut run, fresh) {
            Ok(true) => state.feeding.push_back(rma.clone()),
            Ok(false) => {
                rma.conn.inner.lock().waiting.push(rma.clone());
                state.list(&rma.conn);
            }
            Err(why) => {
                run.why = Some(why);
                self.end(state, rma, &mut run);
            }
        }
    }

    /// Posts that waited for keys look again.
    pub(super) fn resume(&self, state: &mut State, conn: &Arc<Conn>) {
        let waiting = std::mem::take(&mut conn.inner.lock().waiting);
        for rma in waiting {
            self.begin(state, &rma, false);
        }
    }

    /// Gives every transfer with blocks left a turn.
    ///
    /// `inline`: until when, on a thread that posts.
    pub(super) fn feed(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        inline: Option<Instant>,
    ) -> bool {
        let mut any = false;
        for _ in 0..state.feeding.len() {
            let Some(rma) = state.feeding.pop_front() else {
                break;
            };
            match self.feed_one(&rma, entered, inline) {
                Fed::More => {
                    any = true;
                    state.feeding.push_back(rma);
                }
                Fed::Later => state.feeding.push_back(rma),
                Fed::Full => {
                    if self.flying.ops.load(Ordering::Relaxed) == 0 {
                        // Nothing will come back that could make room: look again.
                        self.due_at(Instant::now() + Duration::from_millis(1));
                    }
                    state.feeding.push_back(rma);
                }
                Fed::All => {
                    any = true;
                    if rma.is_quiet() {
                        self.settle(state, entered, &rma);
                    }
                }
            }
        }
        any
    }

    fn feed_one(&self, rma: &Arc<Rma>, entered: &Entered<'_>, inline: Option<Instant>) -> Fed {
        let mut run = rma.run.lock();
        let inner = rma.conn.inner.lock();
        let Some(endpoint) = &inner.endpoint else {
            return Fed::All;
        };
        match rma.feed(&mut run, (entered, endpoint), inline) {
            Fed::All if rma.plan.op() == Op::Write && run.flush == Flush::No && run.next > 0 => {
                run.flush = Flush::Begun;
                self.flush(rma, entered, endpoint);
                Fed::All
            }
            fed => fed,
        }
    }

    /// Waits for what was handed over to be complete at the peer.
    fn flush(&self, rma: &Arc<Rma>, entered: &Entered<'_>, endpoint: &Endpoint) {
        rma.take_off();
        match entered.flush(endpoint, rma) {
            Ok(Posted::Later) => {}
            Ok(Posted::Now) => {
                rma.land();
            }
            Err(status) => {
                rma.note(status);
                rma.land();
            }
        }
    }

    /// Nothing of a transfer is in flight: it ends, unless there is more to hand over.
    pub(super) fn settle(&self, state: &mut State, entered: &Entered<'_>, rma: &Arc<Rma>) {
        let mut run = rma.run.lock();
        let fed = run.next >= rma.plan.merged() || rma.is_stopped();
        if run.token.is_none() || !fed || !rma.is_quiet() {
            return;
        }
        let write = rma.plan.op() == Op::Write;
        if write && run.flush == Flush::No && run.next > 0 {
            // `feed` will flush, unless there is nothing left to flush on.
            if rma.conn.inner.lock().endpoint.is_some() {
                return;
            }
        }
        let all = run.next >= rma.plan.merged() && rma.failed.load(Ordering::Acquire) == 0;
        let flushed = !write || run.flush == Flush::Begun;
        if rma.failed.load(Ordering::Acquire) == 0 && flushed {
            rma.loose.store(false, Ordering::Relaxed);
        }
        if all && flushed {
            rma.complete.store(true, Ordering::Release);
        } else {
            run.why = Some(rma.reason(entered.api()));
        }
        state.feeding.retain(|other| !Arc::ptr_eq(other, rma));
        self.end(state, rma, &mut run);
    }

    /// Gives the token back. Nothing of this post touches memory any more.
    fn end(&self, state: &mut State, rma: &Arc<Rma>, run: &mut Run) {
        run.grants.clear();
        run.memory.clear();
        let Some(token) = run.token.take() else {
            return;
        };
        let why = run.why.take().map(|why| name_memory(&rma.plan, why));
        let result = why.map_or(Ok(()), Err);
        rma.conn.inner.lock().posts -= 1;
        let conn = rma.conn.clone();
        state
            .upcalls
            .push_back(Upcall::Complete(conn, token, result));
        self.bid_farewell(state, &rma.conn);
    }
}

// SAFETY: INV-1, UCX holds the transfer for each operation, and the token is completed when it has
// called back for all of them.
unsafe impl Transfer for Rma {
    fn post(self: Arc<Self>, done: Completion) -> Result<(), Refused> {
        if let Err(error) = self.conn.gate.enter() {
            return Err(Refused { error, done });
        }
        {
            let mut run = self.run.lock();
            *run = Run {
                grants: std::mem::take(&mut run.grants),
                memory: std::mem::take(&mut run.memory),
                token: Some(done),
                ..Run::default()
            };
            self.over.store(0, Ordering::Relaxed);
            self.failed.store(0, Ordering::Relaxed);
            self.stop.store(false, Ordering::Relaxed);
            self.complete.store(false, Ordering::Relaxed);
            self.loose.store(false, Ordering::Release);
        }
        let engine = self.engine().clone();
        engine.order(Order::Post(self));
        Ok(())
    }

    fn cancel(&self) {
        self.stop.store(true, Ordering::Release);
        self.engine().order(Order::Cancel(self.conn.clone()));
    }

    fn moved(&self) -> u64 {
        if self.complete.load(Ordering::Acquire) {
            return self.plan.bytes();
        }
        let over = self.over.load(Ordering::Relaxed).saturating_mul(self.size);
        over.min(self.plan.bytes().saturating_sub(1))
    }

    /// A WRITE whose flush succeeded, or that handed nothing over, leaves nothing on its way.
    fn fenced(&self) -> bool {
        !self.loose.load(Ordering::Acquire)
    }
}
