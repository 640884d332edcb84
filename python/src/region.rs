//! Registered memory.

use std::sync::Arc;

use nixl::Span;
use pyo3::{
    prelude::*,
    types::{PyBytes, PyDict},
};

use crate::{buffer::Buffer, error::OrRaise, fork::Kept, inner::Inner, seconds};

/// Registered memory. It stays registered until `release()` or until its agent is closed; after
/// that, this object still keeps it allocated.
#[pyclass(module = "nixl_rs", frozen, weakref)]
pub(crate) struct Region {
    agent: Arc<Inner>,
    region: Kept<nixl::Region>,
}

impl Region {
    pub(crate) fn new(agent: &Arc<Inner>, region: nixl::Region) -> Self {
        Self {
            agent: agent.clone(),
            region: Kept::new(region),
        }
    }

    pub(crate) fn core(&self) -> nixl::Result<&nixl::Region> {
        self.region.get()
    }

    pub(crate) fn span(&self) -> Span {
        self.region.span()
    }
}

#[pymethods]
impl Region {
    /// First address.
    #[getter]
    fn address(&self) -> u64 {
        self.region.addr()
    }

    /// Length in bytes.
    #[getter]
    fn nbytes(&self) -> u64 {
        self.region.len()
    }

    /// Whether peers may write.
    #[getter]
    fn writable(&self) -> bool {
        self.region.is_writable()
    }

    /// Whether peers on this host can map it.
    #[getter]
    fn shareable(&self) -> bool {
        self.region.is_shareable()
    }

    /// Bytes in a page, for memory that the agent allocated; else None.
    #[getter]
    fn page_size(&self) -> Option<u64> {
        self.region.page_size()
    }

    /// Whether it was withdrawn: no new access may begin.
    #[getter]
    fn released(&self) -> bool {
        self.region.is_revoked()
    }

    fn __len__(&self) -> usize {
        self.region.len() as usize
    }

    /// Copies bytes out. A peer that writes meanwhile gives a mix of old and new.
    #[pyo3(signature = (offset = 0, nbytes = None))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        offset: u64,
        nbytes: Option<usize>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let region = self.core().or_raise(py)?;
        let rest = usize::try_from(region.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        // Refused before Python is asked for that much.
        let wanted = nbytes.unwrap_or(rest);
        if wanted > rest {
            region
                .read_at(offset.max(region.len()), &mut [0])
                .or_raise(py)?;
        }
        PyBytes::new_with(py, wanted, |out| region.read_at(offset, out).or_raise(py))
    }

    /// Copies bytes in.
    #[pyo3(signature = (data, offset = 0))]
    fn write(&self, py: Python<'_>, data: &Bound<'_, PyAny>, offset: u64) -> PyResult<()> {
        let data = Buffer::any(data, false)?;
        let region = self.core().or_raise(py)?;
        region.write_at(offset, data.bytes()).or_raise(py)
    }

    /// The memory itself, as a memoryview of bytes.
    fn view(this: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        this.py()
            .import("nixl_rs._views")?
            .call_method1("of", (this,))
    }

    /// What numpy.asarray(region) reads: the memory itself, as bytes.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("typestr", "|u1")?;
        interface.set_item("shape", (self.region.len(),))?;
        interface.set_item("data", (self.region.addr(), false))?;
        Ok(interface)
    }

    /// Withdraws it from peers and waits until nobody touches it.
    ///
    /// StillMappedError says who does; it stays withdrawn and allocated, call again to go on waiting.
    #[pyo3(signature = (timeout = 5.0))]
    fn release(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        let timeout = seconds(timeout)?;
        let region = self.core().or_raise(py)?;
        self.agent
            .detached(py, |agent| agent.deregister(region, timeout))
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.released() {
            return Ok(());
        }
        self.release(py, 5.0)
    }

    fn __repr__(&self) -> String {
        let word = |is: bool, word: &'static str| if is { word } else { "" };
        format!(
            "<Region of {} bytes at {:#x}{}{}{}>",
            self.region.len(),
            self.region.addr(),
            word(self.shareable(), ", shareable"),
            word(!self.writable(), ", read-only"),
            word(self.released(), ", released")
        )
    }
}
