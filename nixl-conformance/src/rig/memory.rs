//! Blocks scattered over regions, filled with bytes that name block and offset.

use std::{ops::Range, sync::LazyLock};

use nixl_core::{DescList, MemKind, Region, RegionCard, Run};

use super::node::{Memory, Node};

/// What stands around blocks, and in blocks that nobody has written yet.
pub const GUARD: u8 = 0xa5;

/// Bytes before the first block of a region: odd, so that nothing is aligned by luck.
const HEAD: usize = 67;
/// Bytes after the last block.
const TAIL: usize = 13;

/// Bytes of block `block`: each page of it is cut from noise at a place that follows from seed,
/// block and page, so that bytes of another block, offset or seed do not pass for it.
pub fn pattern(seed: u64, block: u64, len: usize) -> Vec<u8> {
    let base = crate::mix(seed << 32 | block);
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        let place = crate::mix(base ^ out.len() as u64) as usize % (NOISE.len() - PAGE);
        let take = PAGE.min(len - out.len());
        out.extend_from_slice(&NOISE[place..place + take]);
    }
    out
}

const PAGE: usize = 4096;

static NOISE: LazyLock<Box<[u8]>> = LazyLock::new(|| {
    (0..32 << 10)
        .flat_map(|i| crate::mix(0x006e_6f69_7365 ^ i).to_le_bytes())
        .collect()
});

/// How the blocks of a list lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Back to back, in order: everything merges.
    Adjacent,
    /// Gaps between them, in order, described by strided runs.
    Strided,
    /// Gaps between them, in random order.
    Random,
}

/// `count` blocks of `len` bytes each, over one or more regions of one agent.
pub struct Spread {
    /// The regions.
    pub regions: Vec<Region>,
    layout: Layout,
    len: usize,
    stride: usize,
    /// Blocks in each region but perhaps the last.
    share: usize,
    /// Per block: its region and offset there.
    blocks: Vec<(usize, usize)>,
}

impl Spread {
    /// Registers a region for each of `memories`, as far as there are blocks, and lays out
    /// `count` blocks of `len` bytes.
    pub fn new(
        node: &Node,
        memories: &[Memory],
        layout: Layout,
        (count, len): (usize, usize),
        seed: u64,
    ) -> Self {
        let stride = match layout {
            Layout::Adjacent => len,
            Layout::Strided => len + len.min(64 << 10),
            Layout::Random => len + 5,
        };
        let share = count.div_ceil(memories.len());
        let mut blocks: Vec<(usize, usize)> = (0..count)
            .map(|i| (i / share, HEAD + i % share * stride))
            .collect();
        if layout == Layout::Random {
            shuffle(&mut blocks, seed);
        }
        let size = HEAD + (share - 1) * stride + len + TAIL;
        let used = &memories[..count.div_ceil(share)];
        Self {
            regions: used.iter().map(|m| node.region(*m, size)).collect(),
            layout,
            len,
            stride,
            share,
            blocks,
        }
    }

    /// One block of `len` bytes in one region.
    pub fn single(node: &Node, memory: Memory, len: usize) -> Self {
        Self::new(node, &[memory], Layout::Adjacent, (1, len), 0)
    }

    /// The blocks as descriptors; strided layouts as one run a region.
    pub fn list(&self) -> DescList {
        if self.layout != Layout::Strided {
            return self.part(0..self.blocks.len());
        }
        let mut list = DescList::new(MemKind::Dram);
        for first in (0..self.blocks.len()).step_by(self.share) {
            list.push_run(Run {
                addr: self.addr(first),
                len: self.len as u64,
                dev: 0,
                stride: self.stride as u64,
                count: self.share.min(self.blocks.len() - first) as u64,
            });
        }
        list
    }

    /// One descriptor for each of some blocks.
    pub fn part(&self, which: Range<usize>) -> DescList {
        DescList::dram(which.map(|i| (self.addr(i), self.len as u64)))
    }

    fn addr(&self, block: usize) -> u64 {
        let (region, offset) = self.blocks[block];
        self.regions[region].addr() + offset as u64
    }

    /// What peers are told about the regions.
    pub fn cards(&self) -> Vec<RegionCard> {
        self.regions.iter().map(Region::card).collect()
    }

    /// Writes the pattern of `seed` into every block and the guard everywhere else.
    pub fn fill(&self, seed: u64) {
        self.put(&self.picture(&|block| pattern(seed, block, self.len)));
    }

    /// Writes the guard everywhere.
    pub fn clear(&self) {
        self.put(&self.picture(&|_| vec![GUARD; self.len]));
    }

    /// Every block holds the pattern of `seed`, everything else the guard.
    pub fn check(&self, seed: u64, what: &str) {
        self.compare(&self.picture(&|block| pattern(seed, block, self.len)), what);
    }

    /// Nothing was written since [`Spread::clear`].
    pub fn check_untouched(&self, what: &str) {
        self.compare(&self.picture(&|_| vec![GUARD; self.len]), what);
    }

    /// Of the blocks, those that `which` picks hold the pattern of `seed`; the rest is the guard.
    pub fn check_some(&self, seed: u64, which: &dyn Fn(usize) -> bool, what: &str) {
        let block = |n: u64| match which(n as usize) {
            true => pattern(seed, n, self.len),
            false => vec![GUARD; self.len],
        };
        self.compare(&self.picture(&block), what);
    }

    /// The bytes of one block.
    pub fn block(&self, n: usize) -> Vec<u8> {
        let (region, offset) = self.blocks[n];
        let mut bytes = vec![0; self.len];
        let read = self.regions[region].read_at(offset as u64, &mut bytes);
        read.expect("inside the region");
        bytes
    }

    /// Whether every block holds the pattern of `seed` and everything else the guard.
    pub fn holds(&self, seed: u64) -> bool {
        self.bytes() == self.picture(&|block| pattern(seed, block, self.len))
    }

    /// Every byte in a block is the pattern of `seed` or the guard, everything else the guard.
    pub fn check_partly(&self, seed: u64, what: &str) {
        let mut want = self.picture(&|_| vec![GUARD; self.len]);
        let now = self.bytes();
        for (i, &(region, offset)) in self.blocks.iter().enumerate() {
            let place = offset..offset + self.len;
            let (now, want) = (&now[region][place.clone()], &mut want[region][place]);
            let moved = pattern(seed, i as u64, self.len);
            for ((now, want), moved) in now
                .chunks(64)
                .zip(want.chunks_mut(64))
                .zip(moved.chunks(64))
            {
                accept(now, want, moved);
            }
        }
        self.compare(&want, what);
    }

    /// All bytes of all regions as they are now.
    pub fn bytes(&self) -> Vec<Vec<u8>> {
        let read = |region: &Region| {
            let mut bytes = vec![0; region.len() as usize];
            region.read_at(0, &mut bytes).expect("inside the region");
            bytes
        };
        self.regions.iter().map(read).collect()
    }

    fn picture(&self, block: &dyn Fn(u64) -> Vec<u8>) -> Vec<Vec<u8>> {
        let blank = |region: &Region| vec![GUARD; region.len() as usize];
        let mut pictures: Vec<_> = self.regions.iter().map(blank).collect();
        for (i, &(region, offset)) in self.blocks.iter().enumerate() {
            pictures[region][offset..offset + self.len].copy_from_slice(&block(i as u64));
        }
        pictures
    }

    fn put(&self, picture: &[Vec<u8>]) {
        for (region, bytes) in self.regions.iter().zip(picture) {
            region.write_at(0, bytes).expect("inside the region");
        }
    }

    fn compare(&self, want: &[Vec<u8>], what: &str) {
        for (region, (now, want)) in self.bytes().iter().zip(want).enumerate() {
            if now != want {
                let at = now.iter().zip(want).position(|(n, w)| n != w);
                let at = at.expect("they differ and are equally long");
                panic!(
                    "{what}: region {region}, byte {at} ({}) is {:#04x}, not {:#04x}",
                    self.place(region, at),
                    now[at],
                    want[at]
                );
            }
        }
    }

    fn place(&self, region: usize, at: usize) -> String {
        let holds = |&(r, offset): &(usize, usize)| {
            r == region && (offset..offset + self.len).contains(&at)
        };
        match self.blocks.iter().position(holds) {
            Some(block) => {
                format!(
                    "block {block}, offset {} of {}",
                    at - self.blocks[block].1,
                    self.len
                )
            }
            None => "outside every block".to_owned(),
        }
    }
}

/// Takes into `want` what of `now` comes from `moved`.
fn accept(now: &[u8], want: &mut [u8], moved: &[u8]) {
    if now == moved {
        want.copy_from_slice(moved);
    } else if now != want {
        for i in 0..now.len() {
            if now[i] == moved[i] {
                want[i] = moved[i];
            }
        }
    }
}

/// Fisher and Yates, with numbers that follow from `seed`.
fn shuffle<T>(items: &mut [T], seed: u64) {
    for i in (1..items.len()).rev() {
        let draw = crate::mix(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i as u64);
        items.swap(i, (draw % (i as u64 + 1)) as usize);
    }
}
