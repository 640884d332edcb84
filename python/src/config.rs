//! Configuration from Python.

use nixl::{Error, ErrorKind};
use pyo3::prelude::*;

use crate::error::{OrRaise, raise};

/// Settings: the environment's, overridden by a dict; or TOML text alone.
pub(crate) fn configuration(
    py: Python<'_>,
    given: Option<&Bound<'_, PyAny>>,
) -> PyResult<nixl::Config> {
    let Some(given) = given else {
        return nixl::Config::load().or_raise(py);
    };
    if let Ok(text) = given.extract::<String>() {
        return nixl::Config::from_toml(&text).or_raise(py);
    }
    let text: String = py
        .import("json")?
        .call_method1("dumps", (given,))?
        .extract()?;
    let failed = |error: serde_json::Error| {
        let text = format!("config: {error}");
        raise(py, &Error::new(ErrorKind::ApiMisuse, text))
    };
    let base = nixl::Config::load().or_raise(py)?;
    let mut all = serde_json::to_value(base).map_err(failed)?;
    merge(&mut all, serde_json::from_str(&text).map_err(failed)?);
    serde_json::from_value(all).map_err(failed)
}

fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
    match (into, from) {
        (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
