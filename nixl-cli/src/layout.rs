//! Where blocks lie and in which order they are named.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a benchmark's blocks lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Layout {
    /// One after the other: everything merges.
    Adjacent,
    /// Every other block, in order.
    Strided,
    /// Random order; no two adjacent blocks in sequence.
    Random,
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "adjacent" => Ok(Self::Adjacent),
            "strided" => Ok(Self::Strided),
            "random" => Ok(Self::Random),
            _ => Err("one of adjacent, strided, random".to_owned()),
        }
    }
}

impl Layout {
    /// Its name in reports.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Adjacent => "adjacent",
            Self::Strided => "strided",
            Self::Random => "random",
        }
    }

    /// Slots that `count` blocks need.
    pub(crate) fn slots(self, count: u64) -> u64 {
        match self {
            Self::Adjacent | Self::Random => count,
            Self::Strided => count.saturating_mul(2),
        }
    }

    /// The slot of each of `count` blocks.
    pub(crate) fn order(self, count: u64, seed: u64) -> Vec<u64> {
        match self {
            Self::Adjacent => (0..count).collect(),
            Self::Strided => (0..count).map(|i| 2 * i).collect(),
            Self::Random => random(count, seed),
        }
    }
}

/// A permutation in which no slot follows its neighbour, from three slots on (with fewer there is
/// none in ascending sequence but the reverse).
fn random(count: u64, seed: u64) -> Vec<u64> {
    let mut rng = Rng(seed);
    let mut order: Vec<u64> = (0..count).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, rng.below(i as u64 + 1) as usize);
    }
    let n = order.len();
    if n < 2 {
        return order;
    }
    let adjacent = |order: &[u64], i: usize| i + 1 < n && order[i] + 1 == order[i + 1];
    // Swapping one of the two with any other place mends it, nearly always at the first try.
    while let Some(i) = (0..n).find(|i| adjacent(&order, *i)) {
        if n < 3 {
            order.reverse();
            break;
        }
        let other = rng.below(n as u64) as usize;
        order.swap(i, other);
    }
    order
}

/// SplitMix64: small, seeded, the same everywhere.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_order_is_a_permutation_without_neighbours() {
        for count in [1, 2, 3, 4, 5, 16, 1000, 16_000] {
            for seed in 0..5 {
                let order = Layout::Random.order(count, seed);
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert!(sorted.iter().copied().eq(0..count));
                assert!(order.windows(2).all(|w| w[0] + 1 != w[1]), "{count} {seed}");
            }
        }
        assert_ne!(Layout::Random.order(100, 1), Layout::Random.order(100, 2));
    }

    #[test]
    fn strided_takes_every_other_slot() {
        assert_eq!(Layout::Strided.order(3, 0), [0, 2, 4]);
        assert_eq!(Layout::Strided.slots(3), 6);
    }
}
