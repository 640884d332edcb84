//! Explanations and counters, as plain Python data.

use nixl::{
    MemKind, Op,
    negotiate::{Demand, Negotiation},
    telemetry::Snapshot,
};
use pyo3::{
    prelude::*,
    types::{PyDict, PyList},
};

/// The paths to a peer. `str()` of it is a table for people.
#[pyclass(module = "nixl_rs", frozen)]
pub(crate) struct Explanation(Negotiation);

impl Explanation {
    pub(crate) fn new(found: Negotiation) -> Self {
        Self(found)
    }
}

pub(crate) fn demand(op: Op, bytes: u64, blocks: u64, shareable: bool) -> Demand {
    Demand {
        op,
        local: MemKind::Dram,
        remote: MemKind::Dram,
        all_remote_shareable: shareable,
        descs: blocks,
        bytes,
    }
}

#[pymethods]
impl Explanation {
    /// The best path's name; None if there is none.
    #[getter]
    fn path(&self) -> Option<&'static str> {
        self.0.ranked.first().map(|best| best.path)
    }

    /// One dict for each path, best first, then the rejected ones.
    #[getter]
    fn rows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let rows = self.0.rows();
        let rows = rows.iter().map(|row| {
            let dict = PyDict::new(py);
            dict.set_item("path", row.path)?;
            dict.set_item("class", row.class.as_str())?;
            dict.set_item("rank", row.rank)?;
            let us = row.estimate_ns.map(|ns| ns as f64 / 1e3);
            dict.set_item("estimate_us", us)?;
            dict.set_item("measured", row.measured)?;
            dict.set_item("proven", row.proven)?;
            dict.set_item("flipped", row.flipped)?;
            dict.set_item("code", row.code)?;
            dict.set_item("reason", row.reason.as_deref())?;
            Ok(dict)
        });
        PyList::new(py, rows.collect::<PyResult<Vec<_>>>()?)
    }

    fn __str__(&self) -> String {
        self.0.to_string()
    }

    fn __repr__(&self) -> String {
        let names = |paths: Vec<&str>| paths.join(", ");
        format!(
            "<Explanation: usable [{}], rejected [{}]>",
            names(self.0.ranked.iter().map(|c| c.path).collect()),
            names(self.0.rejected.iter().map(|r| r.0).collect())
        )
    }
}

/// Everything an agent counts.
pub(crate) fn snapshot<'py>(py: Python<'py>, from: &Snapshot) -> PyResult<Bound<'py, PyDict>> {
    let paths = from.paths.iter().map(|path| {
        let dict = PyDict::new(py);
        dict.set_item("peer", &path.peer)?;
        dict.set_item("path", path.path)?;
        dict.set_item("op", path.op.as_str())?;
        dict.set_item("bytes", path.bytes)?;
        dict.set_item("descriptors", path.descriptors)?;
        dict.set_item("requests", path.requests)?;
        dict.set_item("errors", path.errors)?;
        dict.set_item("retries", path.retries)?;
        dict.set_item("us", path.micros)?;
        Ok(dict)
    });
    let all = PyDict::new(py);
    all.set_item("paths", paths.collect::<PyResult<Vec<_>>>()?)?;
    all.set_item("notifications_sent", from.notifications_sent)?;
    all.set_item("notifications_received", from.notifications_received)?;
    all.set_item("degraded", from.degraded)?;
    all.set_item("regions", from.regions)?;
    all.set_item("active_requests", from.active_requests)?;
    Ok(all)
}
