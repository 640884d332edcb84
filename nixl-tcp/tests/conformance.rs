//! The contract of `nixl_core::backend`, bullet by bullet.

use nixl_tcp::{TcpBackend, TcpConfig};

fn backend() -> TcpBackend {
    let config = TcpConfig {
        bind: Some("127.0.0.1".parse().unwrap()),
        ..TcpConfig::default()
    };
    TcpBackend::new(config).unwrap()
}

nixl_conformance::suite!(tcp, backend(), "tcp");
