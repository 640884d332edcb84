//! Host memory that the agent allocates: one sealed memfd per allocation, so peers can map it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

use super::region::{MemoryOwner, Span};
use crate::{Error, ErrorKind, MemKind, Result, error::fail};

/// Size of the huge pages asked for.
const HUGE: u64 = 2 << 20;
const PAGE: u64 = 4096;

/// Which pages to allocate from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HugePages {
    /// 4 KiB pages.
    #[default]
    No,
    /// 2 MiB pages when the pool has them, else 4 KiB pages.
    Try,
}

/// Zeroed memory backed by a memfd sealed `SHRINK|GROW|SEAL` (memfd_create(2), fcntl(2)).
#[derive(Debug)]
pub struct HostMemory {
    addr: usize,
    len: u64,
    mapped: usize,
    huge: bool,
    fd: OwnedFd,
}

impl HostMemory {
    /// Allocates `len` bytes, page-aligned.
    pub fn allocate(len: u64, pages: HugePages) -> Result<Self> {
        if len == 0 || len > isize::MAX as u64 - HUGE {
            return Err(fail(
                ErrorKind::ApiMisuse,
                format!("cannot allocate {len} bytes"),
            ));
        }
        if pages == HugePages::Try
            && let Ok(memory) = Self::map(len, true)
        {
            return Ok(memory);
        }
        Self::map(len, false)
    }

    fn map(len: u64, huge: bool) -> Result<Self> {
        let size = len.next_multiple_of(if huge { HUGE } else { PAGE });
        let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        if huge {
            flags |= MemfdFlags::HUGETLB;
        }
        let what = |call| move |e| Error::os(format_args!("{call} for {len} bytes of memory"), e);
        let fd = memfd_create("nixl", flags).map_err(what("memfd_create"))?;
        ftruncate(&fd, size).map_err(what("ftruncate"))?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(what("sealing"))?;
        // SAFETY: INV-5, a fresh mapping at an address the kernel chooses.
        let ptr = unsafe {
            mmap(
                std::ptr::null_mut(),
                size as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &fd,
                0,
            )
        }
        .map_err(what("mmap"))?;
        Ok(Self {
            addr: ptr as usize,
            len,
            mapped: size as usize,
            huge,
            fd,
        })
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: INV-1, the last owner of the mapping is going; no operation names it any more.
        let _ = unsafe { munmap(self.addr as *mut _, self.mapped) };
    }
}

// SAFETY: INV-2, the mapping is constant and lives until drop.
unsafe impl MemoryOwner for HostMemory {
    fn span(&self) -> Span {
        Span {
            addr: self.addr as u64,
            len: self.len,
            kind: MemKind::Dram,
            dev: 0,
        }
    }

    fn share(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn page_size(&self) -> Option<u64> {
        Some(if self.huge { HUGE } else { PAGE })
    }
}

// SAFETY: INV-2, the heap block of a `Box<[u8]>` never moves and lives until drop; the box is
// only reachable through the region from here on.
unsafe impl MemoryOwner for OwnedBuffer {
    fn span(&self) -> Span {
        Span {
            addr: self.ptr as u64,
            len: self.len as u64,
            kind: MemKind::Dram,
            dev: 0,
        }
    }
}

/// A buffer that the caller handed over. Kept as a raw block: peers write to it behind any
/// reference.
pub struct OwnedBuffer {
    ptr: usize,
    len: usize,
}

impl OwnedBuffer {
    /// Takes the buffer over. An empty one is refused when it is registered.
    pub fn new(buffer: Box<[u8]>) -> Self {
        let len = buffer.len();
        Self {
            ptr: Box::into_raw(buffer).cast::<u8>().expose_provenance(),
            len,
        }
    }
}

impl Drop for OwnedBuffer {
    fn drop(&mut self) {
        let ptr = std::ptr::with_exposed_provenance_mut::<u8>(self.ptr);
        let block = std::ptr::slice_from_raw_parts_mut(ptr, self.len);
        // SAFETY: INV-1, from `Box::into_raw` in `new`, freed once, by the last owner.
        drop(unsafe { Box::from_raw(block) });
    }
}

/// Memory that somebody else owns; registering it is `unsafe`.
pub(crate) struct RawMemory(pub(crate) Span);

// SAFETY: INV-2, the caller of `Agent::register_raw` promised it.
unsafe impl MemoryOwner for RawMemory {
    fn span(&self) -> Span {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::fcntl_get_seals;

    use super::*;

    #[test]
    fn allocation_is_sealed_zeroed_and_page_aligned() {
        let m = HostMemory::allocate(10_000, HugePages::No).unwrap();
        assert_eq!(m.span().len, 10_000);
        assert_eq!(m.span().addr % PAGE, 0);
        let seals = fcntl_get_seals(&m.fd).unwrap();
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
        assert!(ftruncate(&m.fd, 1).is_err(), "a sealed memfd shrank");
    }

    #[test]
    fn huge_pages_fall_back_to_small_ones() {
        let m = HostMemory::allocate(1, HugePages::Try).unwrap();
        assert_eq!(m.span().len, 1);
        let page = m.page_size().unwrap();
        assert_eq!(m.span().addr % page, 0);
        assert!([PAGE, HUGE].contains(&page));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for len in [0, u64::MAX, 1 << 62] {
            assert!(HostMemory::allocate(len, HugePages::No).is_err(), "{len}");
        }
    }
}
