//! NIXL's socket protocol on the same port.

use nixl_meta::tcp::nixl;

use super::*;

fn served(access: Access) -> (MetaServer, Arc<Agent>, Arc<Agent>, String) {
    let (ours, theirs) = (Arc::<Agent>::default(), Arc::<Agent>::default());
    let config = ServerConfig {
        access,
        ..ServerConfig::default()
    };
    let server = MetaServer::start_for_nixl(config, ours.clone(), theirs.clone()).unwrap();
    let address = server.local_addr().to_string();
    (server, ours, theirs, address)
}

#[test]
fn each_protocol_reaches_its_handler() {
    let (_server, ours, theirs, address) = served(Access::LoopbackOnly);
    let config = ClientConfig::default();
    tcp::fetch(&address, "blob 100", &config).unwrap();
    nixl::send(&address, &pattern(50), &config).unwrap();
    // It has no blob under NIXL's label, so nothing answers: the connection is done all the same.
    let quick = ClientConfig {
        timeout: Duration::from_millis(300),
        ..ClientConfig::default()
    };
    let e = nixl::fetch(&address, &quick).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
    assert_eq!(ours.seen(), ["fetch blob 100"]);
    assert_eq!(theirs.seen(), ["send 50", "fetch metadata"]);
}

#[test]
fn without_a_key_on_every_address_nobody_gets_what_is_ours() {
    let (_server, ours, theirs, address) = served(Access::AllowUnauthenticated);
    let config = ClientConfig {
        timeout: Duration::from_secs(2),
        ..ClientConfig::default()
    };
    let e = tcp::fetch(&address, "blob 100", &config).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
    nixl::send(&address, &pattern(50), &config).unwrap();
    let blob = [&pattern(10)[..], b"NIXLCOMM:", &pattern(10)].concat();
    let e = nixl::send(&address, &blob, &config).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
    assert!(ours.seen().is_empty());
    while theirs.seen().is_empty() {
        thread::yield_now();
    }
    assert_eq!(theirs.seen(), ["send 50"]);
}
