//! The little regions that every agent keeps for probes.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{ProbeCard, RegionId, mem::Region};

/// Bytes of a probe's nonce.
pub(crate) const NONCE: usize = 32;
/// Bytes of a probed region: one published nonce, then slots that peers write to.
pub(super) const PROBED: usize = 4096;
/// Bytes of the memory that our own probes use.
pub(super) const SCRATCH: usize = 64 << 10;

/// One shareable and one plain region for peers to probe, and room for our own probes.
pub(crate) struct ProbeMemory {
    pub(super) probed: [(Region, [u8; NONCE]); 2],
    pub(crate) scratch: Region,
    next: AtomicU64,
}

impl ProbeMemory {
    pub(super) fn new(probed: [(Region, [u8; NONCE]); 2], scratch: Region) -> Self {
        Self {
            probed,
            scratch,
            next: AtomicU64::new(0),
        }
    }

    /// A number for a probe, and its place in the scratch region.
    pub(crate) fn slot(&self) -> (u64, u64) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        (id, id % (SCRATCH / NONCE) as u64 * NONCE as u64)
    }

    /// Whether `nonce` stands at `offset` of probed region `region`.
    pub(crate) fn holds(&self, region: RegionId, offset: u64, nonce: &[u8; NONCE]) -> bool {
        let mut stands = [0; NONCE];
        self.probed
            .iter()
            .find(|(r, _)| r.id() == region)
            .is_some_and(|(r, _)| r.read_at(offset, &mut stands).is_ok() && stands == *nonce)
    }

    pub(super) fn cards(&self) -> Vec<ProbeCard> {
        self.probed
            .iter()
            .map(|(region, nonce)| ProbeCard {
                region: region.id(),
                nonce: *nonce,
            })
            .collect()
    }

    pub(super) fn is_scratch(&self, id: RegionId) -> bool {
        self.scratch.id() == id
    }

    pub(super) fn is_internal(&self, id: RegionId) -> bool {
        self.is_scratch(id) || self.probed.iter().any(|(r, _)| r.id() == id)
    }
}
