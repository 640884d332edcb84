//! Bytes that name their block, so that a misplaced one is found.

use nixl::Region;

const PAGE: usize = 64 << 10;

/// The word at `index` of block `block` under `seed`: all three in every word.
fn word(seed: u64, block: u64, index: u64) -> u64 {
    (seed ^ (block << 24) ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ block.rotate_left(40)
}

/// Fills `out` with block `block`'s bytes from `offset` (a multiple of 8) on.
fn render(seed: u64, block: u64, offset: u64, out: &mut [u8]) {
    for (i, chunk) in out.chunks_mut(8).enumerate() {
        let bytes = word(seed, block, offset / 8 + i as u64).to_le_bytes();
        chunk.copy_from_slice(&bytes[..chunk.len()]);
    }
}

/// Blocks of `block_bytes` in `region`: block i stands in slot `slots[i]`.
pub(crate) struct Blocks<'a> {
    /// Memory.
    pub(crate) region: &'a Region,
    /// Offset of slot 0.
    pub(crate) start: u64,
    /// Slot of each block.
    pub(crate) slots: &'a [u64],
    /// Bytes in a block.
    pub(crate) block_bytes: u64,
}

impl Blocks<'_> {
    fn pieces(&self) -> impl Iterator<Item = (u64, u64, u64, usize)> + '_ {
        self.slots
            .iter()
            .enumerate()
            .flat_map(move |(block, slot)| {
                let at = self.start + slot * self.block_bytes;
                (0..self.block_bytes).step_by(PAGE).map(move |offset| {
                    let len = (self.block_bytes - offset).min(PAGE as u64) as usize;
                    (block as u64, offset, at + offset, len)
                })
            })
    }

    /// Writes every block's bytes.
    pub(crate) fn fill(&self, seed: u64) -> nixl::Result<()> {
        let mut page = vec![0; PAGE];
        for (block, offset, at, len) in self.pieces() {
            render(seed, block, offset, &mut page[..len]);
            self.region.write_at(at, &page[..len])?;
        }
        Ok(())
    }

    /// Compares every byte of every block; the first block that differs.
    pub(crate) fn check(&self, seed: u64) -> nixl::Result<Option<u64>> {
        let (mut want, mut got) = (vec![0; PAGE], vec![0; PAGE]);
        for (block, offset, at, len) in self.pieces() {
            render(seed, block, offset, &mut want[..len]);
            self.region.read_at(at, &mut got[..len])?;
            if want[..len] != got[..len] {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// Makes sure that no block has its bytes: a transfer that moves nothing is found out.
    pub(crate) fn poison(&self) -> nixl::Result<()> {
        let page = vec![0xba; PAGE];
        for (_, _, at, len) in self.pieces() {
            self.region.write_at(at, &page[..len])?;
        }
        Ok(())
    }
}
