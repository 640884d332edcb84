//! The suite, for the simulated backend as it is by default and at its most unlike that.

use nixl_conformance::sim::{FaultPlan, SimBackend, SimConfig};
use nixl_core::Revocation;

nixl_conformance::suite!(sim, SimBackend::default(), "sim");

fn unlike() -> SimConfig {
    SimConfig {
        name: "sim-mapped",
        revocation: Revocation::Cooperative,
        needs_shareable: true,
        fences: false,
        seed: 2,
        faults: FaultPlan {
            reorder: true,
            ..FaultPlan::default()
        },
        ..SimConfig::default()
    }
}

nixl_conformance::suite!(mapped, SimBackend::new(unlike()), "sim-mapped");
