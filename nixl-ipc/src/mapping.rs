//! A peer's region mapped here.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nixl_core::{Result, mem::Region};
use rustix::{
    fs::{FileType, Mode, OFlags, SealFlags, fcntl_get_seals, fstat, open},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

use crate::fault::{self, misbehaved};

/// The descriptor to hand to a peer that maps a region.
pub(crate) enum Share {
    /// The region's own memfd.
    Whole(Region),
    /// A read-only descriptor of the same memory.
    ReadOnly(OwnedFd),
}

impl Share {
    /// What peers may have of `region`; `None` where it has no memfd.
    pub(crate) fn of(region: &Region) -> Result<Option<Self>> {
        let Some(fd) = region.share() else {
            return Ok(None);
        };
        if region.is_writable() {
            return Ok(Some(Self::Whole(region.clone())));
        }
        let again = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let fd = open(again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| fault::os("reopening a region's memory read-only", e))?;
        Ok(Some(Self::ReadOnly(fd)))
    }

    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Whole(region) => region.share(),
            Self::ReadOnly(fd) => Some(std::os::fd::AsFd::as_fd(fd)),
        }
    }
}

/// Peer memory mapped here; unmapped when the last `Arc` around it goes (INV-4).
#[derive(Debug)]
pub(crate) struct Mapping {
    base: usize,
    mapped: usize,
}

impl Mapping {
    /// Maps bytes `0..end` of `fd`.
    ///
    /// Errors: `PeerMisbehaved` for anything but a memfd that holds `end` bytes for good (sealed
    /// against shrinking: touching it can never raise SIGBUS), `Exhausted` where no mapping is
    /// left.
    pub(crate) fn new(fd: &OwnedFd, end: u64, writable: bool) -> Result<Self> {
        let stat = fstat(fd).map_err(|e| fault::os("fstat of the peer's memory", e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(misbehaved("the peer passed something that is no memory"));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if end == 0 || end > size {
            return Err(misbehaved(format!(
                "the peer passed {size} bytes of memory for a region that ends at {end}"
            )));
        }
        let sealed = fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
        if !sealed {
            return Err(misbehaved(
                "the peer passed memory that is not sealed against shrinking",
            ));
        }
        // Whole pages: huge ones are unmapped only whole. `st_blksize` is the page size there.
        let page = u64::try_from(stat.st_blksize).unwrap_or(4096).max(4096);
        let mapped = end.checked_next_multiple_of(page).unwrap_or(end).min(size) as usize;
        let prot = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        // SAFETY: INV-5, a fresh mapping at an address the kernel chooses.
        let base = unsafe { mmap(std::ptr::null_mut(), mapped, prot, MapFlags::SHARED, fd, 0) }
            .map_err(|e| fault::os(format_args!("mapping {mapped} bytes of the peer"), e))?;
        Ok(Self {
            base: base.expose_provenance(),
            mapped,
        })
    }

    /// Address of the first byte here.
    pub(crate) fn base(&self) -> u64 {
        self.base as u64
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let base = std::ptr::with_exposed_provenance_mut(self.base);
        // SAFETY: INV-4, every transfer that uses the mapping holds it, so none does any more.
        let _ = unsafe { munmap(base, self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use nixl_core::{
        ErrorKind, HostMemory, HugePages, MemoryOwner, RegionId, RegionKey, mem::OwnedBuffer,
    };
    use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};

    use super::*;

    fn region(writable: bool) -> Region {
        let memory = HostMemory::allocate(10_000, HugePages::No).unwrap();
        let region =
            Region::new(Box::new(memory), RegionId(1), RegionKey([0; 16]), writable).unwrap();
        region.write_at(0, &[7; 10_000]).unwrap();
        region
    }

    fn handed_over(region: &Region) -> OwnedFd {
        let share = Share::of(region).unwrap().unwrap();
        share.fd().unwrap().try_clone_to_owned().unwrap()
    }

    #[test]
    fn a_mapping_shows_the_peers_bytes_and_takes_ours() {
        let region = region(true);
        let mapping = Mapping::new(&handed_over(&region), 10_000, true).unwrap();
        let at = std::ptr::with_exposed_provenance_mut::<u8>(mapping.base() as usize + 9_999);
        // SAFETY: INV-2, inside the mapping.
        assert_eq!(unsafe { at.read_volatile() }, 7);
        // SAFETY: INV-2, inside the mapping.
        unsafe { at.write_volatile(9) };
        let mut byte = [0];
        region.read_at(9_999, &mut byte).unwrap();
        assert_eq!(byte, [9]);
    }

    #[test]
    fn read_only_regions_cannot_be_mapped_for_writing() {
        let fd = handed_over(&region(false));
        assert!(Mapping::new(&fd, 10_000, true).is_err());
        Mapping::new(&fd, 10_000, false).unwrap();
    }

    #[test]
    fn memory_that_could_raise_sigbus_is_refused() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = memfd_create("test", flags).unwrap();
        ftruncate(&fd, 8192).unwrap();
        let refused = |end| Mapping::new(&fd, end, false).unwrap_err().kind();
        assert_eq!(refused(8192), ErrorKind::PeerMisbehaved, "not sealed");
        fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
        assert_eq!(refused(8193), ErrorKind::PeerMisbehaved, "too short");
        assert_eq!(refused(0), ErrorKind::PeerMisbehaved);
        Mapping::new(&fd, 8192, false).unwrap();
        let pipe = rustix::pipe::pipe().unwrap().0;
        let e = Mapping::new(&pipe, 1, false).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PeerMisbehaved);
    }

    #[test]
    fn private_memory_is_not_shared() {
        let buffer = OwnedBuffer::new(vec![0; 100].into_boxed_slice());
        assert!(buffer.share().is_none());
        let region = Region::new(Box::new(buffer), RegionId(1), RegionKey([0; 16]), true).unwrap();
        assert!(Share::of(&region).unwrap().is_none());
    }
}
