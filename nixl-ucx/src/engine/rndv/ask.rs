//! The initiator's side: chunks asked for, within a window for each connection.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use nixl_core::{
    Error, ErrorKind, Op, PathClass, Result,
    backend::{Refused, Transfer},
    error::fail,
    inflight::Completion,
    plan::Plan,
};
use parking_lot::Mutex;

use super::{Came, Flight, Job, Load, Name, bytes, decline, flight::scatter, wire::encode_ask};
use crate::{
    engine::{Conn, Engine, Order, State, Upcall},
    fault::misbehaved,
    ucp::{Bytes, Entered},
    wire::Kind,
};

/// Chunks of one connection that were asked for and are not over.
const MAX_ASKED: usize = 64;
/// Their bytes, if it is more than one.
const MAX_BYTES: u64 = 16 << 20;
/// Chunks of one post that are asked for before others get a turn.
const BATCH: usize = 16;

/// One prepared request on one connection, to be moved by rendezvous.
pub(crate) struct Rndv {
    conn: Arc<Conn>,
    plan: Arc<Plan>,
    run: Mutex<Run>,
    moved: AtomicU64,
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
    /// Its number.
    post: u64,
    /// Next chunk to ask for.
    next: usize,
    /// Chunks that were asked for and are not over.
    open: HashMap<u32, Open>,
    /// Messages of it that UCX has.
    flying: usize,
    why: Option<Error>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    /// The target has not answered.
    Asked,
    /// The data is on its way.
    Moving,
}

/// How asking went.
enum Asked {
    /// More to ask for, there is room.
    More,
    /// More to ask for, by a thread that has the time, or once there is room.
    Later,
    /// Nothing more to ask for.
    All,
}

fn cancelled() -> Error {
    fail(ErrorKind::Cancelled, "cancelled")
}

impl Rndv {
    pub(crate) fn new(conn: &Arc<Conn>, plan: &Arc<Plan>) -> Self {
        Self {
            conn: conn.clone(),
            plan: plan.clone(),
            run: Mutex::default(),
            moved: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            complete: AtomicBool::new(false),
            loose: AtomicBool::new(false),
        }
    }

    fn is_stopped(&self, run: &Run) -> bool {
        run.why.is_some() || self.stop.load(Ordering::Acquire) || self.conn.gate.check().is_err()
    }

    fn len_of(&self, chunk: u32) -> u64 {
        self.plan.chunk_bytes(chunk as usize)
    }

    /// The local blocks of a chunk, in the order in which the data has them.
    pub(super) fn blocks(&self, chunk: u32) -> impl Iterator<Item = (u64, u64)> {
        let pieces = self.plan.chunk(chunk as usize);
        pieces.map(|piece| (piece.local, piece.len))
    }

    /// The memory of a chunk that UCX may send from: over sockets nobody reads there once a
    /// connection is closed, other lanes let the peer's side do that.
    fn whole(&self, chunk: u32) -> Option<Bytes> {
        let mut blocks = self.blocks(chunk);
        let (addr, len) = blocks.next()?;
        let direct = self.conn.lanes().class_of_bulk() == PathClass::Tcp;
        (direct && blocks.next().is_none()).then(|| bytes(addr, len))
    }

    /// A chunk is over.
    fn close(&self, run: &mut Run, chunk: u32) {
        if run.open.remove(&chunk).is_some() {
            let side = &mut self.conn.inner.lock().rndv;
            side.asked -= 1;
            side.asked_bytes -= self.len_of(chunk);
        }
    }

    /// All bytes of a chunk of a READ are here.
    fn take(&self, run: &mut Run, chunk: u32, data: &[u8]) {
        // SAFETY: INV-2, the plan's blocks were checked, and the token is out.
        unsafe { scatter(data, self.blocks(chunk)) };
        self.moved.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.close(run, chunk);
    }
}

impl Engine {
    /// A post begins.
    pub(in crate::engine) fn begin_rndv(&self, state: &mut State, rndv: &Arc<Rndv>) {
        let mut run = rndv.run.lock();
        let mut inner = rndv.conn.inner.lock();
        inner.posts += 1;
        inner.rndv.last += 1;
        run.post = inner.rndv.last;
        inner.rndv.posts.insert(run.post, rndv.clone());
        state.rndv.asking.push_back(rndv.clone());
    }

    /// Gives every post with chunks left a turn.
    pub(super) fn ask(&self, state: &mut State, inline: Option<Instant>) -> bool {
        let mut any = false;
        for _ in 0..state.rndv.asking.len() {
            let Some(rndv) = state.rndv.asking.pop_front() else {
                break;
            };
            match self.ask_for(state, &rndv, inline) {
                Asked::More => {
                    any = true;
                    state.rndv.asking.push_back(rndv);
                }
                Asked::Later => state.rndv.asking.push_back(rndv),
                Asked::All => {
                    any = true;
                    self.settle_rndv(state, &rndv);
                }
            }
        }
        any
    }

    fn ask_for(&self, state: &mut State, rndv: &Arc<Rndv>, inline: Option<Instant>) -> Asked {
        let mut run = rndv.run.lock();
        for _ in 0..BATCH {
            if run.next >= rndv.plan.chunks() || rndv.is_stopped(&run) {
                return Asked::All;
            }
            if inline.is_some_and(|until| Instant::now() >= until) {
                return Asked::Later;
            }
            let chunk = run.next as u32;
            let len = rndv.len_of(chunk);
            {
                let side = &mut rndv.conn.inner.lock().rndv;
                let full = side.asked > 0 && side.asked_bytes + len > MAX_BYTES;
                if full || side.asked >= MAX_ASKED {
                    return Asked::Later;
                }
                side.asked += 1;
                side.asked_bytes += len;
            }
            let name = Name {
                post: run.post,
                chunk,
            };
            run.next += 1;
            run.open.insert(chunk, Open::Asked);
            let body = encode_ask(&rndv.plan, name);
            self.frame(state, &rndv.conn, Kind::Ask, body.into());
        }
        Asked::More
    }

    /// The post that a name is of, while it is under way.
    fn post_of(conn: &Conn, name: Name) -> Option<Arc<Rndv>> {
        conn.inner.lock().rndv.posts.get(&name.post).cloned()
    }

    /// READ: data came.
    pub(super) fn own_came(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        conn: &Arc<Conn>,
        name: Name,
        came: Came,
    ) -> Result<()> {
        let Some(rndv) = Self::post_of(conn, name) else {
            decline(entered, came);
            return Ok(());
        };
        let mut run = rndv.run.lock();
        let due = rndv.plan.op() == Op::Read && run.open.get(&name.chunk) == Some(&Open::Asked);
        if !due || came.len() as u64 != rndv.len_of(name.chunk) {
            decline(entered, came);
            return Err(misbehaved("data that was not asked for"));
        }
        if rndv.is_stopped(&run) {
            decline(entered, came);
            run.why.get_or_insert_with(cancelled);
            rndv.close(&mut run, name.chunk);
        } else {
            match came {
                Came::Bytes(data) => rndv.take(&mut run, name.chunk, &data),
                Came::Promise(promise) => {
                    run.open.insert(name.chunk, Open::Moving);
                    run.flying += 1;
                    let load = Load::Own(rndv.clone(), name.chunk);
                    // Into a buffer: what a peer has put on its way cannot be stopped, and may come
                    // after the token.
                    self.take_in(state, entered, (conn, load), None, promise);
                }
            }
        }
        drop(run);
        self.settle_rndv(state, &rndv);
        Ok(())
    }

    /// WRITE: the target waits for a chunk.
    pub(super) fn told_ready(&self, state: &mut State, conn: &Arc<Conn>, name: Name) -> Result<()> {
        let Some(rndv) = Self::post_of(conn, name) else {
            return Ok(());
        };
        let mut run = rndv.run.lock();
        let due = rndv.plan.op() == Op::Write && run.open.get(&name.chunk) == Some(&Open::Asked);
        if !due {
            return Err(misbehaved(
                "the peer waits for what it was not asked to take",
            ));
        }
        // Also after a cancel: a target that waits has its regions pinned.
        run.open.insert(name.chunk, Open::Moving);
        run.flying += 1;
        let job = Job::Send(rndv.clone(), name.chunk);
        state.rndv.jobs.push_back(job);
        Ok(())
    }

    /// Sends a chunk of a WRITE.
    pub(super) fn send_own(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        rndv: &Arc<Rndv>,
        chunk: u32,
    ) {
        let post = rndv.run.lock().post;
        let load = Load::Own(rndv.clone(), chunk);
        let name = Name { post, chunk };
        let (whole, len) = (rndv.whole(chunk), rndv.len_of(chunk));
        self.send_off(state, entered, (&rndv.conn, load, name), whole, len);
    }

    /// WRITE: a chunk is where it belongs.
    pub(super) fn told_done(&self, state: &mut State, conn: &Arc<Conn>, name: Name) -> Result<()> {
        let Some(rndv) = Self::post_of(conn, name) else {
            return Ok(());
        };
        {
            let mut run = rndv.run.lock();
            if rndv.plan.op() != Op::Write || run.open.get(&name.chunk) != Some(&Open::Moving) {
                return Err(misbehaved("the peer took what was not sent"));
            }
            let len = rndv.len_of(name.chunk);
            rndv.moved.fetch_add(len, Ordering::Relaxed);
            rndv.close(&mut run, name.chunk);
        }
        self.settle_rndv(state, &rndv);
        Ok(())
    }

    /// The target refused a chunk.
    pub(super) fn told_failure(&self, state: &mut State, conn: &Arc<Conn>, name: Name, why: Error) {
        let Some(rndv) = Self::post_of(conn, name) else {
            return;
        };
        {
            let mut run = rndv.run.lock();
            run.why.get_or_insert(why);
            rndv.close(&mut run, name.chunk);
        }
        self.settle_rndv(state, &rndv);
    }

    /// UCX is through with a chunk of ours.
    pub(super) fn own_flown(
        &self,
        state: &mut State,
        rndv: &Arc<Rndv>,
        chunk: u32,
        flight: &Flight,
        result: Result<()>,
    ) {
        {
            let mut run = rndv.run.lock();
            run.flying -= 1;
            match result {
                Ok(()) if rndv.plan.op() == Op::Read => {
                    if let Some(data) = &*flight.buffer.lock() {
                        rndv.take(&mut run, chunk, &data[..flight.len]);
                    }
                }
                // The target has to say that it is there.
                Ok(()) => {}
                Err(why) => {
                    run.why.get_or_insert(why);
                }
            }
        }
        self.settle_rndv(state, rndv);
    }

    /// Ends a post of which nothing is under way, unless there is more to ask for.
    pub(super) fn settle_rndv(&self, state: &mut State, rndv: &Arc<Rndv>) {
        let mut run = rndv.run.lock();
        let all = run.next >= rndv.plan.chunks();
        let closed = rndv.conn.gate.check();
        let waits = !run.open.is_empty() && closed.is_ok();
        if run.token.is_none() || run.flying > 0 || waits || !(all || rndv.is_stopped(&run)) {
            return;
        }
        let done = all && run.open.is_empty() && run.why.is_none();
        let result = match (done, closed) {
            (true, _) => Ok(()),
            (false, Err(why)) => Err(why),
            (false, Ok(())) => Err(run.why.take().unwrap_or_else(cancelled)),
        };
        let write = rndv.plan.op() == Op::Write;
        let loose = write && !run.open.is_empty();
        rndv.loose.store(loose, Ordering::Release);
        rndv.complete.store(done, Ordering::Release);
        let open: Vec<_> = run.open.keys().copied().collect();
        open.iter().for_each(|chunk| rndv.close(&mut run, *chunk));
        let Some(token) = run.token.take() else {
            return;
        };
        let conn = rndv.conn.clone();
        {
            let mut inner = conn.inner.lock();
            inner.posts -= 1;
            inner.rndv.posts.remove(&run.post);
        }
        let upcall = Upcall::Complete(conn.clone(), token, result);
        state.upcalls.push_back(upcall);
        self.bid_farewell(state, &conn);
    }
}

// SAFETY: INV-1, UCX holds a message's flight, the flight the transfer; the token is completed when
// UCX has called back for all of them. What a peer may still write is a buffer of the backend's.
unsafe impl Transfer for Rndv {
    fn post(self: Arc<Self>, done: Completion) -> std::result::Result<(), Refused> {
        if let Err(error) = self.conn.gate.enter() {
            return Err(Refused { error, done });
        }
        *self.run.lock() = Run {
            token: Some(done),
            ..Run::default()
        };
        self.moved.store(0, Ordering::Relaxed);
        self.stop.store(false, Ordering::Relaxed);
        self.complete.store(false, Ordering::Relaxed);
        self.loose.store(false, Ordering::Release);
        let engine = self.conn.engine.clone();
        engine.order(Order::Move(self));
        Ok(())
    }

    fn cancel(&self) {
        self.stop.store(true, Ordering::Release);
        let conn = self.conn.clone();
        self.conn.engine.order(Order::Cancel(conn));
    }

    fn moved(&self) -> u64 {
        if self.complete.load(Ordering::Acquire) {
            return self.plan.bytes();
        }
        let moved = self.moved.load(Ordering::Relaxed);
        moved.min(self.plan.bytes().saturating_sub(1))
    }

    /// A WRITE of which the target has answered every chunk leaves nothing on its way.
    fn fenced(&self) -> bool {
        !self.loose.load(Ordering::Acquire)
    }
}
