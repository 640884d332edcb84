//! The contract of `nixl_core::backend` where data moves by rendezvous, and that the configured
//! scheme and threshold arrive.
//!
//! `NIXL_RS_UCX_LIB` names another libucp than the one that is found.

mod agents;

use nixl_core::backend::Backend as _;
use nixl_ucx::{
    Options, RNDV_CMA, RNDV_TCP, UcxBackend,
    config::{Mode, UcxConfig},
};

/// A backend with these settings of UCX's.
fn open(settings: &[(&str, &str)]) -> nixl_core::Result<UcxBackend> {
    let mut config = UcxConfig::default();
    config.mode = Mode::Rendezvous;
    for (key, value) in settings {
        config.set(key, value)?;
    }
    UcxBackend::open(&config, Options::default())
}

fn over(settings: &[(&str, &str)]) -> UcxBackend {
    open(settings).expect("the first one could be opened")
}

/// Why `path` with these settings cannot be tested here.
fn lacks(settings: &[(&str, &str)], path: &str) -> Option<String> {
    let backend = match open(settings) {
        Ok(backend) => backend,
        Err(why) => return Some(why.to_string()),
    };
    let version = backend.library().version();
    if path == RNDV_CMA && !version.at_least(1, 16) {
        return Some(format!(
            "UCX {version} takes no CMA for endpoints that report failures"
        ));
    }
    let has = backend.paths().iter().any(|caps| caps.path == path);
    (!has).then(|| "no such transport here".to_owned())
}

const TCP: &[(&str, &str)] = &[("TLS", "tcp"), ("RNDV_THRESH", "0")];
const CMA: &[(&str, &str)] = &[("TLS", "cma,tcp"), ("RNDV_THRESH", "0")];
const EAGER: &[(&str, &str)] = &[("TLS", "tcp"), ("RNDV_THRESH", "inf")];

nixl_conformance::suite!(tcp, over(TCP), RNDV_TCP, unless = lacks(TCP, RNDV_TCP));
nixl_conformance::suite!(cma, over(CMA), RNDV_CMA, unless = lacks(CMA, RNDV_CMA));
nixl_conformance::suite!(
    eager,
    over(EAGER),
    RNDV_TCP,
    unless = lacks(EAGER, RNDV_TCP)
);
