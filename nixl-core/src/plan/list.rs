//! Prepared descriptor lists: every block resolved to a region once.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::{
    DescList, ErrorKind, MemKind, RegionCard, RegionId, RegionKey, Result,
    error::fail,
    mem::{Region, RegionTable, SpanIndex},
};

/// One block of a prepared list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Address.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
    /// Index into the list's regions.
    pub region: u32,
}

impl Block {
    pub(super) fn is_followed_by(&self, next: &Self) -> bool {
        self.region == next.region && self.addr + self.len == next.addr
    }
}

/// A descriptor list whose blocks lie in regions of type `R`.
#[derive(Debug)]
pub struct Resolved<R> {
    kind: MemKind,
    entries: Box<[Entry]>,
    regions: Box<[R]>,
    len: u32,
    /// Every entry is one block, so an index is a position.
    flat: bool,
}

/// A strided run inside one region; `first` is the index of its first block.
#[derive(Clone, Copy, Debug)]
struct Entry {
    addr: u64,
    len: u64,
    stride: u64,
    first: u32,
    region: u32,
}

/// A prepared list of our own memory. Holds the regions (INV-1).
pub type LocalList = Resolved<Region>;

/// A prepared list of a peer's memory.
pub type RemoteList = Resolved<RemoteRegion>;

/// A peer's region as its metadata described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteRegion {
    /// Number within the peer's generation.
    pub id: RegionId,
    /// Address in the peer's process.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
    /// Key to present.
    pub key: RegionKey,
    /// Peers on its host can map it.
    pub shareable: bool,
    /// We may write.
    pub writable: bool,
    /// What its owner's backends add.
    pub extras: Extras,
}

/// What the backends of a region's owner tell theirs at the peers (UCX: the packed rkey).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Extras(Option<Arc<RegionCard>>);

impl Extras {
    /// The bytes of `backend`, if it has any for the region.
    pub fn of(&self, backend: &str) -> Option<&Bytes> {
        let extras = &self.0.as_deref()?.extras;
        let (_, bytes) = extras.iter().find(|(name, _)| name == backend)?;
        Some(bytes)
    }
}

/// Keys stay out of logs: names and sizes only.
impl fmt::Debug for Extras {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extras = self.0.iter().flat_map(|card| &card.extras);
        f.debug_map()
            .entries(extras.map(|(name, bytes)| (name, bytes.len())))
            .finish()
    }
}

impl From<&Arc<RegionCard>> for Extras {
    fn from(card: &Arc<RegionCard>) -> Self {
        Self((!card.extras.is_empty()).then(|| card.clone()))
    }
}

impl From<&Arc<RegionCard>> for RemoteRegion {
    fn from(card: &Arc<RegionCard>) -> Self {
        Self {
            extras: Extras::from(card),
            ..Self::without_extras(card)
        }
    }
}

impl From<&RegionCard> for RemoteRegion {
    fn from(card: &RegionCard) -> Self {
        let extras = (!card.extras.is_empty()).then(|| Arc::new(card.clone()));
        Self {
            extras: Extras(extras),
            ..Self::without_extras(card)
        }
    }
}

impl RemoteRegion {
    fn without_extras(card: &RegionCard) -> Self {
        Self {
            id: card.id,
            addr: card.addr,
            len: card.len,
            key: card.key,
            shareable: card.shareable,
            writable: card.writable,
            extras: Extras::default(),
        }
    }
}

impl From<&Region> for RemoteRegion {
    fn from(region: &Region) -> Self {
        Self {
            id: region.id(),
            addr: region.addr(),
            len: region.len(),
            key: region.key(),
            shareable: region.is_shareable(),
            writable: region.is_writable(),
            extras: region.extras().clone(),
        }
    }
}

impl<R> Resolved<R> {
    /// Kind of memory.
    pub fn kind(&self) -> MemKind {
        self.kind
    }

    /// Number of blocks.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether it has no block.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The regions that blocks refer to by index.
    pub fn regions(&self) -> &[R] {
        &self.regions
    }

    /// Block `index` (< [`Resolved::len`]).
    pub fn block(&self, index: u32) -> Block {
        let entry = if self.flat {
            &self.entries[index as usize]
        } else {
            &self.entries[self.entries.partition_point(|e| e.first <= index) - 1]
        };
        Block {
            addr: entry.addr + u64::from(index - entry.first) * entry.stride,
            len: entry.len,
            region: entry.region,
        }
    }
}

impl LocalList {
    /// Resolves `list` in our own regions.
    ///
    /// Errors: `NotRegistered` for a block that no region covers, `ApiMisuse` for empty or
    /// wrapping blocks.
    pub fn resolve(list: &DescList, table: &RegionTable) -> Result<Self> {
        let find = |dev, addr, len| {
            table.find(list.kind(), dev, addr, len).ok_or_else(|| {
                not_registered(list.kind(), addr, len, table.find_elsewhere(addr, len))
            })
        };
        let covers = |r: &Region, addr: u64, extent: u64| {
            addr >= r.addr() && addr + extent <= r.addr() + r.len()
        };
        resolve(list, find, covers, |a, b| a.id() == b.id())
    }
}

impl RemoteList {
    /// Resolves `list` in a peer's regions; errors as [`LocalList::resolve`].
    pub fn resolve(list: &DescList, index: &SpanIndex<RemoteRegion>) -> Result<Self> {
        let find = |dev, addr, len| index.find(list.kind(), dev, addr, len).cloned();
        Self::resolve_with(list, find, |addr, len| index.find_elsewhere(addr, len))
    }

    /// Resolves `list` in our own regions, for an agent that is its own peer.
    pub(crate) fn resolve_own(list: &DescList, table: &RegionTable) -> Result<Self> {
        let find = |dev, addr, len| {
            let region = table.find(list.kind(), dev, addr, len)?;
            Some(RemoteRegion::from(&region))
        };
        Self::resolve_with(list, find, |addr, len| table.find_elsewhere(addr, len))
    }

    /// Resolves `list` in the regions that `find` knows by device, address and length;
    /// `elsewhere` says under which kind and device a range is known instead.
    pub(crate) fn resolve_with(
        list: &DescList,
        find: impl Fn(u64, u64, u64) -> Option<RemoteRegion>,
        elsewhere: impl Fn(u64, u64) -> Option<(MemKind, u64)>,
    ) -> Result<Self> {
        let find = |dev, addr, len| {
            find(dev, addr, len)
                .ok_or_else(|| not_registered(list.kind(), addr, len, elsewhere(addr, len)))
        };
        let covers = |r: &RemoteRegion, addr: u64, extent: u64| {
            addr >= r.addr && addr + extent <= r.addr + r.len
        };
        resolve(list, find, covers, |a, b| a.id == b.id)
    }

    /// A list over one region, all of it in one block.
    pub fn whole(card: &RegionCard, offset: u64, len: u64) -> Self {
        Self {
            kind: card.kind,
            entries: Box::new([Entry {
                addr: card.addr + offset,
                len,
                stride: len,
                first: 0,
                region: 0,
            }]),
            regions: Box::new([RemoteRegion::from(card)]),
            len: 1,
            flat: true,
        }
    }
}

fn not_registered(
    kind: MemKind,
    addr: u64,
    len: u64,
    elsewhere: Option<(MemKind, u64)>,
) -> crate::Error {
    let text = match elsewhere {
        Some((k, dev)) => format!(
            "{len} bytes at {addr:#x} are registered as {k:?} on device {dev}, not as {kind:?}"
        ),
        None => format!(
            "{len} bytes at {addr:#x} ({kind:?}) lie in no registered region; register them, or load \
             newer metadata of the peer"
        ),
    };
    fail(ErrorKind::NotRegistered, text)
}

fn resolve<R>(
    list: &DescList,
    find: impl Fn(u64, u64, u64) -> Result<R>,
    covers: impl Fn(&R, u64, u64) -> bool,
    same: impl Fn(&R, &R) -> bool,
) -> Result<Resolved<R>> {
    list.check()?;
    let mut entries = Vec::with_capacity(list.runs().len());
    let mut regions: Vec<(u64, R)> = Vec::new();
    let mut current = 0usize;
    let mut region_for = |dev: u64, addr: u64, extent: u64| -> Result<u32> {
        let fits = |(d, r): &(u64, R)| *d == dev && covers(r, addr, extent);
        if !regions.get(current).is_some_and(fits) {
            let found = find(dev, addr, extent)?;
            current = match regions
                .iter()
                .position(|(d, r)| *d == dev && same(r, &found))
            {
                Some(i) => i,
                None => {
                    regions.push((dev, found));
                    regions.len() - 1
                }
            };
        }
        Ok(current as u32)
    };
    let mut first = 0u32;
    for run in list.runs() {
        // `check` has shown that the extent does not wrap and that counts fit 32 bits.
        let extent = run.extent().unwrap_or(u64::MAX);
        let mut push = |addr, count: u64, region| {
            entries.push(Entry {
                addr,
                len: run.len,
                stride: run.stride,
                first,
                region,
            });
            first += count as u32;
        };
        match region_for(run.dev, run.addr, extent) {
            Ok(region) => push(run.addr, run.count, region),
            Err(e) if run.count == 1 => return Err(e),
            Err(_) => {
                for i in 0..run.count {
                    let addr = run.addr + i * run.stride;
                    push(addr, 1, region_for(run.dev, addr, run.len)?);
                }
            }
        }
    }
    Ok(Resolved {
        kind: list.kind(),
        flat: entries.len() == first as usize,
        entries: entries.into_boxed_slice(),
        regions: regions.into_iter().map(|(_, r)| r).collect(),
        len: first,
    })
}
