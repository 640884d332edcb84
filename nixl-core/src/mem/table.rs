//! The agent's own regions, by key for peers and by address for descriptors.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap, HashSet},
    hash::{Hash, Hasher},
};

use parking_lot::RwLock;

use super::{Pin, Region, SpanIndex};
use crate::{Error, ErrorKind, MemKind, RegionId, RegionKey, Result, error::fail};

/// What a peer wants to do with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Peer reads.
    Read,
    /// Peer writes.
    Write,
}

/// All regions of one agent.
#[derive(Default)]
pub struct RegionTable {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    by_key: HashSet<ByKey>,
    by_addr: SpanIndex<Region>,
    /// Withdrawn, but somebody may still touch them.
    withdrawn: HashMap<RegionId, Region>,
}

/// A region that is hashed and compared as its key, which it holds: the table need not.
struct ByKey(Region);

impl Borrow<RegionKey> for ByKey {
    fn borrow(&self) -> &RegionKey {
        self.0.key_ref()
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key_ref().hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key_ref() == other.0.key_ref()
    }
}

impl Eq for ByKey {}

impl RegionTable {
    /// Makes a region known to peers (by key) and to descriptors (by address).
    pub fn insert(&self, region: Region) {
        let mut inner = self.inner.write();
        let span = region.span();
        inner
            .by_addr
            .insert(span.kind, span.dev, span.addr, span.len, region.clone());
        inner.by_key.insert(ByKey(region));
    }

    /// Makes a region known to peers only: no descriptor of ours resolves to it.
    pub(crate) fn insert_alias(&self, region: Region) {
        self.inner.write().by_key.insert(ByKey(region));
    }

    /// Takes an alias out again: no access under its key begins after this.
    pub(crate) fn withdraw_alias(&self, region: &Region) {
        self.inner.write().by_key.remove(region.key_ref());
        region.revoke();
    }

    /// Takes a region out and marks it revoked: from here on no access begins.
    /// False if it was not in the table.
    pub fn withdraw(&self, region: &Region) -> bool {
        let mut inner = self.inner.write();
        if !inner.by_key.remove(region.key_ref()) {
            return false;
        }
        region.revoke();
        let id = region.id();
        let span = region.span();
        let found = inner
            .by_addr
            .remove(span.kind, span.dev, span.addr, |r| r.id() == id);
        if let Some(region) = &found {
            inner.withdrawn.insert(id, region.clone());
        }
        found.is_some()
    }

    pub(crate) fn is_withdrawn(&self, region: &Region) -> bool {
        let inner = self.inner.read();
        let found = inner.withdrawn.get(&region.id());
        found.is_some_and(|own| own.key_ref() == region.key_ref())
    }

    pub(crate) fn withdrawn_ids(&self) -> Vec<RegionId> {
        self.inner.read().withdrawn.keys().copied().collect()
    }

    /// Nobody touches a withdrawn region any more.
    pub(crate) fn release(&self, region: &Region) {
        self.inner.write().withdrawn.remove(&region.id());
    }

    pub(crate) fn any_pinned(&self) -> bool {
        let inner = self.inner.read();
        inner.withdrawn.values().any(|r| r.pins() > 0)
    }

    /// The region with `key`, if `addr..addr + len` lies inside it and `access` is allowed.
    ///
    /// Errors: `NotRegistered` for an unknown or revoked key
    /// and for a range outside the region, `NotAllowed` for writing to a read-only region.
    pub fn resolve(&self, key: &RegionKey, addr: u64, len: u64, access: Access) -> Result<Pin> {
        let inner = self.inner.read();
        let ByKey(region) = inner.by_key.get(key).ok_or_else(unknown_key)?;
        let span = region.span();
        let inside = addr >= span.addr
            && addr
                .checked_add(len)
                .is_some_and(|end| end <= span.addr + span.len);
        if !inside {
            return Err(fail(
                ErrorKind::NotRegistered,
                format!("{len} bytes at {addr:#x} lie outside the region that the key names"),
            ));
        }
        if access == Access::Write && !region.is_writable() {
            return Err(fail(
                ErrorKind::NotAllowed,
                "the region is registered read-only",
            ));
        }
        region.pin().ok_or_else(unknown_key)
    }

    pub(crate) fn has_key(&self, key: &RegionKey) -> bool {
        self.inner.read().by_key.contains(key)
    }

    /// The region that covers a range of this process's memory.
    pub fn find(&self, kind: MemKind, dev: u64, addr: u64, len: u64) -> Option<Region> {
        self.inner
            .read()
            .by_addr
            .find(kind, dev, addr, len)
            .cloned()
    }

    pub(crate) fn find_elsewhere(&self, addr: u64, len: u64) -> Option<(MemKind, u64)> {
        self.inner.read().by_addr.find_elsewhere(addr, len)
    }

    /// The region with number `id`.
    pub fn by_id(&self, id: RegionId) -> Option<Region> {
        let inner = self.inner.read();
        let found = inner.by_key.iter().find(|r| r.0.id() == id);
        found.map(|r| r.0.clone())
    }

    /// All regions; no aliases, which are nobody's but one operation's.
    pub fn all(&self) -> Vec<Region> {
        self.inner.read().by_addr.iter().cloned().collect()
    }

    /// Page size and bytes of what the agent allocated, smallest pages first; without the regions
    /// numbered below `first`.
    pub(crate) fn allocated(&self, first: u64) -> Vec<(u64, u64)> {
        let mut sums = BTreeMap::new();
        for region in self.inner.read().by_addr.iter() {
            if let (Some(page), true) = (region.page_size(), region.id().0 >= first) {
                *sums.entry(page).or_insert(0) += region.len();
            }
        }
        sums.into_iter().collect()
    }

    /// Withdraws everything.
    pub(crate) fn clear(&self) {
        let mut inner = self.inner.write();
        let all: Vec<_> = inner.by_key.drain().collect();
        inner.by_addr = SpanIndex::default();
        for ByKey(region) in all {
            region.revoke();
            inner.withdrawn.insert(region.id(), region);
        }
    }

    /// Keeps withdrawn regions allocated and registered for good: somebody may still touch them.
    pub(crate) fn leak(&self, ids: &HashSet<RegionId>) {
        let inner = self.inner.read();
        let kept = ids.iter().filter_map(|id| inner.withdrawn.get(id));
        kept.cloned().for_each(std::mem::forget);
    }
}

fn unknown_key() -> Error {
    fail(
        ErrorKind::NotRegistered,
        "no region has this key: it was deregistered, or the peer's metadata is old",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::OwnedBuffer;

    fn region(id: u64) -> Region {
        let owner = Box::new(OwnedBuffer::new(vec![0; 64].into_boxed_slice()));
        Region::new(owner, RegionId(id), RegionKey([id as u8; 16]), true).unwrap()
    }

    #[test]
    fn an_alias_is_reached_by_its_key_and_told_to_nobody() {
        let table = RegionTable::default();
        let (own, alias) = (region(1), region(2));
        table.insert(own.clone());
        table.insert_alias(alias.clone());
        let reach = |r: &Region| table.resolve(&r.key(), r.addr(), 64, Access::Write);
        assert!(reach(&own).is_ok() && reach(&alias).is_ok());
        let told: Vec<_> = table.all().iter().map(Region::id).collect();
        assert_eq!(told, [own.id()]);
        table.withdraw_alias(&alias);
        assert_eq!(reach(&alias).unwrap_err().kind(), ErrorKind::NotRegistered);
        assert!(reach(&own).is_ok());
    }
}
