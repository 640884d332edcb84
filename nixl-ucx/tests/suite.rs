//! The contract of `nixl_core::backend`, over the transports that this machine has.

use nixl_ucx::{UcxBackend, UcxConfig};

fn over(transports: &str) -> UcxBackend {
    let settings = [("TLS", transports), ("CMA_MEMORY_INVALIDATE", "y")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = UcxConfig {
        settings: settings.into(),
        ..UcxConfig::default()
    };
    UcxBackend::open(config).expect("libucp loads")
}

nixl_conformance::suite!(tcp, over("tcp"), "ucx_tcp");
nixl_conformance::suite!(cma, over("cma,tcp"), "ucx_cma");
