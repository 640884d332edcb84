//! `nixl_rs._native`: the facade as Python sees it.
//!
//! One module of the stable ABI for CPython 3.9 and newer. Three rules hold everywhere here:
//!
//! - A call that can wait releases the GIL, and takes no lock of ours while it waits for the GIL.
//! - None of the library's threads ever takes the GIL. What they let go of is handed to PyO3, which
//!   drops it at the next call from Python; awaiting goes through file descriptors.
//! - After a fork the child has none of the threads: `fork::Kept` refuses calls there and leaks
//!   instead of dropping.

mod agent;
mod buffer;
mod calls;
mod config;
mod descs;
mod error;
mod events;
mod exchange;
mod explain;
mod fork;
mod handle;
mod inner;
mod memory;
mod notification;
mod prepared;
mod receipt;
mod region;
mod request;
#[cfg(feature = "etcd")]
mod store;
mod transfer;

use pyo3::prelude::*;

/// The native half of the package `nixl_rs`.
#[pymodule]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::agent::Agent;
    #[pymodule_export]
    use crate::descs::{_triples, Descriptors};
    #[pymodule_export]
    use crate::events::Events;
    #[pymodule_export]
    use crate::exchange::{_nixl_setting, Listener, fetch_metadata, forget_at, send_metadata};
    #[pymodule_export]
    use crate::explain::Explanation;
    #[pymodule_export]
    use crate::inner::close_all;
    #[pymodule_export]
    use crate::notification::Notification;
    #[pymodule_export]
    use crate::prepared::{PreparedLocal, PreparedRemote};
    #[pymodule_export]
    use crate::receipt::Receipt;
    #[pymodule_export]
    use crate::region::Region;
    #[pymodule_export]
    use crate::request::Request;
    #[cfg(feature = "etcd")]
    #[pymodule_export]
    use crate::store::Store;

    #[pymodule_export]
    use crate::transfer::{_transfer, Transfer};

    #[pymodule_export]
    use crate::calls::Calls;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // Counts from here on.
        nixl::forks();
        let py = module.py();
        module.add("_XferHandle", py.get_type::<crate::handle::XferHandle>())?;
        module.add("_ListHandle", py.get_type::<crate::handle::ListHandle>())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("BUILD", nixl::BUILD)?;
        module.add("BACKENDS", nixl::backends().to_vec())
    }
}

/// Warnings, and what `NIXL_RS_LOG` asks for, go to standard error. Once; an embedding program's
/// own subscriber stays.
fn start_logging() {
    use std::io::IsTerminal;

    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("NIXL_RS_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    // An error means that there is a subscriber already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}

/// A timeout in seconds as Python gives it.
fn seconds(value: f64) -> PyResult<std::time::Duration> {
    std::time::Duration::try_from_secs_f64(value).map_err(|_| {
        error::misuse(format!(
            "{value} is no number of seconds: expected 0 to 1e19"
        ))
    })
}
