//! Simulated backend, fault plans and the suite every backend passes.
