//! Costs, advertised first and corrected by measurement.

use std::collections::BTreeMap;

use super::Demand;
use crate::{Cost, Op, PathCaps, PathName};

/// Where an estimate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CostSource {
    /// The backend's own claim.
    Advertised,
    /// That claim, corrected by transfers of about this size.
    Measured,
}

/// No correction goes beyond 2^6 = 64, in either direction.
const BOUND_LOG2: f64 = 6.0;
/// Least weight of a new sample; the first ones weigh 1/2 and 1/3.
const WEIGHT: f64 = 0.25;
/// What a path keeps of its correction each time that another one is measured.
const KEEP: f64 = 255.0 / 256.0;

/// How much slower than advertised a path is, as a running mean of logarithms: one stalled
/// transfer moves it by a factor, not by its whole length.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Correction {
    log2: f64,
    samples: u8,
}

impl Correction {
    const NONE: Self = Self {
        log2: 0.0,
        samples: 0,
    };

    /// The claim itself counts as one sample, so that a cold first transfer does not decide alone.
    fn add(&mut self, log2: f64) {
        let weight = (1.0 / (f64::from(self.samples) + 2.0)).max(WEIGHT);
        self.log2 += weight * (log2.clamp(-BOUND_LOG2, BOUND_LOG2) - self.log2);
        self.samples = self.samples.saturating_add(1);
    }

    fn apply(self, cost: Cost) -> Cost {
        let ratio = self.log2.exp2();
        let slower = |ns: u64| (ns as f64 * ratio) as u64;
        let least = cost.bytes_per_sec.min(1);
        Cost {
            latency_ns: slower(cost.latency_ns),
            per_desc_ns: slower(cost.per_desc_ns),
            bytes_per_sec: ((cost.bytes_per_sec as f64 / ratio) as u64).max(least),
        }
    }
}

/// Corrections for one peer, per path, direction and size class. Plain data: its owner locks it.
#[derive(Clone, Debug, Default)]
pub struct CostBook {
    paths: BTreeMap<(Op, u8), Vec<(PathName, Correction)>>,
}

/// Size class: below 4 KiB, 64 KiB, 1 MiB, ... each 16 times the one before.
fn class(bytes: u64) -> u8 {
    let bits = 64 - bytes.max(1).leading_zeros();
    (bits.saturating_sub(9) / 4) as u8
}

impl CostBook {
    /// A transfer of `descs` merged descriptors, `bytes` in all, over `caps` took `nanos`.
    ///
    /// Whatever else `nanos` holds (connecting, proving, failed attempts, waiting behind other
    /// requests) is taken for slowness of the path. Allocates only for the first sample of a path,
    /// direction and size class.
    ///
    /// The other paths of that direction and class lose a little of their corrections: one that was
    /// found slow and is not used any more gets another chance some hundred transfers later.
    pub fn record(&mut self, caps: &PathCaps, op: Op, descs: u64, bytes: u64, nanos: u64) {
        let estimate = caps.cost.estimate_ns(descs, bytes).max(1);
        let log2 = (nanos.max(1) as f64 / estimate as f64).log2();
        let paths = self.paths.entry((op, class(bytes))).or_default();
        let mut known = false;
        for (path, correction) in paths.iter_mut() {
            if *path == caps.path {
                correction.add(log2);
                known = true;
            } else {
                correction.log2 *= KEEP;
            }
        }
        if !known {
            let mut first = Correction::NONE;
            first.add(log2);
            paths.push((caps.path, first));
        }
    }

    /// The cost of a path for a demand, corrected where something was measured.
    pub fn cost(&self, caps: &PathCaps, demand: &Demand) -> (Cost, CostSource) {
        let paths = self.paths.get(&(demand.op, class(demand.bytes)));
        let known = paths.and_then(|paths| paths.iter().find(|(path, _)| *path == caps.path));
        match known {
            None => (caps.cost, CostSource::Advertised),
            Some((_, correction)) => (correction.apply(caps.cost), CostSource::Measured),
        }
    }
}
