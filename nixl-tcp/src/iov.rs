//! Vectored system calls on registered memory: the one file of this crate that touches it.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Most pieces of payload in one system call; two more are left for what stands around it
/// (UIO_MAXIOV is 1024).
pub(crate) const MAX_PIECES: usize = 1016;

/// Zero bytes sent in place of payload that may not be read any more.
pub(crate) static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Address and length, laid out as `struct iovec` (readv(2)).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Iov {
    addr: usize,
    len: usize,
}

impl Iov {
    /// Registered memory; the caller has checked the bounds (INV-2).
    pub(crate) fn memory(addr: u64, len: u64) -> Self {
        Self {
            addr: addr as usize,
            len: len as usize,
        }
    }

    /// Bytes of ours to send.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self {
            addr: bytes.as_ptr().expose_provenance(),
            len: bytes.len(),
        }
    }

    /// Bytes of ours to receive into.
    pub(crate) fn of_mut(bytes: &mut [u8]) -> Self {
        Self {
            addr: bytes.as_mut_ptr().expose_provenance(),
            len: bytes.len(),
        }
    }
}

/// The next pieces of a chunk, taken off from the front as bytes move.
#[derive(Default)]
pub(crate) struct Pieces {
    iovs: Vec<Iov>,
    /// Region of each piece, for pinning; not used by initiators.
    regions: Vec<u32>,
    at: usize,
    bytes: u64,
}

impl Pieces {
    /// Forgets all pieces.
    pub(crate) fn clear(&mut self) {
        self.iovs.clear();
        self.regions.clear();
        (self.at, self.bytes) = (0, 0);
    }

    /// Adds a piece of `region`.
    pub(crate) fn push(&mut self, piece: Iov, region: u32) {
        self.bytes += piece.len as u64;
        self.iovs.push(piece);
        self.regions.push(region);
    }

    /// Bytes in the pieces.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of pieces in the list.
    pub(crate) fn len(&self) -> usize {
        self.iovs.len() - self.at
    }

    /// The first pieces, as many as one system call takes, and their bytes.
    pub(crate) fn head(&self) -> (&[Iov], u64) {
        let rest = &self.iovs[self.at..];
        if rest.len() <= MAX_PIECES {
            return (rest, self.bytes);
        }
        let head = &rest[..MAX_PIECES];
        (head, head.iter().map(|i| i.len as u64).sum())
    }

    /// The regions of the first `n` pieces.
    pub(crate) fn regions(&self, n: usize) -> &[u32] {
        &self.regions[self.at..self.at + n]
    }

    /// Takes `n` (≤ [`Pieces::bytes`]) bytes off the front.
    pub(crate) fn advance(&mut self, mut n: u64) {
        self.bytes = self.bytes.saturating_sub(n);
        while n > 0 && self.at < self.iovs.len() {
            let front = &mut self.iovs[self.at];
            let take = (front.len as u64).min(n);
            front.addr += take as usize;
            front.len -= take as usize;
            n -= take;
            if front.len == 0 {
                self.at += 1;
            }
        }
    }

    /// Copies `bytes` to the first pieces.
    ///
    /// # Safety
    /// The pieces lie in registered memory that stays so during the call (INV-1, INV-2), and
    /// `bytes` is no part of it.
    pub(crate) unsafe fn fill(&self, mut bytes: &[u8]) {
        for iov in &self.iovs[self.at..] {
            let n = iov.len.min(bytes.len());
            let to = std::ptr::with_exposed_provenance_mut::<u8>(iov.addr);
            // SAFETY: INV-2, `n` bytes of a piece that the caller vouches for.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, n) };
            bytes = &bytes[n..];
            if bytes.is_empty() {
                return;
            }
        }
    }
}

fn message(iovs: &[Iov]) -> libc::msghdr {
    // SAFETY: INV-5, all zeros is a valid `msghdr`: no address, no vector, no control data.
    let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
    m.msg_iov = iovs.as_ptr().cast::<libc::iovec>().cast_mut();
    m.msg_iovlen = iovs.len();
    m
}

/// sendmsg(2) without blocking or SIGPIPE.
///
/// # Safety
/// Every piece is readable during the call (INV-1, INV-5).
pub(crate) unsafe fn send(fd: BorrowedFd<'_>, iovs: &[Iov]) -> io::Result<usize> {
    let m = message(iovs);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: INV-5, `m` and the vector that it names live across the call; the caller vouches
    // for the pieces.
    result(unsafe { libc::sendmsg(fd.as_raw_fd(), &m, flags) })
}

/// recvmsg(2) without blocking.
///
/// # Safety
/// Every piece is writable during the call (INV-1, INV-5).
pub(crate) unsafe fn receive(fd: BorrowedFd<'_>, iovs: &[Iov]) -> io::Result<usize> {
    let mut m = message(iovs);
    // SAFETY: INV-5, as in `send`.
    result(unsafe { libc::recvmsg(fd.as_raw_fd(), &mut m, libc::MSG_DONTWAIT) })
}

fn result(n: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_taken_off_in_order() {
        let mut memory = [0u8; 30];
        let base = memory.as_mut_ptr().expose_provenance() as u64;
        let mut p = Pieces::default();
        p.push(Iov::memory(base + 20, 5), 0);
        p.push(Iov::memory(base, 10), 1);
        // SAFETY: INV-2, both pieces lie in `memory`.
        unsafe { p.fill(&[1; 7]) };
        p.advance(7);
        assert_eq!((p.bytes(), p.len(), p.regions(1)), (8, 1, &[1u32][..]));
        // SAFETY: INV-2, both pieces lie in `memory`.
        unsafe { p.fill(&[2; 8]) };
        p.advance(8);
        assert_eq!((p.bytes(), p.len()), (0, 0));
        let mut want = [0u8; 30];
        want[20..25].fill(1);
        want[..2].fill(1);
        want[2..10].fill(2);
        assert_eq!(memory, want);
    }
}
