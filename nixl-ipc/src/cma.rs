//! Cross-memory attach: process_vm_readv(2) and process_vm_writev(2), many blocks a call.

use std::cell::RefCell;

use nixl_core::{Op, Result, plan::CHUNK_BLOCKS};
use rustix::{io::Errno, process::Pid};

use crate::{process::explain, sock::last_errno};

/// The scatter lists of one call. Blocks that adjoin on one side are merged on that side.
pub(crate) struct Batch {
    local: Vec<libc::iovec>,
    remote: Vec<libc::iovec>,
}

thread_local! {
    static BATCH: RefCell<Batch> = RefCell::new(Batch {
        local: Vec::with_capacity(CHUNK_BLOCKS),
        remote: Vec::with_capacity(CHUNK_BLOCKS),
    });
}

impl Batch {
    /// Lends this thread's batch, empty.
    pub(crate) fn with<T>(work: impl FnOnce(&mut Self) -> T) -> T {
        BATCH.with_borrow_mut(|batch| {
            batch.local.clear();
            batch.remote.clear();
            work(batch)
        })
    }

    /// Adds one block; at most [`CHUNK_BLOCKS`] before a run.
    pub(crate) fn push(&mut self, local: u64, remote: u64, len: u64) {
        append(&mut self.local, local, len);
        append(&mut self.remote, remote, len);
    }

    /// Moves every byte, going on after partial transfers.
    ///
    /// Errors: as [`explain`] says; bytes before the failing block may have moved.
    pub(crate) fn run(&mut self, pid: Pid, op: Op) -> Result<()> {
        let (mut l, mut r) = (0, 0);
        while r < self.remote.len() {
            let at = self.remote[r].iov_base as u64;
            let moved = call(pid, op, &self.local[l..], &self.remote[r..])
                .map_err(|e| explain(e, pid, at))?;
            if moved == 0 {
                return Err(explain(Errno::FAULT, pid, at));
            }
            l = advance(&mut self.local, l, moved);
            r = advance(&mut self.remote, r, moved);
        }
        Ok(())
    }
}

fn append(list: &mut Vec<libc::iovec>, addr: u64, len: u64) {
    if let Some(last) = list.last_mut()
        && last.iov_base as u64 + last.iov_len as u64 == addr
    {
        last.iov_len += len as usize;
        return;
    }
    list.push(libc::iovec {
        iov_base: std::ptr::with_exposed_provenance_mut(addr as usize),
        iov_len: len as usize,
    });
}

/// Takes `moved` bytes off the list from entry `at` on; returns the first entry left.
fn advance(list: &mut [libc::iovec], mut at: usize, mut moved: usize) -> usize {
    while let Some(entry) = list.get_mut(at) {
        if moved < entry.iov_len {
            entry.iov_base = entry.iov_base.wrapping_byte_add(moved);
            entry.iov_len -= moved;
            break;
        }
        moved -= entry.iov_len;
        at += 1;
    }
    at
}

fn call(pid: Pid, op: Op, local: &[libc::iovec], remote: &[libc::iovec]) -> Result<usize, Errno> {
    let transfer = match op {
        Op::Read => libc::process_vm_readv,
        Op::Write => libc::process_vm_writev,
    };
    loop {
        // SAFETY: INV-2, the local entries lie in memory that the caller's token or frame holds;
        // the kernel checks the remote ones against the peer's address space. INV-5, both lists
        // live across the call and are as long as told.
        let moved = unsafe {
            transfer(
                pid.as_raw_nonzero().get(),
                local.as_ptr(),
                local.len() as libc::c_ulong,
                remote.as_ptr(),
                remote.len() as libc::c_ulong,
                0,
            )
        };
        match usize::try_from(moved) {
            Ok(moved) => return Ok(moved),
            Err(_) => match last_errno() {
                Errno::INTR => {}
                e => return Err(e),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use nixl_core::ErrorKind;
    use rustix::{
        mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap},
        process::getpid,
    };

    use super::*;

    const PAGE: usize = 4096;

    fn read(pieces: &[(u64, u64, u64)]) -> Result<()> {
        Batch::with(|batch| {
            for (local, remote, len) in pieces {
                batch.push(*local, *remote, *len);
            }
            batch.run(getpid(), Op::Read)
        })
    }

    #[test]
    fn neighbours_merge_on_each_side_alone() {
        Batch::with(|batch| {
            batch.push(0x1000, 0x9000, 16);
            batch.push(0x1010, 0x8000, 16);
            batch.push(0x2000, 0x8010, 16);
            assert_eq!((batch.local.len(), batch.remote.len()), (2, 2));
            assert_eq!(batch.local[0].iov_len, 32);
            assert_eq!(batch.remote[1].iov_len, 32);
        });
    }

    #[test]
    fn scattered_blocks_arrive_in_place() {
        let from: Vec<u8> = (0..64 * 100).map(|i| (i * 7 % 251) as u8).collect();
        let mut to = vec![0u8; from.len()];
        let (f, t) = (from.as_ptr() as u64, to.as_mut_ptr() as u64);
        // Block i comes from block 63 - i.
        let pieces: Vec<_> = (0..64)
            .map(|i| (t + i * 100, f + (63 - i) * 100, 100))
            .collect();
        read(&pieces).unwrap();
        for i in 0..64 {
            assert_eq!(to[i * 100..][..100], from[(63 - i) * 100..][..100]);
        }
    }

    /// The kernel stops at a hole and reports what it moved: the rest ends in an error that names
    /// the hole, and what lies before it has arrived.
    #[test]
    fn a_hole_midway_is_an_error_that_names_it() {
        let rw = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: INV-5, a fresh mapping at an address the kernel chooses.
        let map = unsafe {
            mmap_anonymous(std::ptr::null_mut(), 3 * PAGE, rw, MapFlags::PRIVATE).unwrap()
        };
        // SAFETY: INV-2, inside the mapping above.
        unsafe { map.cast::<u8>().write_bytes(0x5a, 3 * PAGE) };
        let hole = map.wrapping_byte_add(PAGE);
        // SAFETY: INV-2, inside the mapping above.
        unsafe { mprotect(hole, PAGE, MprotectFlags::empty()).unwrap() };
        let base = map as u64;
        let mut to = vec![0u8; 3 * PAGE];
        let t = to.as_mut_ptr() as u64;
        let e = read(&[
            (t, base, PAGE as u64),
            (t + PAGE as u64, base + PAGE as u64, 64),
            (t + 2 * PAGE as u64, base + 2 * PAGE as u64, 64),
        ])
        .unwrap_err();
        // SAFETY: INV-2, the mapping above, used no more.
        unsafe { munmap(map, 3 * PAGE).unwrap() };
        assert_eq!(e.kind(), ErrorKind::Backend);
        assert!(e.message().contains(&format!("{:#x}", hole as u64)), "{e}");
        assert!(to[..PAGE].iter().all(|b| *b == 0x5a));
        assert!(to[PAGE..].iter().all(|b| *b == 0));
    }

    #[test]
    fn partial_moves_go_on_where_they_stopped() {
        let entry = |addr: usize, len| libc::iovec {
            iov_base: std::ptr::without_provenance_mut(addr),
            iov_len: len,
        };
        let mut list = [entry(100, 10), entry(200, 10), entry(300, 10)];
        let at = advance(&mut list, 0, 10);
        assert_eq!(at, 1);
        let at = advance(&mut list, at, 3);
        assert_eq!(
            (at, list[1].iov_base as usize, list[1].iov_len),
            (1, 203, 7)
        );
        let at = advance(&mut list, at, 17);
        assert_eq!(at, 3);
    }

    #[test]
    fn a_missing_process_is_gone() {
        let mut byte = 0u8;
        let e = Batch::with(|batch| {
            batch.push(std::ptr::from_mut(&mut byte) as u64, 4096, 1);
            batch.run(Pid::from_raw(i32::MAX).unwrap(), Op::Read)
        })
        .unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PeerGone);
    }
}
