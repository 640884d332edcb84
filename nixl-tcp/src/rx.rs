//! Receiving half of a data stream: straight into the destination.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use nixl_core::{Error, Op};
use nixl_tcp_proto::{Chunk, Cursor, DataRx, DataStep, OpenOp, ProtocolError, Status};
use parking_lot::Mutex;

use crate::{
    conn::{Connection, Receiver, misbehaved},
    inbound::{Inbound, PinSet},
    iov::{self, Iov, Pieces},
    sock::{self, Moved},
    stream::{Direction, Pace, Pause},
    transfer::Active,
};

/// Payload worth waking up for, in bytes.
const WAKE_AT: u32 = 256 << 10;
/// Longest body of a request that is checked outside the copy threads, in bytes.
const SMALL_BODY: usize = 16 << 10;

pub(crate) struct RxState {
    parked: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    rx: DataRx,
    target: Target,
    pieces: Pieces,
    pins: PinSet,
    /// The vector of one call.
    vector: Vec<Iov>,
    /// A complete request that a copy thread has to check.
    waiting: Option<nixl_tcp_proto::Xfer>,
    /// Bytes at which the socket wakes us.
    wakes_at: u32,
}

/// Whose memory the chunk in progress goes to.
enum Target {
    Nobody,
    Mine(Active),
    Theirs {
        inbound: Arc<Inbound>,
        cursor: Cursor,
        /// Bytes of the chunk that are not in `pieces` yet.
        left: u32,
    },
}

impl RxState {
    pub(crate) fn new(max_body: u32) -> Self {
        Self {
            parked: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                rx: DataRx::new(max_body),
                target: Target::Nobody,
                pieces: Pieces::default(),
                pins: PinSet::default(),
                vector: Vec::new(),
                waiting: None,
                wakes_at: 1,
            }),
        }
    }

    /// True if the stream waited for a request: let it look again.
    pub(crate) fn unpark(&self) -> bool {
        self.parked.swap(false, SeqCst)
    }
}

impl Direction for RxState {
    fn advance(&self, conn: &Connection, fd: BorrowedFd<'_>, pace: Pace) -> Result<Pause, Error> {
        let mut inner = self.inner.lock();
        let mut moved = 0;
        loop {
            match inner.step(conn, fd, pace, &self.parked)? {
                Did::Pause(pause) => {
                    if matches!(pause, Pause::Idle) {
                        inner.set_wake(fd)?;
                    }
                    return Ok(pause);
                }
                Did::Moved(n) => moved += n as u64,
            }
            if let Some(pause) = pace.is_over(moved) {
                return Ok(pause);
            }
        }
    }
}

enum Did {
    Moved(usize),
    Pause(Pause),
}

impl Inner {
    fn step(
        &mut self,
        conn: &Connection,
        fd: BorrowedFd<'_>,
        pace: Pace,
        parked: &AtomicBool,
    ) -> Result<Did, Error> {
        if self.waiting.is_some() {
            return self.open(conn, pace);
        }
        let n = match self.rx.step().map_err(misbehaved)? {
            DataStep::Fill(buf) => match sock::recv(fd, buf) {
                Ok(Moved::Bytes(n)) => n,
                Ok(Moved::Blocked) => return Ok(Did::Pause(Pause::Idle)),
                Err(e) => return Err(closed(e)),
            },
            DataStep::Skip(left) => {
                let mut scratch = [0; 16 << 10];
                let n = scratch.len().min(left as usize);
                match sock::recv(fd, &mut scratch[..n]) {
                    Ok(Moved::Bytes(n)) => n,
                    Ok(Moved::Blocked) => return Ok(Did::Pause(Pause::Idle)),
                    Err(e) => return Err(closed(e)),
                }
            }
            DataStep::Copy(bytes) => {
                self.target.refill(&mut self.pieces);
                let n = bytes.len().min(self.pieces.bytes() as usize);
                let (pieces, bytes) = (&self.pieces, &bytes[..n]);
                // SAFETY: INV-2, the pieces were checked against their regions and are only
                // touched inside the request's gate; `bytes` is the stream's own buffer.
                let copy = || unsafe { pieces.fill(bytes) };
                let touched = pieces.len();
                if !self
                    .target
                    .inside(conn, pieces, touched, &mut self.pins, copy)
                {
                    self.rx.discard();
                    return Ok(Did::Moved(0));
                }
                self.placed(n as u64);
                n
            }
            DataStep::Payload { left, .. } if pace.is_too_heavy(u64::from(left)) => {
                return Ok(Did::Pause(Pause::Heavy));
            }
            DataStep::Payload { .. } => match self.payload(conn, fd)? {
                Some(n) => n,
                None => return Ok(Did::Pause(Pause::Idle)),
            },
            DataStep::Open { xfer } => {
                self.waiting = Some(xfer);
                return Ok(Did::Moved(0));
            }
            DataStep::Chunk(chunk) => return self.chunk(conn, chunk, parked),
            DataStep::Done {
                chunk,
                accepted,
                status,
            } => {
                self.done(conn, &chunk, accepted, status);
                return Ok(Did::Moved(0));
            }
        };
        self.rx.received(n).map_err(misbehaved)?;
        Ok(Did::Moved(n))
    }

    /// In the middle of a large chunk, lets a good part of it come together first.
    fn set_wake(&mut self, fd: BorrowedFd<'_>) -> Result<(), Error> {
        let want = match self.rx.step().map_err(misbehaved)? {
            DataStep::Payload { left, .. } => left.min(WAKE_AT),
            _ => 1,
        };
        if want != self.wakes_at {
            sock::wake_at(fd, want);
            self.wakes_at = want;
        }
        Ok(())
    }

    fn open(&mut self, conn: &Connection, pace: Pace) -> Result<Did, Error> {
        if matches!(pace, Pace::Visit) && self.rx.body().len() > SMALL_BODY {
            return Ok(Did::Pause(Pause::Heavy));
        }
        if let Some(xfer) = self.waiting.take() {
            conn.opened(xfer, self.rx.body())?;
        }
        Ok(Did::Moved(0))
    }

    /// Receives payload; `None` if none is there. 0 bytes: the chunk is dropped from here on.
    fn payload(&mut self, conn: &Connection, fd: BorrowedFd<'_>) -> Result<Option<usize>, Error> {
        self.target.refill(&mut self.pieces);
        let (head, bytes) = self.pieces.head();
        self.vector.clear();
        self.vector.extend_from_slice(head);
        let touched = head.len();
        if let DataStep::Payload { left, tail } = self.rx.step().map_err(misbehaved)?
            && u64::from(left) == bytes
        {
            self.vector.push(Iov::of_mut(tail));
        }
        let vector = &self.vector;
        let mut result = Ok(0);
        // SAFETY: INV-1 and INV-5, the tail lives in `self.rx`; the pieces were checked against
        // their regions and are only touched inside the request's gate, pinned.
        let receive = || result = unsafe { iov::receive(fd, vector) };
        if !self
            .target
            .inside(conn, &self.pieces, touched, &mut self.pins, receive)
        {
            self.rx.discard();
            return Ok(Some(0));
        }
        match result {
            Ok(0) => Err(closed("end of stream")),
            Ok(n) => {
                self.placed((n as u64).min(bytes));
                Ok(Some(n))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(Some(0)),
            Err(e) => Err(closed(e)),
        }
    }

    fn placed(&mut self, n: u64) {
        self.pieces.advance(n);
        if let Target::Mine(active) = &self.target {
            active.count(n);
        }
    }

    fn chunk(
        &mut self,
        conn: &Connection,
        chunk: Chunk,
        parked: &AtomicBool,
    ) -> Result<Did, Error> {
        self.pieces.clear();
        let mut receiver = conn.receiver(&chunk)?;
        if matches!(receiver, Receiver::Wait) {
            parked.store(true, SeqCst);
            // The request may have come between the two.
            receiver = conn.receiver(&chunk)?;
            if matches!(receiver, Receiver::Wait) {
                return Ok(Did::Pause(Pause::Idle));
            }
            parked.store(false, SeqCst);
        }
        self.target = match receiver {
            Receiver::Mine(active) => self.begin_mine(active, &chunk)?,
            Receiver::Theirs(inbound) => begin_theirs(inbound, &chunk)?,
            Receiver::Nobody | Receiver::Wait => Target::Nobody,
        };
        match self.target {
            Target::Nobody => self.rx.discard(),
            _ => self.rx.accept(),
        }
        Ok(Did::Moved(0))
    }

    fn begin_mine(&mut self, active: Active, chunk: &Chunk) -> Result<Target, Error> {
        let plan = active.outbound.plan();
        if plan.op() != Op::Read || chunk.index as usize >= plan.chunks() {
            return Err(misbehaved(ProtocolError::UnknownChunk));
        }
        for p in plan.chunk(chunk.index as usize) {
            self.pieces.push(Iov::memory(p.local, p.len), 0);
        }
        if self.pieces.bytes() != u64::from(chunk.len) {
            return Err(misbehaved(ProtocolError::UnknownChunk));
        }
        match active.inside(|book| book.begin(chunk.index)) {
            Some(begun) => begun.map_err(misbehaved)?,
            None => return Ok(Target::Nobody),
        }
        Ok(Target::Mine(active))
    }

    fn done(&mut self, conn: &Connection, chunk: &Chunk, accepted: bool, status: Status) {
        match std::mem::replace(&mut self.target, Target::Nobody) {
            Target::Nobody => {}
            // A READ that its owner aborted ends with the ack that follows.
            Target::Mine(active) => {
                let whole = accepted && status == Status::Ok;
                if whole && active.inside(|book| book.done()) == Some(true) {
                    conn.read_done(chunk.xfer, &active);
                }
            }
            Target::Theirs { inbound, .. } => {
                if accepted && status != Status::Ok {
                    inbound.end(conn, status);
                } else if accepted && inbound.book.done() {
                    inbound.end(conn, Status::Ok);
                }
                conn.recycle(inbound);
            }
        }
    }
}

fn begin_theirs(inbound: Arc<Inbound>, chunk: &Chunk) -> Result<Target, Error> {
    if inbound.is_over() {
        return Ok(Target::Nobody);
    }
    let unknown = || misbehaved(ProtocolError::UnknownChunk);
    let entry = *inbound.chunk(chunk.index).ok_or_else(unknown)?;
    if inbound.op != OpenOp::Write || entry.len != chunk.len {
        return Err(unknown());
    }
    inbound.book.begin(chunk.index).map_err(misbehaved)?;
    Ok(Target::Theirs {
        inbound,
        cursor: entry.start,
        left: entry.len,
    })
}

impl Target {
    /// Lays out the next pieces where all before are filled.
    fn refill(&mut self, pieces: &mut Pieces) {
        if let Self::Theirs {
            inbound,
            cursor,
            left,
        } = self
            && pieces.bytes() == 0
        {
            inbound.pieces(cursor, left, pieces);
        }
    }

    /// Runs `work` on the first `touched` pieces; false if the request is over or has to be.
    fn inside(
        &self,
        conn: &Connection,
        pieces: &Pieces,
        touched: usize,
        pins: &mut PinSet,
        work: impl FnOnce(),
    ) -> bool {
        match self {
            Self::Nobody => false,
            Self::Mine(active) => active.inside(|_| work()).is_some(),
            Self::Theirs { inbound, .. } => {
                match inbound.inside(conn, pieces.regions(touched), pins, work) {
                    Ok(()) => true,
                    Err(status) => {
                        inbound.end(conn, status);
                        false
                    }
                }
            }
        }
    }
}

fn closed(e: impl std::fmt::Display) -> Error {
    sock::gone("the peer closed the connection", e)
}

#[cfg(test)]
mod tests {
    use nixl_core::{HostMemory, HugePages, Region, RegionId, RegionKey};
    use nixl_tcp_proto::{ChunkKind, OpenOp, RegionRef, Run, Xfer, encode_open};

    use super::*;

    const LEN: u32 = 4096;
    const CHUNK: Chunk = Chunk {
        kind: ChunkKind::Write,
        xfer: Xfer { slot: 0, seq: 1 },
        index: 0,
        len: LEN,
    };

    fn region() -> Region {
        let memory = HostMemory::allocate(u64::from(LEN), HugePages::No).unwrap();
        Region::new(Box::new(memory), RegionId(1), RegionKey([1; 16]), true).unwrap()
    }

    /// Two chunks of `LEN` bytes, the second one at `second`; what a stream makes of the first.
    fn begin(inbound: &mut Arc<Inbound>, found: Result<Region, Status>, second: u64) -> Target {
        let run = |offset| Run::single(0, offset, u64::from(LEN));
        let (mut body, region) = (
            Vec::new(),
            RegionRef {
                key: [1; 16],
                addr: 0,
            },
        );
        encode_open(
            &mut body,
            OpenOp::Write,
            std::iter::once(region),
            [LEN; 2].into_iter(),
            [run(0), run(second)].into_iter(),
        )
        .unwrap();
        let fresh = Arc::get_mut(inbound).unwrap();
        let find = |_: &RegionRef, _| found.clone();
        let (_, verdict) = fresh.load(CHUNK.xfer, &mut body, find).unwrap();
        let refused = found.is_err() || second > 0;
        assert_eq!(verdict.is_err(), refused);
        begin_theirs(inbound.clone(), &CHUNK).unwrap()
    }

    #[test]
    fn nobody_takes_the_payload_of_a_refused_request() {
        let mut inbound = Arc::new(Inbound::default());
        let region = region();
        assert!(matches!(
            begin(&mut inbound, Ok(region.clone()), 0),
            Target::Theirs { .. }
        ));
        let withdrawn = begin(&mut inbound, Err(Status::NotRegistered), 0);
        assert!(matches!(withdrawn, Target::Nobody));
        assert_eq!(inbound.outcome(), Status::NotRegistered);
        let outside = begin(&mut inbound, Ok(region), u64::from(LEN));
        assert!(matches!(outside, Target::Nobody));
        assert_eq!(inbound.outcome(), Status::OutOfBounds);
        assert_eq!(inbound.chunks(), 0, "a list that was refused is kept");
    }
}
