//! What a request moves: both sides resolved to regions, adjacent blocks merged, cut in chunks.

mod list;
#[cfg(test)]
mod tests;

pub use list::{Block, Extras, LocalList, RemoteList, RemoteRegion, Resolved};

use std::sync::Arc;

use crate::{ErrorKind, Op, Result, error::fail, negotiate::Demand};

/// Most merged blocks in a chunk: what one vectored system call takes (UIO_MAXIOV).
pub const CHUNK_BLOCKS: usize = 1024;
/// Most bytes in a chunk.
pub const CHUNK_BYTES: u64 = 1 << 20;
/// Fewest bytes worth a chunk of their own.
const CHUNK_MIN: u64 = 64 << 10;

/// One merged block: contiguous on both sides, from these list entries on. There is one for each
/// descriptor where nothing merges, so it is kept small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    local: u32,
    remote: u32,
    /// Bytes, or [`WHOLE`].
    len: u32,
}

/// Length of a segment that is one block of 4 GiB or more: its list knows how long it is.
const WHOLE: u32 = u32::MAX;

impl Segment {
    fn new(local: u32, remote: u32, len: u64) -> Self {
        Self {
            local,
            remote,
            len: u32::try_from(len).unwrap_or(WHOLE),
        }
    }

    fn len(&self, list: &LocalList) -> u64 {
        match self.len {
            WHOLE => list.block(self.local).len,
            len => u64::from(len),
        }
    }

    /// Takes in the next block, if the sum is still below 4 GiB.
    fn grow(&mut self, len: u64) -> bool {
        let sum = u64::from(self.len).saturating_add(len);
        let fits = self.len != WHOLE && sum < u64::from(WHOLE);
        if fits {
            self.len = sum as u32;
        }
        fits
    }
}

/// Where a chunk begins: segment, and offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ChunkStart {
    segment: u32,
    offset: u64,
}

/// One contiguous copy: `len` bytes between a local address and a peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Address here, inside local region number `local_region` of the plan.
    pub local: u64,
    /// Index into [`LocalList::regions`].
    pub local_region: u32,
    /// Address in the peer's process.
    pub remote: u64,
    /// Index into [`RemoteList::regions`].
    pub remote_region: u32,
    /// Bytes.
    pub len: u64,
}

/// Everything that is constant about a request. Holds the local regions (INV-1).
#[derive(Debug)]
pub struct Plan {
    op: Op,
    local: Arc<LocalList>,
    remote: Arc<RemoteList>,
    segments: Box<[Segment]>,
    chunks: Box<[ChunkStart]>,
    bytes: u64,
    asked: u64,
}

impl Plan {
    /// Pairs the selected blocks of two lists in order.
    ///
    /// Errors: `Mismatch` for different counts or lengths, `ApiMisuse` for an empty selection or
    /// an index out of range, `NotAllowed` for a READ into or WRITE to read-only memory.
    pub fn build(
        op: Op,
        local: Arc<LocalList>,
        local_select: Select<'_>,
        remote: Arc<RemoteList>,
        remote_select: Select<'_>,
    ) -> Result<Self> {
        let asked = local_select.count(local.len());
        let theirs = remote_select.count(remote.len());
        if asked != theirs {
            return Err(fail(
                ErrorKind::Mismatch,
                format!("{asked} local descriptors against {theirs} remote ones"),
            ));
        }
        if asked == 0 {
            return Err(fail(
                ErrorKind::ApiMisuse,
                "the request names no descriptor",
            ));
        }
        check_access(op, &local, &remote)?;
        local_select.check(local.len(), "local")?;
        remote_select.check(remote.len(), "remote")?;
        let (segments, bytes) = merge(&local, local_select, &remote, remote_select, asked)?;
        let chunks = cut(&segments, &local, bytes)?;
        Ok(Self {
            op,
            local,
            remote,
            segments,
            chunks,
            bytes,
            asked: u64::from(asked),
        })
    }

    /// Direction.
    pub fn op(&self) -> Op {
        self.op
    }

    /// The local side.
    pub fn local(&self) -> &Arc<LocalList> {
        &self.local
    }

    /// The peer's side.
    pub fn remote(&self) -> &Arc<RemoteList> {
        &self.remote
    }

    /// Bytes to move.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Descriptors asked for, before merging.
    pub fn asked(&self) -> u64 {
        self.asked
    }

    /// Blocks left after merging.
    pub fn merged(&self) -> u64 {
        self.segments.len() as u64
    }

    /// What it asks of a path: the question for [`Agent::explain`](crate::Agent::explain).
    pub fn demand(&self) -> Demand {
        Demand {
            op: self.op,
            local: self.local.kind(),
            remote: self.remote.kind(),
            all_remote_shareable: self.remote.regions().iter().all(|r| r.shareable),
            descs: self.merged(),
            bytes: self.bytes(),
        }
    }

    /// Number of chunks: the unit that threads and streams take by turns.
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// The pieces of chunk `index` (< [`Plan::chunks`]), at most [`CHUNK_BLOCKS`] of them.
    pub fn chunk(&self, index: usize) -> Pieces<'_> {
        let start = self.chunks[index];
        let end = self.chunks.get(index + 1).copied().unwrap_or(ChunkStart {
            segment: self.segments.len() as u32,
            offset: 0,
        });
        Pieces {
            plan: self,
            at: start,
            end,
        }
    }

    /// Merged block number `index` (< [`Plan::merged`]), whole.
    pub fn piece(&self, index: u64) -> Option<Piece> {
        let seg = self.segments.get(usize::try_from(index).ok()?)?;
        let (local, remote) = (self.local.block(seg.local), self.remote.block(seg.remote));
        Some(Piece {
            local: local.addr,
            local_region: local.region,
            remote: remote.addr,
            remote_region: remote.region,
            len: seg.len(&self.local),
        })
    }

    /// All pieces, one per merged block.
    pub fn pieces(&self) -> Pieces<'_> {
        Pieces {
            plan: self,
            at: ChunkStart {
                segment: 0,
                offset: 0,
            },
            end: ChunkStart {
                segment: self.segments.len() as u32,
                offset: 0,
            },
        }
    }

    /// Bytes in chunk `index`.
    pub fn chunk_bytes(&self, index: usize) -> u64 {
        self.chunk(index).map(|p| p.len).sum()
    }
}

/// Iterator over the [`Piece`]s of a chunk or a plan. Allocates nothing.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    plan: &'a Plan,
    at: ChunkStart,
    end: ChunkStart,
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let ChunkStart { segment, offset } = self.at;
        if (segment, offset) >= (self.end.segment, self.end.offset) {
            return None;
        }
        let seg = self.plan.segments[segment as usize];
        let stop = if segment == self.end.segment {
            self.end.offset
        } else {
            seg.len(&self.plan.local)
        };
        self.at = ChunkStart {
            segment: segment + 1,
            offset: 0,
        };
        let (local, remote) = (
            self.plan.local.block(seg.local),
            self.plan.remote.block(seg.remote),
        );
        Some(Piece {
            local: local.addr + offset,
            local_region: local.region,
            remote: remote.addr + offset,
            remote_region: remote.region,
            len: stop - offset,
        })
    }
}

/// Which blocks of a prepared list a request uses, in which order.
#[derive(Clone, Copy, Debug)]
pub enum Select<'a> {
    /// All, in list order.
    All,
    /// These indices, in this order; one may stand more than once.
    Indices(&'a [u32]),
}

impl Select<'_> {
    fn count(&self, list: u32) -> u32 {
        match self {
            Self::All => list,
            Self::Indices(i) => u32::try_from(i.len()).unwrap_or(u32::MAX),
        }
    }

    fn at(&self, i: u32) -> u32 {
        match self {
            Self::All => i,
            Self::Indices(list) => list[i as usize],
        }
    }

    fn check(&self, len: u32, side: &str) -> Result<()> {
        let Self::Indices(indices) = self else {
            return Ok(());
        };
        match indices.iter().position(|i| *i >= len) {
            None => Ok(()),
            Some(at) => Err(fail(
                ErrorKind::ApiMisuse,
                format!(
                    "{side} index {} (number {at}) is out of range: the list has {len} descriptors",
                    indices[at]
                ),
            )),
        }
    }
}

fn check_access(op: Op, local: &LocalList, remote: &RemoteList) -> Result<()> {
    let denied = match op {
        Op::Read => local
            .regions()
            .iter()
            .any(|r| !r.is_writable())
            .then_some("a READ would write to a local region registered read-only"),
        Op::Write => remote
            .regions()
            .iter()
            .any(|r| !r.writable)
            .then_some("the peer registered the region read-only"),
    };
    denied.map_or(Ok(()), |why| Err(fail(ErrorKind::NotAllowed, why)))
}

fn merge(
    local: &LocalList,
    local_select: Select<'_>,
    remote: &RemoteList,
    remote_select: Select<'_>,
    count: u32,
) -> Result<(Box<[Segment]>, u64)> {
    let mut segments: Vec<Segment> = reserve(count.into())?;
    let mut bytes = 0u64;
    let mut last: Option<(Block, Block)> = None;
    for i in 0..count {
        let (li, ri) = (local_select.at(i), remote_select.at(i));
        let (l, r) = (local.block(li), remote.block(ri));
        if l.len != r.len {
            return Err(fail(
                ErrorKind::Mismatch,
                format!(
                    "descriptor {i}: {} bytes here, {} at the peer",
                    l.len, r.len
                ),
            ));
        }
        bytes = bytes.saturating_add(l.len);
        let follows = |(pl, pr): &(Block, Block)| pl.is_followed_by(&l) && pr.is_followed_by(&r);
        let merged = last.as_ref().is_some_and(follows)
            && segments.last_mut().is_some_and(|seg| seg.grow(l.len));
        if !merged {
            segments.push(Segment::new(li, ri, l.len));
        }
        last = Some((l, r));
    }
    Ok((segments.into_boxed_slice(), bytes))
}

/// Cuts at most [`CHUNK_BYTES`] and [`CHUNK_BLOCKS`] a chunk; smaller requests in more, smaller
/// chunks, so that several threads have work.
fn cut(segments: &[Segment], list: &LocalList, bytes: u64) -> Result<Box<[ChunkStart]>> {
    let most = (bytes / 8).clamp(CHUNK_MIN, CHUNK_BYTES);
    let by_blocks = (segments.len() / CHUNK_BLOCKS) as u64;
    let mut chunks = reserve(bytes / most + by_blocks + 2)?;
    let (mut room, mut blocks) = (0, 0);
    for (i, seg) in segments.iter().enumerate() {
        let (mut offset, len) = (0, seg.len(list));
        while offset < len {
            if room == 0 || blocks == CHUNK_BLOCKS {
                chunks.push(ChunkStart {
                    segment: i as u32,
                    offset,
                });
                (room, blocks) = (most, 0);
            }
            let take = room.min(len - offset);
            offset += take;
            room -= take;
            blocks += 1;
        }
    }
    Ok(chunks.into_boxed_slice())
}

/// Room for `count` items; a caller's list may be larger than memory.
fn reserve<T>(count: u64) -> Result<Vec<T>> {
    let mut items = Vec::new();
    let room = usize::try_from(count).unwrap_or(usize::MAX);
    items.try_reserve_exact(room).map_err(|e| {
        fail(
            ErrorKind::Exhausted,
            format!("the request does not fit memory ({count} parts: {e}); split it"),
        )
    })?;
    Ok(items)
}
