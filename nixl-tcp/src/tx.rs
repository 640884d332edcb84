//! Sending half of a data stream.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use nixl_core::Error;
use nixl_tcp_proto::{Chunk, ChunkKind, Cursor, DataTx, Status, TxPart};
use parking_lot::Mutex;

use crate::{
    conn::{Connection, Job},
    inbound::{Inbound, PinSet},
    iov::{self, Iov, Pieces, ZEROS},
    sock,
    stream::{Direction, Pace, Pause},
    transfer::Active,
};

pub(crate) struct TxState {
    sending: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    tx: DataTx,
    source: Source,
    pieces: Pieces,
    pins: PinSet,
    /// The vector of one call.
    vector: Vec<Iov>,
}

/// Whose bytes the message in progress takes.
enum Source {
    None,
    Mine(Active),
    Theirs {
        inbound: Arc<Inbound>,
        cursor: Cursor,
        /// Bytes of the chunk that are not in `pieces` yet.
        left: u32,
        aborted: bool,
    },
}

/// One vector: what stands before the payload, and the payload itself.
struct Batch {
    before: usize,
    payload: u64,
    pieces: usize,
}

impl Batch {
    /// Payload among the first `n` bytes.
    fn payload_in(&self, n: usize) -> u64 {
        (n.saturating_sub(self.before) as u64).min(self.payload)
    }
}

impl TxState {
    pub(crate) fn new() -> Self {
        Self {
            sending: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                tx: DataTx::new(),
                source: Source::None,
                pieces: Pieces::default(),
                pins: PinSet::default(),
                vector: Vec::new(),
            }),
        }
    }

    pub(crate) fn is_sending(&self) -> bool {
        self.sending.load(SeqCst)
    }
}

impl Direction for TxState {
    fn advance(&self, conn: &Connection, fd: BorrowedFd<'_>, pace: Pace) -> Result<Pause, Error> {
        let mut inner = self.inner.lock();
        let mut moved = 0;
        loop {
            if inner.tx.is_idle() {
                inner.finish(conn);
                // Whoever queues work looks at this flag after that: either they see it, or this
                // finds their work.
                self.sending.store(false, SeqCst);
                match conn.next_job() {
                    None => return Ok(Pause::Idle),
                    Some(job) => inner.begin(job),
                }
                self.sending.store(true, SeqCst);
            }
            if pace.is_too_heavy(inner.tx.left()) {
                return Ok(Pause::Heavy);
            }
            match inner.send(conn, fd) {
                Ok(0) => return Ok(Pause::Idle),
                Ok(n) => moved += n as u64,
                Err(e) => return Err(sock::gone("sending to the peer failed", e)),
            }
            if let Some(pause) = pace.is_over(moved) {
                return Ok(pause);
            }
        }
    }
}

impl Inner {
    fn begin(&mut self, job: Job) {
        self.pieces.clear();
        match job {
            Job::Open(xfer, active, first) => {
                self.tx.open(xfer, active.outbound.body().len() as u32);
                if let Some(index) = first {
                    self.begin_write(xfer, &active, index);
                }
                self.source = Source::Mine(active);
            }
            Job::Write(xfer, active, index) => {
                self.begin_write(xfer, &active, index);
                self.source = Source::Mine(active);
            }
            Job::Read(inbound, index) => {
                let Some(entry) = inbound.chunk(index).copied() else {
                    return;
                };
                self.tx.chunk(Chunk {
                    kind: ChunkKind::Read,
                    xfer: inbound.xfer,
                    index,
                    len: entry.len,
                });
                self.source = Source::Theirs {
                    inbound,
                    cursor: entry.start,
                    left: entry.len,
                    aborted: false,
                };
            }
        }
    }

    fn begin_write(&mut self, xfer: nixl_tcp_proto::Xfer, active: &Active, index: u32) {
        for p in active.outbound.plan().chunk(index as usize) {
            self.pieces.push(Iov::memory(p.local, p.len), 0);
        }
        self.tx.chunk(Chunk {
            kind: ChunkKind::Write,
            xfer,
            index,
            len: self.pieces.bytes() as u32,
        });
    }

    /// The message is out: the request it belongs to may be over.
    fn finish(&mut self, conn: &Connection) {
        let source = std::mem::replace(&mut self.source, Source::None);
        if let Source::Theirs {
            inbound, aborted, ..
        } = source
        {
            if !aborted && inbound.book.done() {
                inbound.end(conn, Status::Ok);
            }
            conn.recycle(inbound);
        }
    }

    /// Sends once; 0 if the socket takes nothing now.
    fn send(&mut self, conn: &Connection, fd: BorrowedFd<'_>) -> io::Result<usize> {
        loop {
            if let Source::Theirs {
                inbound,
                cursor,
                left,
                ..
            } = &mut self.source
                && self.pieces.bytes() == 0
                && *left > 0
            {
                inbound.pieces(cursor, left, &mut self.pieces);
            }
            let batch = self.collect();
            let sent = match self.call(conn, fd, &batch) {
                Some(sent) => sent,
                None => {
                    self.abort(conn);
                    continue;
                }
            };
            return match sent {
                Ok(n) => {
                    self.took(n, &batch);
                    Ok(n)
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => Err(e),
            };
        }
    }

    /// One system call; `None` if the payload may not be read any more.
    fn call(
        &mut self,
        conn: &Connection,
        fd: BorrowedFd<'_>,
        batch: &Batch,
    ) -> Option<io::Result<usize>> {
        let vector = &self.vector;
        // SAFETY: INV-1 and INV-5, headers and bodies live in `self` and the request; payload is
        // only in the vector inside the request's gate, with its regions pinned.
        let send = || unsafe { iov::send(fd, vector) };
        if batch.payload == 0 {
            return Some(send());
        }
        match &self.source {
            Source::None => None,
            // Counted before the gate is left: the peer may report the end at any moment.
            Source::Mine(active) => {
                active.inside(|_| send().inspect(|n| active.count(batch.payload_in(*n))))
            }
            Source::Theirs { inbound, .. } => {
                let regions = self.pieces.regions(batch.pieces);
                inbound.inside(conn, regions, &mut self.pins, send).ok()
            }
        }
    }

    fn abort(&mut self, conn: &Connection) {
        self.pieces.clear();
        let status = match &mut self.source {
            Source::Theirs {
                inbound,
                left,
                aborted,
                ..
            } => {
                (*left, *aborted) = (0, true);
                // Over already, or else a region was withdrawn.
                inbound.end(conn, Status::NotRegistered);
                inbound.outcome()
            }
            _ => Status::Cancelled,
        };
        self.tx.abort(status);
    }

    fn took(&mut self, n: usize, batch: &Batch) {
        self.tx.advance(n);
        self.pieces.advance(batch.payload_in(n));
    }

    /// Lays out the next call.
    fn collect(&mut self) -> Batch {
        self.vector.clear();
        let mut batch = Batch {
            before: 0,
            payload: 0,
            pieces: 0,
        };
        for part in self.tx.parts() {
            match part {
                TxPart::Bytes { start, end } => {
                    self.vector.push(Iov::of(self.tx.bytes(start, end)));
                    if batch.payload == 0 {
                        batch.before += usize::from(end - start);
                    }
                }
                TxPart::Body { offset } => {
                    let Source::Mine(active) = &self.source else {
                        break;
                    };
                    let body = &active.outbound.body()[offset as usize..];
                    self.vector.push(Iov::of(body));
                    batch.before += body.len();
                }
                TxPart::Payload { offset } => {
                    let (head, bytes) = self.pieces.head();
                    self.vector.extend_from_slice(head);
                    (batch.payload, batch.pieces) = (bytes, head.len());
                    if bytes < u64::from(self.tx.payload_len() - offset) {
                        break;
                    }
                }
                TxPart::Filler { mut left } => {
                    while left > 0 {
                        let n = left.min(ZEROS.len() as u32);
                        self.vector.push(Iov::of(&ZEROS[..n as usize]));
                        left -= n;
                    }
                }
            }
        }
        batch
    }
}
