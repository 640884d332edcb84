//! Body of an open frame: operation, regions, chunk table and scatter list of one request.

use alloc::vec::Vec;

use crate::{
    CHUNK_COST, Cursor, ListError, MAX_CHUNK, MAX_CHUNKS, MAX_OPEN, MAX_REGIONS, ProtocolError,
    Run, encode_list, varint,
};

const HEAD: usize = 20;
const REGION_LEN: usize = 24;

/// Direction of a request, seen by the initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OpenOp {
    /// The owner of the memory sends chunks.
    Read = 0,
    /// The initiator sends chunks.
    Write = 1,
}

/// A region of the target as the initiator names it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RegionRef {
    /// The region's secret key.
    pub key: [u8; 16],
    /// Address at which the target registered it; offsets of the list count from here.
    pub addr: u64,
}

impl core::fmt::Debug for RegionRef {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "RegionRef {{ addr: {:#x}, .. }}", self.addr)
    }
}

/// Writes the body of an open frame to `out`, which is cleared first. It is the same at every post of a request.
///
/// `chunks` are the payload lengths of the chunks in bytes; their sum must be that of `runs`. Returns what the request
/// counts against the receiver's list credit, in bytes.
///
/// # Errors
/// `Oversize` if the request has more regions, chunks or list bytes than any receiver accepts; `BadField` for an empty
/// block or chunk.
pub fn encode_open(
    out: &mut Vec<u8>,
    op: OpenOp,
    regions: impl Iterator<Item = RegionRef>,
    chunks: impl Iterator<Item = u32>,
    runs: impl Iterator<Item = Run> + Clone,
) -> Result<u32, ProtocolError> {
    out.clear();
    out.resize(HEAD, 0);
    let mut n_regions = 0u32;
    for r in regions {
        out.extend_from_slice(&r.key);
        out.extend_from_slice(&r.addr.to_le_bytes());
        n_regions += 1;
    }
    let chunks_at = out.len();
    let (n_chunks, total) = encode_chunks(out, chunks)?;
    let chunk_bytes = out.len() - chunks_at;
    let shift = encode_list(runs, out)?;
    if n_regions > MAX_REGIONS || n_chunks > MAX_CHUNKS || open_cost(out.len(), n_chunks) > MAX_OPEN
    {
        return Err(ProtocolError::Oversize("request"));
    }
    out[0] = op as u8;
    out[1] = shift;
    out[4..8].copy_from_slice(&n_regions.to_le_bytes());
    out[8..12].copy_from_slice(&(chunk_bytes as u32).to_le_bytes());
    out[12..20].copy_from_slice(&total.to_le_bytes());
    Ok(open_cost(out.len(), n_chunks))
}

/// Chunk lengths as (length, how many) pairs; returns their number and sum.
fn encode_chunks(
    out: &mut Vec<u8>,
    chunks: impl Iterator<Item = u32>,
) -> Result<(u32, u64), ProtocolError> {
    let (mut n, mut total) = (0u32, 0u64);
    let mut run: Option<(u32, u64)> = None;
    let mut flush = |run: Option<(u32, u64)>| {
        if let Some((len, count)) = run {
            varint::put(out, u64::from(len));
            varint::put(out, count);
        }
    };
    for len in chunks {
        if len == 0 || len > MAX_CHUNK {
            return Err(ProtocolError::BadField("chunk"));
        }
        n = n.checked_add(1).ok_or(ProtocolError::Oversize("request"))?;
        total += u64::from(len);
        match &mut run {
            Some((l, count)) if *l == len => *count += 1,
            _ => {
                flush(run);
                run = Some((len, 1));
            }
        }
    }
    flush(run);
    Ok((n, total))
}

/// Where the parts of an open body are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenLayout {
    /// Direction.
    pub op: OpenOp,
    /// Payload bytes of the whole request.
    pub bytes: u64,
    shift: u8,
    chunks: u32,
    chunks_at: u32,
    list_at: u32,
}

impl OpenLayout {
    /// Checks the fixed part of a body.
    ///
    /// # Errors
    /// The body is malformed.
    pub fn parse(body: &[u8]) -> Result<Self, ProtocolError> {
        let head: &[u8; HEAD] = body
            .first_chunk()
            .ok_or(ProtocolError::BadField("open length"))?;
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let op = match head[0] {
            0 => OpenOp::Read,
            1 => OpenOp::Write,
            _ => return Err(ProtocolError::BadField("op")),
        };
        if head[2..4] != [0, 0] {
            return Err(ProtocolError::BadField("reserved"));
        }
        let (regions, chunk_bytes) = (word(4), word(8));
        if regions == 0 || regions > MAX_REGIONS {
            return Err(ProtocolError::BadField("regions"));
        }
        let chunks_at = HEAD + regions as usize * REGION_LEN;
        let list_at = chunks_at as u64 + u64::from(chunk_bytes);
        if body.len() > MAX_OPEN as usize || list_at > body.len() as u64 {
            return Err(ProtocolError::BadField("open length"));
        }
        let bytes = u64::from(word(12)) | u64::from(word(16)) << 32;
        let chunks = count_chunks(&body[chunks_at..list_at as usize])?;
        Ok(Self {
            op,
            bytes,
            shift: head[1],
            chunks,
            chunks_at: chunks_at as u32,
            list_at: list_at as u32,
        })
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// What the request counts against the receiver's list credit, in bytes.
    pub fn cost(&self, body: &[u8]) -> u32 {
        open_cost(body.len(), self.chunks)
    }

    /// The regions that the request names.
    pub fn regions<'a>(&self, body: &'a [u8]) -> impl ExactSizeIterator<Item = RegionRef> + 'a {
        body[HEAD..self.chunks_at as usize]
            .chunks_exact(REGION_LEN)
            .map(|r| {
                let (mut key, mut addr) = ([0; 16], [0; 8]);
                key.copy_from_slice(&r[..16]);
                addr.copy_from_slice(&r[16..]);
                RegionRef {
                    key,
                    addr: u64::from_le_bytes(addr),
                }
            })
    }

    /// The encoded scatter list, for [`Cursor::take`].
    pub fn list<'a>(&self, body: &'a [u8]) -> &'a [u8] {
        &body[self.list_at as usize..]
    }

    /// Checks the whole list against the regions' lengths and writes the chunk table to `table`, cleared first.
    ///
    /// `region_len` gives the length in bytes of a region by its index in the request, `None` if it is not there.
    /// Work and memory are bounded by the body's length and [`MAX_CHUNKS`].
    ///
    /// # Errors
    /// The list is malformed, or a block lies outside its region.
    pub fn index(
        &self,
        body: &[u8],
        region_len: impl Fn(u32) -> Option<u64>,
        table: &mut Vec<ChunkEntry>,
    ) -> Result<(), ListError> {
        table.clear();
        let list = self.list(body);
        let lens = &body[self.chunks_at as usize..self.list_at as usize];
        let check = |run: &Run| -> Result<(), ListError> {
            let len = region_len(run.region).ok_or(ProtocolError::BadField("region"))?;
            // The cursor has shown that this does not wrap.
            let end = run.offset + (run.count - 1) * run.stride + run.len;
            if end > len {
                Err(ListError::OutOfBounds(run.region))
            } else {
                Ok(())
            }
        };
        let mut cursor = Cursor::new(self.shift)?;
        let (mut pos, mut total) = (0, 0u64);
        while pos < lens.len() {
            let (len, count) = read_chunk_run(lens, &mut pos)?;
            for _ in 0..count {
                table.push(ChunkEntry {
                    start: cursor,
                    len: len as u32,
                });
                cursor.skip(list, len, check)?;
            }
            total += len * count;
        }
        if total == 0 || total != self.bytes || !cursor.at_end(list) {
            return Err(ProtocolError::BadField("chunk lengths").into());
        }
        Ok(())
    }
}

/// What a request counts against the receiver's list credit: `body` bytes and so many chunks.
pub(crate) fn open_cost(body: usize, chunks: u32) -> u32 {
    u32::try_from(body as u64 + u64::from(chunks) * u64::from(CHUNK_COST)).unwrap_or(u32::MAX)
}

fn count_chunks(lens: &[u8]) -> Result<u32, ProtocolError> {
    let (mut pos, mut n) = (0, 0u64);
    while pos < lens.len() {
        n += read_chunk_run(lens, &mut pos)?.1;
        if n > u64::from(MAX_CHUNKS) {
            return Err(ProtocolError::Oversize("chunks"));
        }
    }
    Ok(n as u32)
}

fn read_chunk_run(lens: &[u8], pos: &mut usize) -> Result<(u64, u64), ProtocolError> {
    let len = varint::read(lens, pos)?;
    let count = varint::read(lens, pos)?;
    if len == 0 || len > u64::from(MAX_CHUNK) || count == 0 || count > u64::from(MAX_CHUNKS) {
        return Err(ProtocolError::BadField("chunk"));
    }
    Ok((len, count))
}

/// One chunk of an indexed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Where it begins in the list.
    pub start: Cursor,
    /// Payload bytes.
    pub len: u32,
}
