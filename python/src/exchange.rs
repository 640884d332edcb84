//! Metadata over the library's own listener.

use std::time::Duration;

use nixl::meta::{
    DEFAULT_LABEL,
    tcp::{self, Access, ClientConfig, MetaServer, ServerConfig, SharedKey},
};
use parking_lot::Mutex;
use pyo3::{prelude::*, types::PyBytes};

use crate::{agent::Agent, buffer, error::OrRaise, fork::Kept, seconds};

/// Hands out an agent's metadata, and takes that of others. Loopback only, unless there is a key.
#[pyclass(module = "nixl_rs", frozen)]
pub(crate) struct Listener {
    address: String,
    server: Kept<Mutex<Option<MetaServer>>>,
}

#[pymethods]
impl Listener {
    #[new]
    #[pyo3(signature = (agent, address = "127.0.0.1:0", *, key = None))]
    fn new(
        py: Python<'_>,
        agent: &Bound<'_, Agent>,
        address: &str,
        key: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let access = match shared_key(py, key)? {
            Some(key) => Access::Key(key),
            None => Access::LoopbackOnly,
        };
        let config = ServerConfig {
            listen: address.to_owned(),
            access,
            ..ServerConfig::default()
        };
        let server = agent.get().inner().detached(py, |agent| {
            MetaServer::start(config, nixl::metadata_handler(agent))
        })?;
        Ok(Self {
            address: server.local_addr().to_string(),
            server: Kept::new(Mutex::new(Some(server))),
        })
    }

    /// `host:port`, with the real port.
    #[getter]
    fn address(&self) -> &str {
        &self.address
    }

    /// Closes it; connections that run are given `grace` seconds.
    #[pyo3(signature = (grace = 1.0))]
    fn close(&self, py: Python<'_>, grace: f64) -> PyResult<()> {
        let grace = seconds(grace)?;
        let server = self.server.get().or_raise(py)?;
        let stop = || {
            let taken = server.lock().take();
            taken.map_or(Ok(()), |server| server.stop(grace))
        };
        py.detach(stop).or_raise(py)
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close(py, 1.0)
    }

    fn __repr__(&self) -> String {
        format!("<Listener on {}>", self.address)
    }
}

/// Fetches the metadata of the agent that listens at `address`.
#[pyfunction]
#[pyo3(signature = (address, *, key = None, timeout = 10.0))]
pub(crate) fn fetch_metadata<'py>(
    py: Python<'py>,
    address: &str,
    key: Option<&Bound<'py, PyAny>>,
    timeout: f64,
) -> PyResult<Bound<'py, PyBytes>> {
    let config = client(py, key, seconds(timeout)?)?;
    let blob = py.detach(|| tcp::fetch(address, DEFAULT_LABEL, &config));
    Ok(PyBytes::new(py, &blob.or_raise(py)?))
}

/// Gives `blob`, an agent's metadata, to the agent that listens at `address`; returns the name
/// under which that agent loaded it.
#[pyfunction]
#[pyo3(signature = (address, blob, *, key = None, timeout = 10.0))]
pub(crate) fn send_metadata(
    py: Python<'_>,
    address: &str,
    blob: &Bound<'_, PyAny>,
    key: Option<&Bound<'_, PyAny>>,
    timeout: f64,
) -> PyResult<String> {
    let config = client(py, key, seconds(timeout)?)?;
    let blob = buffer::to_vec(blob)?;
    py.detach(|| tcp::send(address, &blob, &config))
        .or_raise(py)
}

/// Tells the agent that listens at `address` to forget the agent `name`. Needs a key.
#[pyfunction]
#[pyo3(signature = (address, name, *, key = None, timeout = 10.0))]
pub(crate) fn forget_at(
    py: Python<'_>,
    address: &str,
    name: &str,
    key: Option<&Bound<'_, PyAny>>,
    timeout: f64,
) -> PyResult<()> {
    let config = client(py, key, seconds(timeout)?)?;
    py.detach(|| tcp::invalidate(address, name, &config))
        .or_raise(py)
}

/// What NIXL's setting `name` is, from its variable or its file.
#[pyfunction]
pub(crate) fn _nixl_setting(py: Python<'_>, name: &str) -> PyResult<Option<String>> {
    nixl::nixl_env::setting(name).or_raise(py)
}

fn client(
    py: Python<'_>,
    key: Option<&Bound<'_, PyAny>>,
    timeout: Duration,
) -> PyResult<ClientConfig> {
    Ok(ClientConfig {
        key: shared_key(py, key)?,
        timeout,
        ..ClientConfig::default()
    })
}

fn shared_key(py: Python<'_>, key: Option<&Bound<'_, PyAny>>) -> PyResult<Option<SharedKey>> {
    let Some(key) = key else { return Ok(None) };
    let bytes = buffer::to_vec(key)?;
    SharedKey::new(&bytes).map(Some).or_raise(py)
}
