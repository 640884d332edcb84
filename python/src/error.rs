//! Errors of the library as exceptions of `nixl_rs`.

use nixl::{Error, ErrorKind};
use pyo3::{prelude::*, sync::PyOnceLock};

/// The exception for `error`: its class says who is to blame.
pub(crate) fn raise(py: Python<'_>, error: &Error) -> PyErr {
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let make = || -> PyResult<Bound<'_, PyAny>> {
        let make = MAKE.get_or_try_init(py, || {
            let module = py.import("nixl_rs._errors")?;
            module.getattr("make").map(Bound::unbind)
        })?;
        let kind = format!("{:?}", error.kind());
        let status = error.kind().status();
        make.bind(py).call1((
            kind,
            status,
            error.to_string(),
            error.message(),
            error.peer(),
            error.path(),
        ))
    };
    match make() {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// The caller's mistake, found before the library was asked.
pub(crate) fn misuse(text: impl Into<String>) -> PyErr {
    of(ErrorKind::ApiMisuse, text)
}

/// An exception of `kind`.
pub(crate) fn of(kind: ErrorKind, text: impl Into<String>) -> PyErr {
    let error = Error::new(kind, text.into());
    Python::attach(|py| raise(py, &error))
}

/// The library's results as Python's.
pub(crate) trait OrRaise<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for nixl::Result<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| raise(py, &error))
    }
}
