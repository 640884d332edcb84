//! Copies by the process that measures: from mapping to mapping, or into another process.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{iovec, pid_t};

use crate::crew::Worker;
use crate::job::Op;
use crate::layout::Piece;
use crate::memory::Memory;

/// Most blocks that one system call takes.
const BATCH: usize = 1024;

/// How the bytes of the other process are reached.
pub(crate) enum Remote {
    /// Its memfd, mapped here.
    Mapped(Memory),
    /// Its pid and the address of its region.
    Process(pid_t, usize),
}

/// The shares of a pass: threads take batches of pieces until there is none left.
pub(crate) struct Share {
    pieces: Vec<Piece>,
    batch: usize,
    taken: AtomicUsize,
}

impl Share {
    /// Batches of up to 1024 pieces, at least eight for each of several threads.
    pub(crate) fn new(pieces: Vec<Piece>, threads: usize) -> Share {
        let batch = match threads {
            1 => BATCH,
            _ => pieces.len().div_ceil(8 * threads).min(BATCH),
        };
        Share {
            pieces,
            batch,
            taken: AtomicUsize::new(0),
        }
    }

    /// Starts the next pass.
    pub(crate) fn restart(&self) {
        self.taken.store(0, Ordering::Relaxed);
    }

    fn take(&self) -> Option<&[Piece]> {
        let start = self.taken.fetch_add(self.batch, Ordering::Relaxed);
        let end = self.pieces.len().min(start + self.batch);
        self.pieces.get(start..end).filter(|part| !part.is_empty())
    }
}

/// A thread that copies.
pub(crate) struct Copier<'a> {
    pub(crate) op: Op,
    pub(crate) local: &'a Memory,
    pub(crate) remote: &'a Remote,
    pub(crate) share: &'a Share,
}

impl Worker for Copier<'_> {
    fn pass(&mut self) -> io::Result<()> {
        while let Some(pieces) = self.share.take() {
            match self.remote {
                Remote::Mapped(remote) => self.copy(remote, pieces),
                Remote::Process(pid, base) => self.call(*pid, *base, pieces)?,
            }
        }
        Ok(())
    }
}

impl Copier<'_> {
    fn copy(&self, remote: &Memory, pieces: &[Piece]) {
        for piece in pieces {
            let local = self.local.pointer(piece.local, piece.len);
            let remote = remote.pointer(piece.remote, piece.len);
            let (from, to) = match self.op {
                Op::Read => (remote, local),
                Op::Write => (local, remote),
            };
            // SAFETY: INV-2: `pointer` checked both ranges; the two mappings are apart, and
            // no other thread has this piece.
            unsafe { from.copy_to_nonoverlapping(to, piece.len) };
        }
    }

    fn call(&self, pid: pid_t, base: usize, pieces: &[Piece]) -> io::Result<()> {
        let mut local = Vec::with_capacity(BATCH);
        let mut remote = Vec::with_capacity(BATCH);
        for piece in pieces {
            local.push(iovec {
                iov_base: self.local.pointer(piece.local, piece.len).cast(),
                iov_len: piece.len,
            });
            remote.push(iovec {
                iov_base: std::ptr::without_provenance_mut(base + piece.remote),
                iov_len: piece.len,
            });
        }
        let count = pieces.len() as libc::c_ulong;
        let (l, r) = (local.as_ptr(), remote.as_ptr());
        let moved = match self.op {
            // SAFETY: INV-5: both arrays hold `count` entries and outlive the call; the local
            // ones name bytes of our mapping that no other thread has.
            Op::Read => unsafe { libc::process_vm_readv(pid, l, count, r, count, 0) },
            // SAFETY: INV-5: as above.
            Op::Write => unsafe { libc::process_vm_writev(pid, l, count, r, count, 0) },
        };
        let asked: usize = pieces.iter().map(|piece| piece.len).sum();
        match usize::try_from(moved) {
            Ok(moved) if moved == asked => Ok(()),
            Ok(moved) => Err(io::Error::other(format!("moved {moved} bytes of {asked}"))),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }
}
