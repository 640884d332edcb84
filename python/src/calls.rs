//! The calls of the package `nixl` that an engine makes for every request.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use pyo3::{
    intern,
    prelude::*,
    types::{PyDict, PyTuple},
};

use crate::{
    agent::Agent,
    prepared::{PreparedLocal, PreparedRemote},
    transfer::{Transfer, Wanted},
};

/// What NIXL's agent is built on: its lists and transfers by number, and what makes and releases a
/// transfer. Whatever is out of the ordinary is left to the class in Python, which can do all of it.
#[pyclass(module = "nixl_rs", name = "_Calls", subclass, frozen)]
pub(crate) struct Calls {
    #[pyo3(get)]
    _lists: Py<PyDict>,
    #[pyo3(get)]
    _transfers: Py<PyDict>,
    last: AtomicU64,
    known: OnceLock<Known>,
}

struct Known {
    agent: Py<Agent>,
    /// NIXL's values for the operation "read", and for success.
    read: Py<PyAny>,
    success: Py<PyAny>,
}

#[pymethods]
impl Calls {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        py: Python<'_>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> Self {
        Self {
            _lists: PyDict::new(py).unbind(),
            _transfers: PyDict::new(py).unbind(),
            last: AtomicU64::new(0),
            known: OnceLock::new(),
        }
    }

    /// Without it every call goes the long way.
    fn _know(&self, agent: Py<Agent>, read: Py<PyAny>, success: Py<PyAny>) {
        let known = Known {
            agent,
            read,
            success,
        };
        // The first ones stay.
        self.known.set(known).ok();
    }

    /// The number of the next list or transfer.
    fn _number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    #[pyo3(name = "makeXferReq", signature = (
        operation, local_side, local_indices, remote_side, remote_indices, notif_msg = None,
        backend = None, skip_desc_merg = None
    ))]
    #[allow(clippy::too_many_arguments)] // NIXL's
    fn make<'py>(
        slf: &Bound<'py, Self>,
        operation: &Bound<'py, PyAny>,
        local_side: &Bound<'py, PyAny>,
        local_indices: &Bound<'py, PyAny>,
        remote_side: &Bound<'py, PyAny>,
        remote_indices: &Bound<'py, PyAny>,
        notif_msg: Option<&Bound<'py, PyAny>>,
        backend: Option<&Bound<'py, PyAny>>,
        skip_desc_merg: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let merges = !skip_desc_merg.map_or(Ok(false), |skip| skip.is_truthy())?;
        let sides = [local_side, local_indices, remote_side, remote_indices];
        if let Some(number) = slf.get().made(operation, sides, notif_msg, merges) {
            return Ok(number.into_pyobject(py)?.into_any().unbind());
        }
        // There is one backend, whichever list of them is given.
        let _ = backend;
        let [local_side, local_indices, remote_side, remote_indices] = sides;
        let long = intern!(py, "_make");
        let given = (
            operation,
            local_side,
            local_indices,
            remote_side,
            remote_indices,
            notif_msg,
            merges,
        );
        Ok(slf.call_method1(long, given)?.unbind())
    }

    #[pyo3(name = "releaseXferReq")]
    fn release(slf: &Bound<'_, Self>, reqh: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let (this, py) = (slf.get(), slf.py());
        let gone = this._transfers.bind(py).del_item(reqh);
        match (gone, this.known.get()) {
            // One that is active is cancelled, and its memory kept until nothing touches it.
            (Ok(()), Some(known)) => Ok(known.success.clone_ref(py)),
            _ => Ok(slf
                .call_method1(intern!(py, "_transfer"), (reqh,))?
                .unbind()),
        }
    }
}

impl Calls {
    /// The number of a new transfer, if nothing about it is out of the ordinary.
    fn made(
        &self,
        operation: &Bound<'_, PyAny>,
        [local_side, local_indices, remote_side, remote_indices]: [&Bound<'_, PyAny>; 4],
        notification: Option<&Bound<'_, PyAny>>,
        merges: bool,
    ) -> Option<u64> {
        let py = operation.py();
        let known = self.known.get()?;
        if local_indices.is_none() || remote_indices.is_none() {
            return None;
        }
        let lists = self._lists.bind(py);
        let local = lists.get_item(local_side).ok()??;
        let remote = lists.get_item(remote_side).ok()??;
        let made = Transfer::make(Wanted {
            agent: known.agent.bind(py),
            read: operation.is(&known.read),
            local: local.cast_exact::<PreparedLocal>().ok()?,
            local_indices: Some(local_indices),
            remote: remote.cast_exact::<PreparedRemote>().ok()?,
            remote_indices: Some(remote_indices),
            notification,
            merges,
        });
        let number = self._number();
        let transfers = self._transfers.bind(py);
        transfers
            .set_item(number, Py::new(py, made.ok()?).ok()?)
            .ok()?;
        Some(number)
    }
}
