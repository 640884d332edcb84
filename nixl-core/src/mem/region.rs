//! A region owns its registrations and its memory, dropped in that order.

use std::{
    fmt,
    os::fd::BorrowedFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    BackendName, ErrorKind, MemKind, RegionCard, RegionId, RegionKey, Result, error::fail,
    plan::Extras,
};

/// A stretch of memory: address, length in bytes, kind and device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Virtual address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u64,
    /// Kind of memory.
    pub kind: MemKind,
    /// Device number, 0 for host memory.
    pub dev: u64,
}

/// Memory that stays where it is for as long as the value lives.
///
/// # Safety
///
/// `span()` is constant, non-empty, does not wrap, and names memory that stays allocated,
/// readable and (for writable regions) writable until `self` is dropped. Nobody keeps a Rust
/// reference into it while peers may write.
pub unsafe trait MemoryOwner: Send + Sync + 'static {
    /// The memory.
    fn span(&self) -> Span;

    /// A sealed memfd whose offset 0 is the span's first byte, if peers may map it.
    fn share(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Bytes in a page, for memory that the agent allocated.
    fn page_size(&self) -> Option<u64> {
        None
    }
}

/// What a backend keeps for one region. Dropping it deregisters.
pub trait Registration: Send + Sync + 'static {
    /// Bytes that peers need (UCX: the packed rkey); empty where none.
    fn extra(&self) -> Bytes;

    /// Bytes that NIXL's agents need (UCX: the packed rkey); `None` where they cannot use it.
    fn nixl(&self) -> Option<Bytes> {
        None
    }
}

/// One registered region. Clones are cheap; each keeps the memory registered and allocated.
#[derive(Clone)]
pub struct Region(Arc<Inner>);

// Field order is drop order: deregister, then free.
struct Inner {
    registrations: Mutex<Vec<(BackendName, Box<dyn Registration>)>>,
    /// As of the first time that this agent named the region as its own peer.
    extras: OnceLock<Extras>,
    owner: Box<dyn MemoryOwner>,
    span: Span,
    id: RegionId,
    key: RegionKey,
    writable: bool,
    shareable: bool,
    revoked: AtomicBool,
    /// Operations that may touch the memory now.
    pins: AtomicUsize,
}

/// The right to touch a region's memory: deregistering waits until the last pin is dropped.
/// Whoever holds one across several steps looks at [`Region::is_revoked`] before each.
#[derive(Debug)]
pub struct Pin(Region);

impl std::ops::Deref for Pin {
    type Target = Region;

    fn deref(&self) -> &Region {
        &self.0
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.unpin();
    }
}

impl Region {
    /// A region over `owner`'s memory. The agent calls this; so does whoever stands in for it to
    /// drive a backend alone. `id` and `key` are unique in one generation.
    ///
    /// Errors: `ApiMisuse` for an empty or wrapping span.
    pub fn new(
        owner: Box<dyn MemoryOwner>,
        id: RegionId,
        key: RegionKey,
        writable: bool,
    ) -> Result<Self> {
        let span = owner.span();
        if span.len == 0 || span.addr.checked_add(span.len).is_none() {
            return Err(fail(
                ErrorKind::ApiMisuse,
                format!(
                    "cannot register {} bytes at {:#x}: empty or past the end of the address space",
                    span.len, span.addr
                ),
            ));
        }
        let shareable = owner.share().is_some();
        Ok(Self(Arc::new(Inner {
            registrations: Mutex::new(Vec::new()),
            extras: OnceLock::new(),
            owner,
            span,
            id,
            key,
            writable,
            shareable,
            revoked: AtomicBool::new(false),
            pins: AtomicUsize::new(0),
        })))
    }

    /// The memory.
    pub fn span(&self) -> Span {
        self.0.span
    }

    /// First address.
    pub fn addr(&self) -> u64 {
        self.0.span.addr
    }

    /// Length in bytes; never 0.
    #[allow(clippy::len_without_is_empty)] // a region is never empty
    pub fn len(&self) -> u64 {
        self.0.span.len
    }

    /// Number within this agent's generation.
    pub fn id(&self) -> RegionId {
        self.0.id
    }

    /// The key that peers present.
    pub fn key(&self) -> RegionKey {
        self.0.key
    }

    pub(super) fn key_ref(&self) -> &RegionKey {
        &self.0.key
    }

    /// Bytes in a page, for memory that the agent allocated: 2 MiB or 4 KiB.
    pub fn page_size(&self) -> Option<u64> {
        self.0.owner.page_size()
    }

    /// Whether peers may write.
    pub fn is_writable(&self) -> bool {
        self.0.writable
    }

    /// Whether peers on this host can map it.
    pub fn is_shareable(&self) -> bool {
        self.0.shareable
    }

    /// The memfd behind a shareable region.
    pub fn share(&self) -> Option<BorrowedFd<'_>> {
        self.0.owner.share()
    }

    /// Whether it has been withdrawn: no new access may begin.
    pub fn is_revoked(&self) -> bool {
        self.0.revoked.load(Ordering::Acquire)
    }

    /// No access begins after this. Pins taken before stay until dropped.
    pub(crate) fn revoke(&self) {
        self.0.revoked.store(true, Ordering::SeqCst);
    }

    /// Pins the memory; `None` once it is revoked.
    pub fn pin(&self) -> Option<Pin> {
        self.try_pin().then(|| Pin(self.clone()))
    }

    /// [`Region::pin`] for callers that keep count themselves: true means that one
    /// [`Region::unpin`] is owed.
    pub(crate) fn try_pin(&self) -> bool {
        // Announce, then look: either `revoke` is seen here, or the pin is seen by `pins`.
        self.0.pins.fetch_add(1, Ordering::SeqCst);
        let revoked = self.0.revoked.load(Ordering::SeqCst);
        if revoked {
            self.unpin();
        }
        !revoked
    }

    pub(crate) fn unpin(&self) {
        self.0.pins.fetch_sub(1, Ordering::Release);
    }

    /// Operations that may touch the memory now.
    pub fn pins(&self) -> usize {
        self.0.pins.load(Ordering::SeqCst)
    }

    /// Deregisters from every backend; the memory stays until the last handle is dropped.
    pub fn drop_registrations(&self) {
        let registrations = std::mem::take(&mut *self.0.registrations.lock());
        drop(registrations);
    }

    /// Keeps what `backend` registered, until [`Region::drop_registrations`] or the last handle.
    pub fn add_registration(&self, backend: BackendName, r: Box<dyn Registration>) {
        self.0.registrations.lock().push((backend, r));
    }

    /// What NIXL's agents are told by `backend`'s registration.
    pub(crate) fn nixl(&self, backend: BackendName) -> Option<Bytes> {
        let registrations = self.0.registrations.lock();
        let (_, mine) = registrations.iter().find(|(name, _)| *name == backend)?;
        mine.nixl().filter(|bytes| !bytes.is_empty())
    }

    /// What the backends add, for an agent that is its own peer.
    pub(crate) fn extras(&self) -> &Extras {
        let card = || Extras::from(&Arc::new(self.card()));
        self.0.extras.get_or_init(card)
    }

    /// What peers are told about this region.
    pub fn card(&self) -> RegionCard {
        let extras = self.0.registrations.lock();
        RegionCard {
            id: self.0.id,
            addr: self.0.span.addr,
            len: self.0.span.len,
            kind: self.0.span.kind,
            dev: self.0.span.dev,
            key: self.0.key,
            shareable: self.0.shareable,
            writable: self.0.writable,
            extras: extras
                .iter()
                .map(|(name, r)| ((*name).to_owned(), r.extra()))
                .filter(|(_, bytes)| !bytes.is_empty())
                .collect(),
        }
    }

    fn check(&self, offset: u64, len: usize) -> Result<usize> {
        let end = offset.checked_add(len as u64);
        if self.0.span.kind != MemKind::Dram {
            return Err(fail(
                ErrorKind::Unsupported,
                "only host memory is copied by the CPU",
            ));
        }
        match end {
            Some(end) if end <= self.0.span.len => Ok((self.0.span.addr + offset) as usize),
            _ => Err(fail(
                ErrorKind::ApiMisuse,
                format!(
                    "{len} bytes at offset {offset} lie outside the region of {} bytes",
                    self.0.span.len
                ),
            )),
        }
    }

    /// Copies bytes out, from `offset`. A peer that writes meanwhile gives a mix of old and new.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let from = self.check(offset, out.len())? as *const u8;
        // SAFETY: INV-2, bounds checked above, `self` holds the region; `out` is exclusive.
        unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) };
        Ok(())
    }

    /// Copies bytes in, at `offset`.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let to = self.check(offset, data.len())? as *mut u8;
        // SAFETY: INV-2, bounds checked above, `self` holds the region; `data` is no part of it,
        // since nobody keeps a reference into registered memory (`MemoryOwner`).
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
        Ok(())
    }

    /// The region's bytes.
    ///
    /// # Safety
    ///
    /// Host memory only. Nothing writes to the region, from this process or a peer's, while the
    /// slice lives.
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: INV-2, the whole region, held by `self`; the caller vouches for quiescence.
        unsafe {
            std::slice::from_raw_parts(self.0.span.addr as *const u8, self.0.span.len as usize)
        }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("id", &self.0.id)
            .field("span", &self.0.span)
            .field("shareable", &self.0.shareable)
            .finish_non_exhaustive()
    }
}
