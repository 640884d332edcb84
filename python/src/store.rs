//! Metadata through etcd, for the package `nixl`.

use nixl::store::EtcdStore;
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::{
    agent::{Agent, cores},
    error::OrRaise,
    fork::Kept,
    region::Region,
};

/// One agent's view of an etcd cluster.
#[pyclass(module = "nixl_rs", name = "_Store", frozen)]
pub(crate) struct Store(Kept<Mutex<Option<EtcdStore>>>);

impl Store {
    fn with(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&EtcdStore) -> nixl::Result<()> + Send,
    ) -> PyResult<()> {
        let store = self.0.get().or_raise(py)?;
        let called = py.detach(|| store.lock().as_ref().map_or(Ok(()), f));
        called.or_raise(py)
    }
}

#[pymethods]
impl Store {
    #[new]
    #[pyo3(signature = (agent, endpoints, namespace = None))]
    fn new(
        py: Python<'_>,
        agent: &Bound<'_, Agent>,
        endpoints: Vec<String>,
        namespace: Option<String>,
    ) -> PyResult<Self> {
        let store = agent
            .get()
            .inner()
            .detached(py, |agent| EtcdStore::connect(agent, endpoints, namespace))?;
        Ok(Self(Kept::new(Mutex::new(Some(store)))))
    }

    /// Publishes the agent: all of it, or some regions.
    #[pyo3(signature = (label = None, regions = None))]
    fn send(
        &self,
        py: Python<'_>,
        label: Option<&str>,
        regions: Option<Vec<Bound<'_, Region>>>,
    ) -> PyResult<()> {
        let regions = regions.map(|some| cores(py, &some)).transpose()?;
        self.with(py, |store| store.send(label, regions.as_deref()))
    }

    /// Loads a peer, which is removed when its metadata vanishes.
    #[pyo3(signature = (peer, label = None))]
    fn fetch(&self, py: Python<'_>, peer: &str, label: Option<&str>) -> PyResult<()> {
        self.with(py, |store| store.fetch(peer, label))
    }

    /// Removes what the agent published.
    fn invalidate(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, EtcdStore::invalidate)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let Ok(store) = self.0.get() else { return };
        if let Some(store) = store.lock().take() {
            // What cannot be removed vanishes by itself.
            Python::attach(|py| py.detach(|| store.close())).ok();
        }
    }
}
