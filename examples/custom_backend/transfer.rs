//! How bytes move.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use nixl::{
    Error, ErrorKind, Op, Result,
    backend::{Refused, Transfer},
    inflight::Completion,
    mem::Access,
    plan::{Piece, Plan},
};

use super::end::{End, Event, closed};

/// Bytes copied at a time.
const BUFFER: usize = 16 << 10;

/// A prepared request.
pub(crate) struct CopyTransfer {
    end: Arc<End>,
    plan: Arc<Plan>,
    moved: AtomicU64,
    cancelled: AtomicBool,
}

// SAFETY: INV-1, only `Posted::step` touches memory, and it owns the token while it does.
unsafe impl Transfer for CopyTransfer {
    fn post(self: Arc<Self>, done: Completion) -> Result<(), Refused> {
        self.moved.store(0, Relaxed);
        self.cancelled.store(false, Relaxed);
        let end = self.end.clone();
        let posted = Posted {
            transfer: self,
            done,
            chunk: 0,
        };
        match end.push(Event::Chunk(posted)) {
            Err(Event::Chunk(Posted { done, .. })) => Err(Refused {
                error: closed(),
                done,
            }),
            _ => Ok(()),
        }
    }

    fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    fn moved(&self) -> u64 {
        self.moved.load(Relaxed)
    }

    /// Whatever is not copied when the token completes never will be.
    fn fenced(&self) -> bool {
        true
    }
}

/// A posted request and how far it has come.
pub(crate) struct Posted {
    transfer: Arc<CopyTransfer>,
    pub(crate) done: Completion,
    chunk: usize,
}

impl Posted {
    /// Copies one chunk; `None` once the token is completed.
    pub(crate) fn step(mut self) -> Option<Self> {
        let transfer = &self.transfer;
        let result = if transfer.cancelled.load(Relaxed) {
            Err(Error::new(ErrorKind::Cancelled, "cancelled"))
        } else {
            let mut pieces = transfer.plan.chunk(self.chunk);
            pieces.try_for_each(|piece| transfer.copy(&piece))
        };
        self.chunk += 1;
        if result.is_ok() && self.chunk < transfer.plan.chunks() {
            return Some(self);
        }
        self.done.complete(result);
        None
    }
}

impl CopyTransfer {
    pub(crate) fn new(end: Arc<End>, plan: Arc<Plan>) -> Self {
        Self {
            end,
            plan,
            moved: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
        }
    }

    /// The target's region is found by its key and checked, and pinned for this one piece.
    fn copy(&self, piece: &Piece) -> Result<()> {
        let op = self.plan.op();
        let access = match op {
            Op::Read => Access::Read,
            Op::Write => Access::Write,
        };
        let key = &self.plan.remote().regions()[piece.remote_region as usize].key;
        let far = self.end.peer()?;
        let there = far
            .node
            .context()?
            .resolve(key, piece.remote, piece.len, access)?;
        let here = &self.plan.local().regions()[piece.local_region as usize];
        let (mut from, mut to) = (
            (&*there, piece.remote - there.addr()),
            (here, piece.local - here.addr()),
        );
        if op == Op::Write {
            std::mem::swap(&mut from, &mut to);
        }
        let mut buffer = [0; BUFFER];
        for at in (0..piece.len).step_by(buffer.len()) {
            let part = &mut buffer[..(piece.len - at).min(BUFFER as u64) as usize];
            from.0.read_at(from.1 + at, part)?;
            to.0.write_at(to.1 + at, part)?;
            self.moved.fetch_add(part.len() as u64, Relaxed);
        }
        Ok(())
    }
}
