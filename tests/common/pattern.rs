//! Bytes that say where they belong, and block orders in which nothing merges.

/// SplitMix64: small, seeded, the same everywhere.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Offsets of `count` blocks in random order, a block's length left free after each.
pub fn offsets(count: usize, block: u64, seed: u64) -> Vec<u64> {
    let mut rng = Rng(seed);
    let mut order: Vec<u64> = (0..count as u64).map(|i| 2 * i * block).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, (rng.next() % (i as u64 + 1)) as usize);
    }
    order
}

/// Bytes that `count` blocks and the gaps between them take.
pub fn span(count: usize, block: u64) -> u64 {
    2 * count as u64 * block
}

/// What memory holds where nothing was moved.
pub const GAP: u8 = 0xee;

/// A whole region: block `i` of `offsets` holds the bytes of number `i` under `seed`.
pub fn image(offsets: &[u64], block: u64, seed: u64) -> Vec<u8> {
    let mut bytes = vec![GAP; span(offsets.len(), block) as usize];
    for (i, offset) in offsets.iter().enumerate() {
        let mut rng = Rng(seed ^ (i as u64) << 20);
        let place = &mut bytes[*offset as usize..][..block as usize];
        for chunk in place.chunks_mut(8) {
            chunk.copy_from_slice(&rng.next().to_le_bytes()[..chunk.len()]);
        }
    }
    bytes
}
