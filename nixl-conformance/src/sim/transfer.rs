//! Prepared transfers and how their bytes move.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use nixl_core::{
    ErrorKind, Op, Result,
    backend::{Refused, Transfer},
    error::fail,
    inflight::Completion,
    mem::{Access, Region},
    plan::{Piece, Plan},
};

use super::link::SimEndpoint;

/// Bytes copied at a time.
const BUFFER: usize = 16 << 10;

pub(super) struct SimTransfer {
    end: Arc<SimEndpoint>,
    plan: Arc<Plan>,
    moved: AtomicU64,
    cancelled: AtomicBool,
}

impl SimTransfer {
    pub(super) fn new(end: Arc<SimEndpoint>, plan: Arc<Plan>) -> Arc<Self> {
        Arc::new(Self {
            end,
            plan,
            moved: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
        })
    }

    pub(super) fn endpoint(&self) -> &Arc<SimEndpoint> {
        &self.end
    }

    pub(super) fn begin(&self) {
        self.moved.store(0, Ordering::Relaxed);
        self.cancelled.store(false, Ordering::Relaxed);
    }

    pub(super) fn bytes_moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Moves `len` bytes of `piece` from `offset` on, under a pin of the peer's region.
    fn copy(&self, piece: &Piece, offset: u64, len: u64) -> Result<()> {
        let local = &self.plan.local().regions()[piece.local_region as usize];
        let access = match self.plan.op() {
            Op::Read => Access::Read,
            Op::Write => Access::Write,
        };
        let remote = self.end.reach(&self.plan, piece, access)?;
        let here = (local, piece.local - local.addr() + offset);
        let there = (&**remote, piece.remote - remote.addr() + offset);
        match self.plan.op() {
            Op::Read => copy_between(there, here, len),
            Op::Write => copy_between(here, there, len),
        }
    }
}

// SAFETY: INV-1, only `Job::step` touches memory, and the job holds the token while it does.
unsafe impl Transfer for SimTransfer {
    fn post(self: Arc<Self>, done: Completion) -> Result<(), Refused> {
        let engine = self.end.engine().clone();
        engine.post(self, done)
    }

    fn cancel(&self) {
        self.end
            .engine()
            .cancel(|| self.cancelled.store(true, Ordering::Relaxed));
    }

    fn moved(&self) -> u64 {
        self.bytes_moved()
    }

    fn fenced(&self) -> bool {
        self.end.engine().config.fences
    }
}

fn copy_between(from: (&Region, u64), to: (&Region, u64), len: u64) -> Result<()> {
    let mut buffer = [0; BUFFER];
    let mut at = 0;
    while at < len {
        let n = (len - at).min(BUFFER as u64) as usize;
        from.0.read_at(from.1 + at, &mut buffer[..n])?;
        to.0.write_at(to.1 + at, &buffer[..n])?;
        at += n as u64;
    }
    Ok(())
}

/// A posted transfer: the token, how far it has come, and what the fault plan has in store.
pub(super) struct Job {
    transfer: Arc<SimTransfer>,
    done: Completion,
    chunk: usize,
    offset: u64,
    fails: Option<(u64, ErrorKind)>,
    drops: bool,
}

impl Job {
    pub(super) fn new(
        transfer: Arc<SimTransfer>,
        done: Completion,
        fails: Option<(u64, ErrorKind)>,
        drops: bool,
    ) -> Self {
        Self {
            transfer,
            done,
            chunk: 0,
            offset: 0,
            fails,
            drops,
        }
    }

    pub(super) fn transfer(&self) -> &SimTransfer {
        &self.transfer
    }

    /// It has moved `limit` bytes and nobody has cancelled it.
    pub(super) fn is_stalled(&self, limit: Option<u64>) -> bool {
        !self.transfer.cancelled.load(Ordering::Relaxed)
            && limit.is_some_and(|limit| self.transfer.bytes_moved() >= limit)
    }

    /// Moves one chunk, or what `limit` and the planned failure leave of it; how it ended, if so.
    pub(super) fn step(&mut self, limit: Option<u64>) -> Option<Result<()>> {
        if self.transfer.cancelled.load(Ordering::Relaxed) {
            return Some(Err(fail(ErrorKind::Cancelled, "cancelled")));
        }
        let most = [limit, self.fails.map(|(after, _)| after)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(u64::MAX);
        let moved = self.transfer.bytes_moved();
        if let Err(e) = self.move_chunk(most.saturating_sub(moved)) {
            return Some(Err(e));
        }
        let over = self.chunk == self.transfer.plan.chunks();
        match self.fails {
            Some((after, kind)) if over || self.transfer.bytes_moved() >= after => {
                Some(Err(fail(kind, "the fault plan fails this transfer")))
            }
            _ => over.then_some(Ok(())),
        }
    }

    fn move_chunk(&mut self, mut room: u64) -> Result<()> {
        let mut skip = self.offset;
        for piece in self.transfer.plan.chunk(self.chunk) {
            if skip >= piece.len {
                skip -= piece.len;
                continue;
            }
            let len = (piece.len - skip).min(room);
            if len == 0 {
                break;
            }
            self.transfer.copy(&piece, skip, len)?;
            self.transfer.moved.fetch_add(len, Ordering::Relaxed);
            self.offset += len;
            room -= len;
            skip = 0;
        }
        if self.offset == self.transfer.plan.chunk_bytes(self.chunk) {
            (self.chunk, self.offset) = (self.chunk + 1, 0);
        }
        Ok(())
    }

    pub(super) fn finish(self, result: Result<()>) {
        if self.drops {
            drop(self.done);
        } else {
            self.done.complete(result);
        }
    }
}
