//! Costs, advertised first and corrected by measurement.

use std::collections::HashMap;

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

/// Weight of a new sample.
const ALPHA: f64 = 0.25;
/// No correction goes beyond this factor, in either direction.
const BOUND: f64 = 64.0;

/// Corrections for one peer, per path, direction and size class.
#[derive(Clone, Debug, Default)]
pub struct CostBook {
    ratios: HashMap<(PathName, Op, u8), f64>,
}

/// Size class: 4 KiB, 64 KiB, 1 MiB, ... each 16 times the one before.
fn class(bytes: u64) -> u8 {
    let bits = 64 - bytes.max(1).leading_zeros();
    (bits.saturating_sub(9) / 4) as u8
}

impl CostBook {
    /// A transfer over `caps` took `nanos`. Allocates only for the first sample of its kind.
    pub fn record(&mut self, caps: &PathCaps, op: Op, descs: u64, bytes: u64, nanos: u64) {
        let estimate = caps.cost.estimate_ns(descs, bytes).max(1);
        let sample = (nanos.max(1) as f64 / estimate as f64).clamp(1.0 / BOUND, BOUND);
        self.ratios
            .entry((caps.path, op, class(bytes)))
            .and_modify(|ratio| *ratio += ALPHA * (sample - *ratio))
            .or_insert(sample);
    }

    /// The cost of a path for a demand, corrected where something was measured.
    pub fn cost(&self, caps: &PathCaps, demand: &Demand) -> (Cost, CostSource) {
        let key = (caps.path, demand.op, class(demand.bytes));
        match self.ratios.get(&key) {
            None => (caps.cost, CostSource::Advertised),
            Some(ratio) => {
                let slower = |ns: u64| (ns as f64 * ratio) as u64;
                let cost = Cost {
                    latency_ns: slower(caps.cost.latency_ns),
                    per_desc_ns: slower(caps.cost.per_desc_ns),
                    bytes_per_sec: (caps.cost.bytes_per_sec as f64 / ratio).max(1.0) as u64,
                };
                (cost, CostSource::Measured)
            }
        }
    }
}
