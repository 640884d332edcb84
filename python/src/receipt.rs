//! Receipts.

use pyo3::prelude::*;

/// What a completed request did, and over which path.
#[pyclass(module = "nixl_rs", frozen)]
pub(crate) struct Receipt(pub(crate) nixl::Receipt);

#[pymethods]
impl Receipt {
    /// The path that moved the bytes.
    #[getter]
    fn path(&self) -> &'static str {
        self.0.path
    }

    /// Its lanes, as the backend names them.
    #[getter]
    fn lanes(&self) -> &str {
        &self.0.lanes
    }

    /// The peer is an agent of NIXL's.
    #[getter]
    fn foreign(&self) -> bool {
        self.0.foreign
    }

    /// "read" or "write".
    #[getter]
    fn op(&self) -> &'static str {
        self.0.op.as_str()
    }

    /// Bytes moved.
    #[getter]
    fn nbytes(&self) -> u64 {
        self.0.bytes
    }

    /// Blocks asked for.
    #[getter]
    fn descriptors(&self) -> u64 {
        self.0.descriptors
    }

    /// Blocks left after merging adjacent ones.
    #[getter]
    fn merged(&self) -> u64 {
        self.0.merged
    }

    /// Time that the post call took, in seconds.
    #[getter]
    fn post_time(&self) -> f64 {
        self.0.post_time.as_secs_f64()
    }

    /// Time from post to completion, in seconds.
    #[getter]
    fn total_time(&self) -> f64 {
        self.0.total_time.as_secs_f64()
    }

    /// Bytes per nanosecond, from post to completion.
    #[getter]
    fn gbps(&self) -> f64 {
        self.0.bytes as f64 / self.0.total_time.as_nanos().max(1) as f64
    }

    /// Attempts made; more than 1 means that a path failed first.
    #[getter]
    fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Paths that failed first, each with what it failed of.
    #[getter]
    fn failures(&self) -> Vec<(&'static str, String)> {
        let failures = self.0.failures.iter();
        failures
            .map(|(path, why)| (*path, why.to_string()))
            .collect()
    }

    fn __repr__(&self) -> String {
        let lanes = match &*self.0.lanes {
            "" => String::new(),
            lanes => format!(" ({lanes})"),
        };
        format!(
            "<Receipt: {} of {} bytes in {} blocks over {}{lanes}, {:.3} ms, {:.2} GB/s, {} attempt(s)>",
            self.op(),
            self.0.bytes,
            self.0.merged,
            self.0.path,
            self.0.total_time.as_secs_f64() * 1e3,
            self.gbps(),
            self.0.attempts
        )
    }
}
