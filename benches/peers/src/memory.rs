//! Memory that another process can reach.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{NonNull, null_mut};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// A mapping, readable and writable, of ordinary pages.
pub(crate) struct Memory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: INV-6: base and length never change; threads reach the bytes only through pointers,
// and those who use these divide the bytes among the threads.
unsafe impl Send for Memory {}
// SAFETY: INV-6: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Memory of this process only.
    pub(crate) fn private(len: usize) -> io::Result<Memory> {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: INV-5: a new mapping of `len` bytes where the kernel finds room.
        let base = unsafe { mmap_anonymous(null_mut(), len, prot, flags) }?;
        Memory::at(base, len)
    }

    /// A new memfd and its mapping.
    pub(crate) fn shared(len: usize) -> io::Result<(Memory, OwnedFd)> {
        let fd = memfd_create("limit", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, len as u64)?;
        Ok((Memory::map(&fd, len)?, fd))
    }

    /// Maps a memfd of at least `len` bytes, perhaps another process's.
    pub(crate) fn map(fd: impl AsFd, len: usize) -> io::Result<Memory> {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: INV-5: a new mapping of `len` bytes where the kernel finds room.
        let base = unsafe { mmap(null_mut(), len, prot, flags, fd, 0) }?;
        Memory::at(base, len)
    }

    fn at(base: *mut c_void, len: usize) -> io::Result<Memory> {
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Memory { base, len })
    }

    /// Address of the first byte, as the other process names it.
    pub(crate) fn address(&self) -> usize {
        self.base.as_ptr().addr()
    }

    /// Pointer to `len` bytes at `offset`.
    ///
    /// # Panics
    ///
    /// If they are not inside the mapping.
    pub(crate) fn pointer(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset <= self.len && len <= self.len - offset);
        self.base.as_ptr().wrapping_add(offset)
    }

    /// The bytes, to fill or check before and after the measured passes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: INV-2: the whole mapping; the other process touches it only during passes,
        // and nobody calls this then.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: INV-4: mapped in the constructor with this length; passes borrow the value.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}
