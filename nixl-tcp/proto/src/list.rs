//! Scatter lists on the wire: runs and deltas, 2 to 5 bytes a block.
//!
//! A list is a string of operations, each one number `v` whose two low bits say what it is. Offsets, lengths and
//! strides are in units of `1 << shift` bytes, the largest power of two that divides them all.
//!
//! | `v & 3` | operation | rest |
//! |---|---|---|
//! | 0 | one block of the current length | `v >> 2`: zigzag distance from the last block's offset |
//! | 1 | a run of blocks | as 0, then the numbers stride and count (≥ 2) |
//! | 2 | sets the current length (> 0) | `v >> 2` |
//! | 3 | sets the current region, and the last offset to 0 | `v >> 2`: index in the region table |

use alloc::vec::Vec;
use core::fmt;

use crate::{ProtocolError, varint};

/// Offsets and lengths end below this, so that sums of two never wrap.
const MAX_OFFSET: u64 = 1 << 60;
/// Largest unit: 1 GiB.
const MAX_SHIFT: u8 = 30;

const BLOCK: u64 = 0;
const RUN: u64 = 1;
const LENGTH: u64 = 2;
const REGION: u64 = 3;

/// `count` blocks of `len` bytes, the i-th at `offset + i · stride` of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Index in the request's region table.
    pub region: u32,
    /// Offset of the first block in the region, in bytes.
    pub offset: u64,
    /// Bytes in each block, not 0.
    pub len: u64,
    /// Bytes between the starts of two blocks.
    pub stride: u64,
    /// Number of blocks, not 0.
    pub count: u64,
}

impl Run {
    /// One block.
    pub fn single(region: u32, offset: u64, len: u64) -> Self {
        Self {
            region,
            offset,
            len,
            stride: len,
            count: 1,
        }
    }
}

/// Appends `runs` as a list to `out` and returns its unit's exponent. Blocks at equal distances become runs.
///
/// # Errors
/// `BadField` for an empty block or one that ends beyond 2^60.
pub fn encode_list<I: Iterator<Item = Run> + Clone>(
    runs: I,
    out: &mut Vec<u8>,
) -> Result<u8, ProtocolError> {
    let mut bits = 0;
    for r in runs.clone() {
        let step = if r.count > 1 { r.stride } else { 0 };
        bits |= r.offset | r.len | step;
        let extent = (r.count.wrapping_sub(1))
            .checked_mul(step)
            .and_then(|s| s.checked_add(r.len));
        let end = extent.and_then(|e| e.checked_add(r.offset));
        if r.len == 0 || r.count == 0 || end.is_none_or(|e| e > MAX_OFFSET) {
            return Err(ProtocolError::BadField("block"));
        }
    }
    let shift = (bits.trailing_zeros() as u8).min(MAX_SHIFT);
    let mut encoder = Encoder {
        out,
        shift,
        region: 0,
        len: 0,
        last: 0,
        pending: None,
    };
    for run in runs {
        encoder.push(run);
    }
    encoder.flush();
    Ok(shift)
}

struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    shift: u8,
    region: u32,
    len: u64,
    last: u64,
    pending: Option<Run>,
}

impl Encoder<'_> {
    fn push(&mut self, run: Run) {
        if let Some(p) = &mut self.pending
            && run.count == 1
            && (p.region, p.len) == (run.region, run.len)
            && run.offset >= p.offset
        {
            let step = run.offset - p.offset;
            if p.count == 1 {
                (p.stride, p.count) = (step, 2);
                return;
            }
            // `encode_list` has shown that every block ends below 2^60, so a block of `p` starts there too.
            if p.stride.checked_mul(p.count) == Some(step) {
                p.count += 1;
                return;
            }
        }
        self.flush();
        self.pending = Some(run);
    }

    fn flush(&mut self) {
        let Some(run) = self.pending.take() else {
            return;
        };
        if run.region != self.region {
            self.put(REGION, u64::from(run.region));
            (self.region, self.last) = (run.region, 0);
        }
        if run.len != self.len {
            self.put(LENGTH, run.len >> self.shift);
            self.len = run.len;
        }
        if run.count <= 2 {
            self.put_offset(BLOCK, run.offset);
            if run.count == 2 {
                self.put_offset(BLOCK, run.offset + run.stride);
            }
            return;
        }
        self.put_offset(RUN, run.offset);
        varint::put(self.out, run.stride >> self.shift);
        varint::put(self.out, run.count);
        self.last = run.offset + run.stride * (run.count - 1);
    }

    fn put_offset(&mut self, op: u64, offset: u64) {
        let delta = (offset >> self.shift) as i64 - (self.last >> self.shift) as i64;
        self.put(op, varint::zigzag(delta));
        self.last = offset;
    }

    fn put(&mut self, op: u64, v: u64) {
        varint::put(self.out, v << 2 | op);
    }
}

/// Why a list cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListError {
    /// The list is malformed: the peer broke the protocol.
    Protocol(ProtocolError),
    /// A block of this region (index in the request's table) reaches over the region's end.
    OutOfBounds(u32),
}

impl From<ProtocolError> for ListError {
    fn from(e: ProtocolError) -> Self {
        Self::Protocol(e)
    }
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(e) => e.fmt(f),
            Self::OutOfBounds(r) => write!(
                f,
                "a block reaches over the end of region {r} of the request"
            ),
        }
    }
}

impl core::error::Error for ListError {}

/// Contiguous bytes of one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index in the request's region table.
    pub region: u32,
    /// Offset in the region, in bytes.
    pub offset: u64,
    /// Bytes, not 0.
    pub len: u64,
}

/// A place in an encoded list, kept for the start of each chunk so that chunks can be served in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pos: u32,
    region: u32,
    /// Current block length and stride, in bytes.
    len: u64,
    stride: u64,
    /// Offset of the block that the next operation counts from.
    last: u64,
    /// Offset of the next byte, how many bytes its block still has, and how many blocks follow in the run.
    at: u64,
    rest: u64,
    blocks: u64,
    shift: u8,
}

impl Cursor {
    /// The start of a list with unit `1 << shift`.
    pub(crate) fn new(shift: u8) -> Result<Self, ProtocolError> {
        if shift > MAX_SHIFT {
            return Err(ProtocolError::BadField("shift"));
        }
        Ok(Self {
            pos: 0,
            region: 0,
            len: 0,
            stride: 0,
            last: 0,
            at: 0,
            rest: 0,
            blocks: 0,
            shift,
        })
    }

    /// The next contiguous bytes, at most `max` (> 0) of them; `None` at the end of the list.
    ///
    /// # Errors
    /// The list is malformed. Never happens on a list that was indexed by [`crate::OpenLayout::index`].
    #[inline]
    pub fn take(&mut self, list: &[u8], max: u64) -> Result<Option<Piece>, ProtocolError> {
        if self.rest == 0 {
            if self.blocks == 0 && self.load(list)?.is_none() {
                return Ok(None);
            }
            self.next_block();
        }
        let len = self.rest.min(max);
        let piece = Piece {
            region: self.region,
            offset: self.at,
            len,
        };
        self.at += len;
        self.rest -= len;
        Ok(Some(piece))
    }

    /// Moves on by exactly `bytes`, in constant time per operation of the list, showing each new run to `check`.
    pub(crate) fn skip(
        &mut self,
        list: &[u8],
        mut bytes: u64,
        mut check: impl FnMut(&Run) -> Result<(), ListError>,
    ) -> Result<(), ListError> {
        while bytes > 0 {
            if self.rest == 0 {
                if self.blocks == 0 {
                    let run = self
                        .load(list)?
                        .ok_or(ProtocolError::BadField("chunk lengths"))?;
                    check(&run)?;
                }
                let whole = (bytes / self.len).min(self.blocks);
                self.last += whole.saturating_sub(u64::from(whole == self.blocks)) * self.stride;
                self.blocks -= whole;
                bytes -= whole * self.len;
                if self.blocks == 0 || bytes == 0 {
                    continue;
                }
                self.next_block();
            }
            let n = self.rest.min(bytes);
            self.at += n;
            self.rest -= n;
            bytes -= n;
        }
        Ok(())
    }

    /// Whether every byte of the list has been taken; operations without a block do not count.
    pub(crate) fn at_end(&self, list: &[u8]) -> bool {
        self.rest == 0 && self.blocks == 0 && self.pos as usize == list.len()
    }

    /// Begins the next block of the current run. `last` stays at the run's last block when none follows.
    fn next_block(&mut self) {
        self.at = self.last;
        self.rest = self.len;
        self.blocks -= 1;
        if self.blocks > 0 {
            self.last += self.stride;
        }
    }

    /// Reads operations up to the next block or run.
    fn load(&mut self, list: &[u8]) -> Result<Option<Run>, ProtocolError> {
        let mut pos = self.pos as usize;
        while pos < list.len() {
            let v = varint::read(list, &mut pos)?;
            match v & 3 {
                LENGTH => {
                    self.len = self
                        .scale(v >> 2)
                        .filter(|l| *l > 0)
                        .ok_or(ProtocolError::BadField("length"))?
                }
                REGION => {
                    self.region =
                        u32::try_from(v >> 2).map_err(|_| ProtocolError::BadField("region"))?;
                    self.last = 0;
                }
                op => {
                    let (mut stride, mut count) = (0, 1);
                    if op == RUN {
                        stride = varint::read(list, &mut pos)?;
                        count = varint::read(list, &mut pos)?;
                    }
                    self.pos = pos as u32;
                    return self
                        .begin(varint::unzigzag(v >> 2), stride, count, op == RUN)
                        .map(Some);
                }
            }
        }
        self.pos = pos as u32;
        Ok(None)
    }

    fn begin(
        &mut self,
        delta: i64,
        stride: u64,
        count: u64,
        is_run: bool,
    ) -> Result<Run, ProtocolError> {
        const BAD: ProtocolError = ProtocolError::BadField("block");
        let units = (self.last >> self.shift)
            .checked_add_signed(delta)
            .ok_or(BAD)?;
        let offset = self.scale(units).ok_or(BAD)?;
        let stride = self.scale(stride).ok_or(BAD)?;
        if self.len == 0 || count == 0 || (is_run && count < 2) {
            return Err(BAD);
        }
        let extent = (count - 1)
            .checked_mul(stride)
            .and_then(|s| s.checked_add(self.len))
            .ok_or(BAD)?;
        if offset
            .checked_add(extent)
            .is_none_or(|end| end > MAX_OFFSET)
        {
            return Err(BAD);
        }
        self.len.checked_mul(count).ok_or(BAD)?;
        (self.last, self.stride, self.blocks) = (offset, stride, count);
        Ok(Run {
            region: self.region,
            offset,
            len: self.len,
            stride,
            count,
        })
    }

    fn scale(&self, units: u64) -> Option<u64> {
        let bytes = units.checked_mul(1 << self.shift)?;
        (bytes <= MAX_OFFSET).then_some(bytes)
    }
}
