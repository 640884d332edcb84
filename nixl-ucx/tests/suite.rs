//! The contract of `nixl_core::backend`, over the transports that this machine has.
//!
//! `NIXL_RS_UCX_LIB` names another libucp than the one that is found; `cargo xtask rdma-test` runs
//! this in a machine with RDMA devices, where the rest of it is not skipped.

use nixl_core::backend::Backend as _;
use nixl_ucx::{UcxBackend, UcxConfig};

/// A backend over `transports`.
fn over(transports: &str) -> UcxBackend {
    open(transports).expect("the first one could be opened")
}

fn open(transports: &str) -> nixl_core::Result<UcxBackend> {
    // CMA is for endpoints that report failures only if it claims to invalidate memory.
    let settings = [("TLS", transports), ("CMA_MEMORY_INVALIDATE", "y")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    UcxBackend::open(UcxConfig {
        settings: settings.into(),
        ..UcxConfig::default()
    })
}

/// Why `path` over `transports` cannot be tested here.
fn lacks(transports: &str, path: &str) -> Option<String> {
    let backend = match open(transports) {
        Ok(backend) => backend,
        Err(why) => return Some(why.to_string()),
    };
    if path == "ucx_cma" && backend.version().minor < 16 {
        return Some(format!(
            "UCX {} uses CMA for rendezvous only",
            backend.version()
        ));
    }
    let has = backend.paths().iter().any(|caps| caps.path == path);
    (!has).then(|| format!("no such transport ({transports}) here"))
}

const RC: &str = "rc_v,ud_v,self";

nixl_conformance::suite!(
    tcp,
    over("tcp"),
    "ucx_tcp",
    unless = lacks("tcp", "ucx_tcp")
);
nixl_conformance::suite!(
    cma,
    over("cma,tcp"),
    "ucx_cma",
    unless = lacks("cma,tcp", "ucx_cma")
);
nixl_conformance::suite!(rdma, over(RC), "ucx", unless = lacks(RC, "ucx"));
