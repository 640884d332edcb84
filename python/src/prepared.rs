//! Prepared lists.

use pyo3::prelude::*;

use crate::fork::Kept;

/// Blocks of this agent's memory, resolved once. Keeps their regions registered.
#[pyclass(module = "nixl_rs", frozen)]
pub(crate) struct PreparedLocal(pub(crate) Kept<nixl::PreparedLocal>);

#[pymethods]
impl PreparedLocal {
    fn __len__(&self) -> usize {
        self.0.list().len() as usize
    }

    fn __repr__(&self) -> String {
        let list = self.0.list();
        format!(
            "<PreparedLocal: {} blocks in {} regions>",
            list.len(),
            list.regions().len()
        )
    }
}

/// Blocks of a peer's memory, resolved once.
#[pyclass(module = "nixl_rs", frozen)]
pub(crate) struct PreparedRemote(pub(crate) Kept<nixl::PreparedRemote>);

#[pymethods]
impl PreparedRemote {
    /// The peer's name.
    #[getter]
    fn peer(&self) -> &str {
        self.0.peer()
    }

    fn __len__(&self) -> usize {
        self.0.list().len() as usize
    }

    fn __repr__(&self) -> String {
        let list = self.0.list();
        format!(
            "<PreparedRemote at {:?}: {} blocks in {} regions>",
            self.0.peer(),
            list.len(),
            list.regions().len()
        )
    }
}
