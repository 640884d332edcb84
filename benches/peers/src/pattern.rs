//! Bytes that name the block they belong to.

use crate::job::{Job, Op};
use crate::layout;

/// What a destination holds before anything arrived.
const BLANK: u8 = 0xa5;

/// Fills a region: each block with its own pattern if it is the source, else blank.
pub(crate) fn prepare(job: &Job, region: &mut [u8]) {
    if !job.is_source() {
        region.fill(BLANK);
        return;
    }
    for (number, block) in region.chunks_mut(job.block).enumerate() {
        for (at, bytes) in block.chunks_mut(8).enumerate() {
            bytes.copy_from_slice(&word(number, at)[..bytes.len()]);
        }
    }
}

/// Whether each block of a destination holds the source's block that was moved there, and
/// every other block is still blank.
pub(crate) fn holds(job: &Job, region: &[u8]) -> bool {
    let mut expected = vec![None; region.len() / job.block];
    for (local, remote) in layout::pairs(job) {
        let (source, destination) = match job.op {
            Op::Read => (remote, local),
            Op::Write => (local, remote),
        };
        expected[destination] = Some(source);
    }
    let blocks = region.chunks(job.block).zip(expected);
    blocks.into_iter().all(|(block, source)| match source {
        Some(number) => is_block(block, number),
        None => block.iter().all(|byte| *byte == BLANK),
    })
}

fn is_block(block: &[u8], number: usize) -> bool {
    let mut words = block.chunks(8).enumerate();
    words.all(|(at, bytes)| bytes == &word(number, at)[..bytes.len()])
}

fn word(block: usize, at: usize) -> [u8; 8] {
    let name = (block as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    name.wrapping_add((at as u64).wrapping_mul(0xd6e8_feb8_6659_fd93))
        .to_le_bytes()
}
