//! The contract of `nixl_core::backend`, over the transports that this machine has.
//!
//! `NIXL_RS_UCX_LIB` names another libucp than the one that is found; `cargo xtask rdma-test` runs
//! this in a machine with RDMA devices, where the rest of it is not skipped.

use nixl_core::backend::Backend as _;
use nixl_ucx::{Options, UcxBackend, config::UcxConfig};

/// A backend over `transports`.
fn over(transports: &str) -> UcxBackend {
    open(transports, 1).expect("the first one could be opened")
}

/// The same with several workers.
fn by_two(transports: &str) -> UcxBackend {
    open(transports, 2).expect("the first one could be opened")
}

fn open(transports: &str, workers: usize) -> nixl_core::Result<UcxBackend> {
    let mut config = UcxConfig::default();
    config.set("TLS", transports)?;
    let options = Options {
        workers,
        ..Options::default()
    };
    UcxBackend::open(&config, options)
}

/// Why `path` over `transports` cannot be tested here.
fn lacks(transports: &str, path: &str) -> Option<String> {
    let backend = match open(transports, 1) {
        Ok(backend) => backend,
        Err(why) => return Some(why.to_string()),
    };
    let version = backend.library().version();
    if path == "ucx_cma" && !version.at_least(1, 16) {
        return Some(format!("UCX {version} uses CMA for rendezvous only"));
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
nixl_conformance::suite!(
    tcp_by_two_workers,
    by_two("tcp"),
    "ucx_tcp",
    unless = lacks("tcp", "ucx_tcp")
);
nixl_conformance::suite!(
    cma_by_two_workers,
    by_two("cma,tcp"),
    "ucx_cma",
    unless = lacks("cma,tcp", "ucx_cma")
);
nixl_conformance::suite!(rdma, over(RC), "ucx", unless = lacks(RC, "ucx"));
