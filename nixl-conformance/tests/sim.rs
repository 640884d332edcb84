//! The suite, for the simulated backend.

use nixl_conformance::sim::SimBackend;

nixl_conformance::suite!(sim, SimBackend::default(), "sim");
