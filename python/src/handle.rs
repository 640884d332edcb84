//! The handles of the package `nixl`, freed when they are released or collected.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::{intern, prelude::*, types::PyString};

/// A number of NIXL's lower layer, and the agent that it belongs to.
struct Handle {
    agent: Py<PyAny>,
    number: Py<PyAny>,
    released: AtomicBool,
}

impl Handle {
    fn new(agent: Py<PyAny>, number: Py<PyAny>) -> Self {
        Self {
            agent,
            number,
            released: AtomicBool::new(false),
        }
    }

    fn release(&self, py: Python<'_>, call: &Bound<'_, PyString>) -> PyResult<()> {
        if !self.released.load(Ordering::Relaxed) {
            self.agent.bind(py).call_method1(call, (&self.number,))?;
            self.released.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn collect(&self, call: fn(Python<'_>) -> &Bound<'_, PyString>) {
        if self.released.load(Ordering::Relaxed) {
            return;
        }
        // `None` when the interpreter has ended; then nothing is left to free.
        Python::try_attach(|py| {
            // Whoever drops it may be raising something.
            let pending = PyErr::take(py);
            if let Err(error) = self.release(py, call(py)) {
                error.write_unraisable(py, None);
            }
            if let Some(error) = pending {
                error.restore(py);
            }
        });
    }

    fn show(&self, py: Python<'_>, class: &str) -> PyResult<String> {
        let number = self.number.bind(py).call_method1("__format__", ("#x",))?;
        let released = match self.released.load(Ordering::Relaxed) {
            true => "True",
            false => "False",
        };
        Ok(format!("{class}({number}, released={released})"))
    }
}

macro_rules! handle {
    ($rust:ident, $python:literal, $call:literal, $doc:literal) => {
        #[doc = $doc]
        #[pyclass(module = "nixl._api", name = $python, frozen)]
        pub(crate) struct $rust(Handle);

        impl $rust {
            fn call(py: Python<'_>) -> &Bound<'_, PyString> {
                intern!(py, $call)
            }
        }

        #[pymethods]
        impl $rust {
            #[new]
            fn new(agent: Py<PyAny>, value: Py<PyAny>) -> Self {
                Self(Handle::new(agent, value))
            }

            fn release(&self, py: Python<'_>) -> PyResult<()> {
                self.0.release(py, Self::call(py))
            }

            #[getter]
            fn _agent(&self, py: Python<'_>) -> Py<PyAny> {
                self.0.agent.clone_ref(py)
            }

            #[getter]
            fn _handle(&self, py: Python<'_>) -> Py<PyAny> {
                self.0.number.clone_ref(py)
            }

            #[getter]
            fn _released(&self) -> bool {
                self.0.released.load(Ordering::Relaxed)
            }

            fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
                self.0.show(py, $python)
            }
        }

        impl Drop for $rust {
            fn drop(&mut self) {
                self.0.collect(Self::call);
            }
        }
    };
}

handle!(
    XferHandle,
    "nixl_xfer_handle",
    "releaseXferReq",
    "A transfer. One that is active when it is freed is cancelled."
);
handle!(
    ListHandle,
    "nixl_prepped_dlist_handle",
    "releasedDlistH",
    "A prepared list."
);
