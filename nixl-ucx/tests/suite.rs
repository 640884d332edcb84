//! The contract of `nixl_core::backend`, over the transports that this machine has.

use nixl_ucx::{UcxBackend, UcxConfig};

fn over(transports: &str) -> UcxBackend {
    let settings = vec![("TLS".to_owned(), transports.to_owned())];
    let config = UcxConfig {
        settings,
        ..UcxConfig::default()
    };
    UcxBackend::open(config).expect("libucp loads")
}

nixl_conformance::suite!(tcp, over("tcp"), "ucx_tcp");
