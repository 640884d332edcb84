//! A prepared request at its initiator.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use nixl_core::{
    Error, ErrorKind, MemKind, Op, Result,
    backend::{Refused, Transfer},
    inflight::Completion,
    plan::Plan,
};
use nixl_tcp_proto::{ChunkBook, OpenOp, RegionRef, Run, Status, Xfer, encode_open};
use parking_lot::Mutex;

use crate::{
    PATH,
    conn::{Connection, INLINE, too_many_descriptors},
    gate::AccessGate,
};

/// Longest open frame that the posting thread sends itself, in bytes.
const SMALL_BODY: usize = 8 << 10;

/// One prepared request. Posted many times; each post has its own generation of the gate.
pub(crate) struct Outbound {
    conn: Arc<Connection>,
    plan: Arc<Plan>,
    /// The open frame's body, the same at every post.
    body: Vec<u8>,
    cost: u32,
    gate: AccessGate,
    book: ChunkBook,
    next: AtomicU32,
    moved: AtomicU64,
    fenced: AtomicBool,
    post: Mutex<Post>,
}

/// Where the current post stands.
struct Post {
    done: Option<Completion>,
    generation: u32,
    outcome: Option<Result<()>>,
    xfer: Option<Xfer>,
    /// A WRITE of which the target has heard and not said the end.
    unfenced: bool,
    cancelled_at: Option<Instant>,
}

/// One post of a prepared request.
#[derive(Clone)]
pub(crate) struct Active {
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) generation: u32,
}

/// What became of the wish to open a post at the target.
pub(crate) enum Begun {
    /// It ended before.
    Over,
    /// No credit.
    Wait,
    /// Its number.
    Opened(Xfer),
}

impl Outbound {
    pub(crate) fn new(conn: Arc<Connection>, plan: Arc<Plan>) -> Result<Self> {
        if plan.local().kind() != MemKind::Dram || plan.remote().kind() != MemKind::Dram {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "sockets move host memory only",
            ));
        }
        let (body, cost) = encode(&plan)?;
        if cost > conn.list_limit() {
            return Err(too_many_descriptors(cost));
        }
        let mut book = ChunkBook::default();
        book.resize(plan.chunks() as u32);
        Ok(Self {
            conn,
            plan,
            body,
            cost,
            gate: AccessGate::new(),
            book,
            next: AtomicU32::new(0),
            moved: AtomicU64::new(0),
            fenced: AtomicBool::new(true),
            post: Mutex::new(Post {
                done: None,
                generation: 0,
                outcome: None,
                xfer: None,
                unfenced: false,
                cancelled_at: None,
            }),
        })
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Whether a post goes out from the posting thread.
    pub(crate) fn is_small(&self) -> bool {
        let payload = match self.plan.op() {
            Op::Read => 0,
            Op::Write => self.plan.bytes(),
        };
        self.body.len() <= SMALL_BODY && payload <= INLINE
    }

    pub(crate) fn cost(&self) -> u32 {
        self.cost
    }

    /// Starts over for a new post. The caller holds the lock under which chunks are handed out.
    pub(crate) fn arm(&self, done: Completion) -> u32 {
        let mut post = self.post.lock();
        self.book.reset();
        self.next.store(0, Relaxed);
        self.moved.store(0, Relaxed);
        self.fenced.store(true, Relaxed);
        *post = Post {
            done: Some(done),
            generation: self.gate.open(),
            outcome: None,
            xfer: None,
            unfenced: false,
            cancelled_at: None,
        };
        post.generation
    }
}

fn encode(plan: &Plan) -> Result<(Vec<u8>, u32)> {
    let op = match plan.op() {
        Op::Read => OpenOp::Read,
        Op::Write => OpenOp::Write,
    };
    let regions = plan.remote().regions();
    let refs = regions.iter().map(|r| RegionRef {
        key: r.key.0,
        addr: r.addr,
    });
    let runs = plan.pieces().map(|p| {
        let base = regions[p.remote_region as usize].addr;
        Run::single(p.remote_region, p.remote - base, p.len)
    });
    let chunks = (0..plan.chunks()).map(|i| u32::try_from(plan.chunk_bytes(i)).unwrap_or(u32::MAX));
    let mut body = Vec::new();
    let cost = encode_open(&mut body, op, refs, chunks, runs).map_err(|e| {
        Error::new(
            ErrorKind::Exhausted,
            format!("the request does not fit one TCP transfer ({e}); split it"),
        )
    })?;
    body.shrink_to_fit();
    Ok((body, cost))
}

impl Active {
    /// Gives the post a number by `acquire`, unless it ended before.
    pub(crate) fn begin(&self, acquire: impl FnOnce() -> Option<Xfer>) -> Begun {
        let mut post = self.outbound.post.lock();
        if post.generation != self.generation || post.outcome.is_some() {
            return Begun::Over;
        }
        let Some(xfer) = acquire() else {
            return Begun::Wait;
        };
        post.xfer = Some(xfer);
        if self.is_write() {
            post.unfenced = true;
            self.outbound.fenced.store(false, Relaxed);
        }
        Begun::Opened(xfer)
    }

    pub(crate) fn is_write(&self) -> bool {
        self.outbound.plan.op() == Op::Write
    }

    pub(crate) fn is_open(&self) -> bool {
        self.outbound.gate.is_open(self.generation)
    }

    /// Next chunk to send. The caller holds the lock under which chunks are handed out.
    pub(crate) fn next_chunk(&self) -> Option<u32> {
        if !self.is_open() {
            return None;
        }
        let index = self.outbound.next.fetch_add(1, Relaxed);
        ((index as usize) < self.outbound.plan.chunks()).then_some(index)
    }

    /// Runs `work`, which may touch the request's memory and books; `None` if the post is over.
    pub(crate) fn inside<T>(&self, work: impl FnOnce(&ChunkBook) -> T) -> Option<T> {
        if !self.outbound.gate.enter(self.generation) {
            return None;
        }
        let out = work(&self.outbound.book);
        if self.outbound.gate.leave() {
            self.outbound.settle();
        }
        Some(out)
    }

    pub(crate) fn count(&self, bytes: u64) {
        self.outbound.moved.fetch_add(bytes, Relaxed);
    }

    /// All chunks of a READ are in place. Its number is given back by `release` before the token
    /// completes; not at all if it was cancelled meanwhile, for then the target still owes an ack.
    pub(crate) fn finish(&self, release: impl FnOnce()) {
        let mut post = self.outbound.post.lock();
        if post.generation != self.generation || post.outcome.is_some() {
            return;
        }
        post.outcome = Some(Ok(()));
        drop(post);
        release();
        self.outbound.gate.close();
        self.outbound.settle();
    }

    /// The target said the end.
    pub(crate) fn acked(&self, status: Status) {
        let result = to_result(status);
        let mut post = self.outbound.post.lock();
        if post.generation != self.generation {
            return;
        }
        post.unfenced = false;
        self.outbound.fenced.store(true, Relaxed);
        if post.outcome.is_none() || (status == Status::Ok && self.is_write()) {
            post.outcome = Some(result);
        }
        drop(post);
        self.outbound.gate.close();
        self.outbound.settle();
    }

    /// The connection is gone.
    pub(crate) fn abandon(&self, why: &Error) {
        let mut post = self.outbound.post.lock();
        if post.generation != self.generation {
            return;
        }
        post.unfenced = false;
        post.outcome.get_or_insert_with(|| Err(why.clone()));
        drop(post);
        self.outbound.gate.close();
        self.outbound.settle();
    }

    /// A cancelled WRITE whose target has not let go since before `since`.
    pub(crate) fn overdue(&self, since: Instant) -> bool {
        let post = self.outbound.post.lock();
        post.generation == self.generation
            && post.unfenced
            && post.cancelled_at.is_some_and(|at| at <= since)
    }
}

impl Outbound {
    /// Completes the token once the outcome is known, nothing of ours is inside a system call on
    /// the memory, and a WRITE's target has let go.
    fn settle(&self) {
        let mut post = self.post.lock();
        if post.outcome.is_none() || post.unfenced || !self.gate.is_quiet() {
            return;
        }
        let Some(done) = post.done.take() else { return };
        let result = post.outcome.clone().unwrap_or(Ok(()));
        drop(post);
        done.complete(result.map_err(|e| e.with_peer(self.conn.peer()).with_path(PATH)));
        self.conn.token_done();
    }
}

// SAFETY: INV-1, every system call on the plan's memory runs inside the gate; the token completes
// only once the gate is closed and quiet.
unsafe impl Transfer for Outbound {
    fn post(self: Arc<Self>, done: Completion) -> Result<(), Refused> {
        let conn = self.conn.clone();
        conn.submit(self, done)
    }

    fn cancel(&self) {
        let mut post = self.post.lock();
        if post.done.is_none() || post.outcome.is_some() {
            return;
        }
        post.outcome = Some(Err(Error::new(
            ErrorKind::Cancelled,
            "the request was cancelled",
        )));
        post.cancelled_at = Some(Instant::now());
        let (xfer, waits) = (post.xfer, post.unfenced);
        drop(post);
        self.gate.close();
        if let Some(xfer) = xfer {
            self.conn.send_cancel(xfer, waits);
        }
        self.settle();
    }

    fn moved(&self) -> u64 {
        self.moved.load(Relaxed)
    }

    fn fenced(&self) -> bool {
        self.fenced.load(Relaxed)
    }
}

fn to_result(status: Status) -> Result<()> {
    let (kind, what) = match status {
        Status::Ok => return Ok(()),
        Status::Cancelled => (ErrorKind::Cancelled, "the request was cancelled"),
        Status::NotRegistered => (
            ErrorKind::NotRegistered,
            "the peer no longer has a region of the request; load its newer metadata",
        ),
        Status::NotAllowed => (
            ErrorKind::NotAllowed,
            "the peer registered the region read-only",
        ),
        Status::OutOfBounds => (
            ErrorKind::NotRegistered,
            "a descriptor reaches over the end of the peer's region; load its newer metadata",
        ),
        Status::Failed => (ErrorKind::Backend, "the peer could not serve the request"),
    };
    Err(Error::new(kind, what))
}
