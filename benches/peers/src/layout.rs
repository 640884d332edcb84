//! Which bytes of either side belong together.

use crate::job::{Job, Layout};

/// Longest piece that adjacent blocks are merged to, in bytes: small enough to share among
/// threads, and 1024 of them are below what one system call moves.
const MERGED: usize = 1 << 20;

/// Bytes to move, as offsets into the two regions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// In the region of the process that measures.
    pub(crate) local: usize,
    pub(crate) remote: usize,
    pub(crate) len: usize,
}

/// Block numbers in the order in which they are moved: local and remote.
pub(crate) fn pairs(job: &Job) -> Vec<(usize, usize)> {
    let side = |salt: u64| -> Vec<usize> {
        match job.layout {
            Layout::Adjacent => (0..job.count).collect(),
            Layout::Strided => (0..job.count).map(|i| 2 * i).collect(),
            Layout::Random => scattered(job.count, job.seed ^ salt),
        }
    };
    let remote = side(0x9e37_79b9_7f4a_7c15);
    side(0).into_iter().zip(remote).collect()
}

/// What to move, blocks that adjoin on both sides merged, pieces over 1 MiB cut.
pub(crate) fn pieces(job: &Job) -> Vec<Piece> {
    let mut runs: Vec<Piece> = Vec::with_capacity(job.count);
    for (local, remote) in pairs(job) {
        let (local, remote, len) = (local * job.block, remote * job.block, job.block);
        match runs.last_mut() {
            Some(last) if (last.local + last.len, last.remote + last.len) == (local, remote) => {
                last.len += len;
            }
            _ => runs.push(Piece { local, remote, len }),
        }
    }
    runs.into_iter().flat_map(cut).collect()
}

fn cut(run: Piece) -> impl Iterator<Item = Piece> {
    (0..run.len).step_by(MERGED).map(move |at| Piece {
        local: run.local + at,
        remote: run.remote + at,
        len: MERGED.min(run.len - at),
    })
}

/// `0..count` shuffled, no two neighbours in sequence (which takes at least four).
fn scattered(count: usize, seed: u64) -> Vec<usize> {
    let mut random = SplitMix(seed);
    let mut order: Vec<usize> = (0..count).collect();
    for i in (1..count).rev() {
        order.swap(i, random.below(i + 1));
    }
    if count < 4 {
        return order;
    }
    while let Some(at) = (1..count).find(|&i| order[i - 1].abs_diff(order[i]) == 1) {
        order.swap(at, random.below(count));
    }
    order
}

struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(x ^ (x >> 31)) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(layout: &str, block: usize, count: usize) -> Job {
        let args = format!("--peer cma --layout {layout} --block {block} --count {count}");
        Job::parse(args.split(' ').map(str::to_owned)).unwrap()
    }

    #[test]
    fn random_order_is_a_permutation_without_neighbours() {
        for count in [4, 5, 6, 100, 4096] {
            for seed in 0..20 {
                let order = scattered(count, seed);
                assert!(order.windows(2).all(|w| w[0].abs_diff(w[1]) > 1));
                let mut sorted = order;
                sorted.sort_unstable();
                assert!(sorted.into_iter().eq(0..count));
            }
        }
    }

    #[test]
    fn the_two_sides_differ_when_random() {
        assert!(pairs(&job("random", 8, 64)).iter().any(|(l, r)| l != r));
    }

    #[test]
    fn only_adjacent_blocks_merge() {
        assert_eq!(pieces(&job("adjacent", 1000, 2000)).len(), 2);
        assert_eq!(pieces(&job("strided", 1000, 2000)).len(), 2000);
        assert_eq!(pieces(&job("random", 1000, 2000)).len(), 2000);
        let long = pieces(&job("adjacent", 5 << 19, 2));
        assert_eq!(long.iter().map(|p| p.len).sum::<usize>(), 5 << 20);
        assert!(long.iter().all(|p| p.local == p.remote && p.len == MERGED));
    }
}
