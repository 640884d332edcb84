//! Registering and deregistering memory.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{Agent, Shared};
use crate::{
    ErrorKind, MemKind, PathCaps, RegionId, RegionKey, Result, Revocation, auth,
    backend::Backend,
    error::fail,
    mem::{HostMemory, HugePages, MemoryOwner, OwnedBuffer, RawMemory, Region, Span},
    runtime::deadline_after,
};

/// What peers may do with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PeerAccess {
    /// Read and write.
    #[default]
    ReadWrite,
    /// Read only.
    ReadOnly,
}

impl Agent {
    /// Allocates and registers `len` bytes of zeroed host memory that peers on this host can map:
    /// the memory for the fastest same-host path. Freed when it is deregistered and the last
    /// handle is dropped.
    pub fn allocate(&self, len: u64) -> Result<Region> {
        self.allocate_with(len, HugePages::No, PeerAccess::ReadWrite)
    }

    /// [`Agent::allocate`] with a choice of pages and access.
    pub fn allocate_with(&self, len: u64, pages: HugePages, access: PeerAccess) -> Result<Region> {
        self.register_with(HostMemory::allocate(len, pages)?, access)
    }

    /// Registers a buffer that the caller hands over.
    pub fn register_buffer(&self, buffer: Vec<u8>) -> Result<Region> {
        self.register(OwnedBuffer::new(buffer.into_boxed_slice()))
    }

    /// Registers memory that `owner` keeps alive.
    pub fn register(&self, owner: impl MemoryOwner) -> Result<Region> {
        self.register_with(owner, PeerAccess::ReadWrite)
    }

    /// [`Agent::register`] with a choice of access.
    ///
    /// Errors: `Unsupported` for a kind of memory that no backend of the agent moves.
    pub fn register_with(&self, owner: impl MemoryOwner, access: PeerAccess) -> Result<Region> {
        let shared = &self.shared;
        check_kind(owner.span(), &shared.backends)?;
        let id = RegionId(shared.next_region.fetch_add(1, Ordering::Relaxed));
        let key = RegionKey(auth::random()?);
        let writable = access == PeerAccess::ReadWrite;
        let region = Region::new(Box::new(owner), id, key, writable)?;
        register_everywhere(&region, &shared.backends);
        shared.regions.insert(region.clone());
        shared.sequence.fetch_add(1, Ordering::AcqRel);
        Ok(region)
    }

    /// Registers memory that stays the caller's. Errors: as [`Agent::register_with`].
    ///
    /// # Safety
    ///
    /// The memory stays allocated, readable and (for [`PeerAccess::ReadWrite`]) writable until
    /// [`Agent::deregister`] returned `Ok`, or the agent's shutdown did. Nobody keeps a Rust
    /// reference into it while peers may write.
    pub unsafe fn register_raw(&self, span: Span, access: PeerAccess) -> Result<Region> {
        self.register_with(RawMemory(span), access)
    }

    /// Withdraws a region: new access is refused at once, then it waits, `timeout` at most, for
    /// requests, peers that move its bytes now, and peers that have it mapped.
    ///
    /// Errors: `NotRegistered` when it is not registered here; `StillMapped` when somebody may
    /// still touch it: the region stays withdrawn and kept alive, call again to go on waiting.
    pub fn deregister(&self, region: &Region, timeout: Duration) -> Result<()> {
        let shared = &self.shared;
        if shared.probe_memory.is_internal(region.id()) {
            return Err(fail(ErrorKind::ApiMisuse, "that region is the agent's own"));
        }
        let id = region.id();
        if shared.regions.withdraw(region) {
            shared.sequence.fetch_add(1, Ordering::AcqRel);
            self.note_self_withdrawal();
            ask_back(shared, id);
        } else if !shared.regions.is_withdrawn(region) {
            return Err(fail(
                ErrorKind::NotRegistered,
                "the region is not registered with this agent",
            ));
        }
        let holder = || shared.incoming.lock().iter().find(|c| c.holds(id)).cloned();
        let free = || region.pins() == 0 && holder().is_none();
        if shared.runtime.wait(deadline_after(timeout), free) {
            shared.regions.release(region);
            region.drop_registrations();
            return Ok(());
        }
        let (who, what) = match holder() {
            Some(peer) => (peer.from.to_string(), "has it mapped and does not answer"),
            None => (
                shared.identity.name.clone(),
                "has an operation on it that does not end",
            ),
        };
        Err(fail(
            ErrorKind::StillMapped,
            format!(
                "{} bytes at {:#x} stay withdrawn but allocated after {timeout:?}: {who} {what}; \
                 deregister again later",
                region.len(),
                region.addr()
            ),
        )
        .with_peer(&who))
    }
}

/// Asks every connected peer that may have the region mapped to let go of it.
pub(super) fn ask_back(shared: &Shared, id: RegionId) {
    let cooperative = |backend: &str| {
        shared
            .paths
            .iter()
            .any(|c| c.backend == backend && c.revocation == Revocation::Cooperative)
    };
    let incoming = shared.incoming.lock().clone();
    for conn in incoming.iter().filter(|c| cooperative(c.backend)) {
        conn.revoke(id);
    }
}

/// Host memory can be registered with no backend to move it; other memory would only wait in vain.
fn check_kind(span: Span, backends: &[Arc<dyn Backend>]) -> Result<()> {
    let moves = |caps: &PathCaps| {
        let mut sides = caps.mem.iter().flat_map(|(_, here, there)| [here, there]);
        sides.any(|kind| *kind == span.kind)
    };
    let mut paths = backends.iter().flat_map(|b| b.paths());
    if span.kind == MemKind::Dram || paths.any(moves) {
        return Ok(());
    }
    let names: Vec<_> = backends.iter().map(|b| b.name()).collect();
    Err(fail(
        ErrorKind::Unsupported,
        format!(
            "cannot register {} bytes of {:?} at {:#x}: none of this agent's backends moves such \
             memory ({}); copy it to host memory",
            span.len,
            span.kind,
            span.addr,
            names.join(", ")
        ),
    ))
}

/// Registers with every backend; one that cannot is not used for this region.
pub(super) fn register_everywhere(region: &Region, backends: &[Arc<dyn Backend>]) {
    for backend in backends {
        match backend.register(region) {
            Ok(Some(registration)) => region.add_registration(backend.name(), registration),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(backend = backend.name(), %error, "cannot register a region of {} bytes", region.len());
            }
        }
    }
}
