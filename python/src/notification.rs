//! Notifications.

use pyo3::{prelude::*, types::PyBytes};

/// Bytes that another agent sent along with a transfer or alone.
#[pyclass(module = "nixl_rs", frozen)]
pub(crate) struct Notification(pub(crate) nixl::Notification);

#[pymethods]
impl Notification {
    /// The sender's name.
    #[getter]
    fn sender(&self) -> &str {
        &self.0.from
    }

    /// The sender's incarnation.
    #[getter]
    fn generation(&self) -> u64 {
        self.0.generation.0
    }

    /// The sender is loaded here and proved who it is; else its name is a claim.
    #[getter]
    fn verified(&self) -> bool {
        self.0.verified
    }

    /// The bytes.
    #[getter]
    fn data<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.data)
    }

    fn __repr__(&self) -> String {
        let shown = &self.0.data[..self.0.data.len().min(32)];
        let more = if shown.len() < self.0.data.len() {
            "..."
        } else {
            ""
        };
        let claim = if self.0.verified {
            ""
        } else {
            ", not verified"
        };
        format!(
            "<Notification from {:?}{claim}: {} bytes: b\"{}\"{more}>",
            self.0.from,
            self.0.data.len(),
            shown.escape_ascii()
        )
    }
}
