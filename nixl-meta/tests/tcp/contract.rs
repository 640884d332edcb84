//! What works, and what is refused before anything moves.

use std::{
    os::unix::fs::PermissionsExt,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use nixl_core::{ErrorKind, Result};
use nixl_meta::tcp::{
    Access, MetaHandler, MetaServer, Origin, ServerConfig, SharedKey, fetch, invalidate, send,
};

use super::{Arc, client, key, pattern, serve, with};

const KEY: &str = "0123456789abcdef";

#[test]
fn fetch_send_and_invalidate_on_every_kind_of_address() {
    for listen in ["127.0.0.1:0", "[::1]:0", "localhost:0"] {
        for access in [Access::Key(key(KEY)), Access::AllowUnauthenticated] {
            let keyed = matches!(access, Access::Key(_));
            let config = client(keyed.then(|| key(KEY)));
            let (server, agent, addr) = serve(ServerConfig {
                listen: listen.into(),
                ..with(access)
            });
            for len in [0, 1, 5_000_003] {
                let blob = fetch(&addr, &format!("blob {len}"), &config).unwrap();
                assert!(blob == pattern(len), "{listen} {len}");
                assert_eq!(send(&addr, &pattern(len), &config).unwrap(), "decode-0");
            }
            invalidate(&addr, "prefill-0", &config).unwrap();
            assert_eq!(agent.seen().last().unwrap(), "invalidate prefill-0");
            let seen = agent.seen.lock().unwrap();
            assert!(seen.iter().all(|(_, from)| from.authenticated == keyed));
            assert!(seen.iter().all(|(_, from)| from.addr.ip().is_loopback()));
            drop(seen);
            server.stop(Duration::from_secs(5)).unwrap();
        }
    }
}

#[test]
fn a_client_reaches_a_listener_by_host_name() {
    let (server, _, _) = serve(ServerConfig {
        listen: "localhost:0".into(),
        ..ServerConfig::default()
    });
    let name = format!("localhost:{}", server.local_addr().port());
    let blob = fetch(&name, "blob 10", &client(None)).unwrap();
    assert_eq!(blob, pattern(10));
}

#[test]
fn nothing_beyond_loopback_without_authentication() {
    let start = |listen: &str, access: Access| {
        let config = ServerConfig {
            listen: listen.into(),
            ..with(access)
        };
        MetaServer::start(config, Arc::new(super::Agent::default()))
    };
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.7:0", "[::ffff:192.0.2.7]:0"] {
        let e = start(listen, Access::LoopbackOnly).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::NotAllowed, "{listen}: {e}");
    }
    for listen in ["127.0.0.1:0", "127.1.2.3:0", "[::1]:0"] {
        start(listen, Access::LoopbackOnly).unwrap();
    }
    for listen in ["0.0.0.0:0", "[::]:0"] {
        start(listen, Access::Key(key(KEY))).unwrap();
        start(listen, Access::AllowUnauthenticated).unwrap();
    }
}

#[test]
fn a_stranger_cannot_evict_a_peer() {
    let (_server, agent, addr) = serve(with(Access::LoopbackOnly));
    let e = invalidate(&addr, "prefill-0", &client(None)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotAllowed, "{e}");
    assert!(agent.seen().is_empty());
}

#[test]
fn the_other_agents_error_arrives_and_is_safe_to_print() {
    let (_server, _, addr) = serve(ServerConfig::default());
    let e = fetch(&addr, "nothing", &client(None)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    assert!(e.message().contains("no ?[31mlabel nothing"), "{e}");
    let e = send(&addr, b"something else", &client(None)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Malformed);
}

#[test]
fn bad_names_and_addresses_are_the_callers_fault() {
    let config = client(None);
    let long = "x".repeat(256);
    for name in ["", long.as_str()] {
        let e = fetch("127.0.0.1:1", name, &config).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ApiMisuse, "{e}");
        let e = invalidate("127.0.0.1:1", name, &config).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ApiMisuse, "{e}");
    }
    for address in ["no-port", "127.0.0.1:99999", "[::1]"] {
        let e = fetch(address, "metadata", &config).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ApiMisuse, "{address}: {e}");
    }
}

#[test]
fn a_port_in_use_is_named() {
    let (_server, _, addr) = serve(ServerConfig::default());
    let config = ServerConfig {
        listen: addr.clone(),
        ..ServerConfig::default()
    };
    let e = MetaServer::start(config, Arc::new(super::Agent::default()))
        .err()
        .unwrap();
    assert_eq!(e.kind(), ErrorKind::Backend);
    assert!(
        e.message().contains(&addr) && e.message().contains("in use"),
        "{e}"
    );
}

#[test]
fn more_clients_than_connections_take_turns() {
    let (_server, _, addr) = serve(ServerConfig {
        max_connections: 2,
        ..ServerConfig::default()
    });
    thread::scope(|scope| {
        for i in 0..24 {
            let addr = &addr;
            scope.spawn(move || {
                let len = 1000 * i;
                let blob = fetch(addr, &format!("blob {len}"), &client(None)).unwrap();
                assert!(blob == pattern(len));
            });
        }
    });
}

/// Blocks in `local_blob` until told to go on.
struct Gate(mpsc::SyncSender<()>, std::sync::Mutex<mpsc::Receiver<()>>);

impl MetaHandler for Gate {
    fn local_blob(&self, _: &str, _: &Origin) -> Result<Bytes> {
        self.0.send(()).unwrap();
        self.1.lock().unwrap().recv().unwrap();
        Ok(Bytes::from_static(b"late"))
    }

    fn remote_blob(&self, _: Bytes, _: &Origin) -> Result<String> {
        unreachable!()
    }

    fn invalidate(&self, _: &str, _: &Origin) -> Result<()> {
        unreachable!()
    }
}

#[test]
fn stopping_lets_a_request_end_or_cuts_it() {
    for patient in [true, false] {
        let (entered, wait_entered) = mpsc::sync_channel(1);
        let (go_on, gate) = mpsc::sync_channel(1);
        let handler = Arc::new(Gate(entered, gate.into()));
        let server = MetaServer::start(ServerConfig::default(), handler).unwrap();
        let addr = server.local_addr().to_string();
        let fetching = thread::spawn({
            let addr = addr.clone();
            move || fetch(&addr, "metadata", &client(None))
        });
        wait_entered.recv().unwrap();
        if patient {
            go_on.send(()).unwrap();
            server.stop(Duration::from_secs(10)).unwrap();
            assert_eq!(fetching.join().unwrap().unwrap(), &b"late"[..]);
        } else {
            let e = server.stop(Duration::ZERO).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Timeout);
            let e = fetching.join().unwrap().unwrap_err();
            assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
            go_on.send(()).unwrap();
        }
        let e = fetch(&addr, "metadata", &client(None)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
    }
}

#[test]
fn a_time_without_end_is_no_panic() {
    let (_server, _, addr) = serve(ServerConfig {
        timeout: Duration::MAX,
        handshake_timeout: Duration::MAX,
        ..ServerConfig::default()
    });
    let mut config = client(None);
    config.timeout = Duration::MAX;
    assert_eq!(fetch(&addr, "blob 3", &config).unwrap(), pattern(3));
    config.timeout = Duration::ZERO;
    let begun = Instant::now();
    let e = fetch(&addr, "blob 3", &config).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn keys_are_long_private_and_never_printed() {
    let e = SharedKey::new(b"too short").err().unwrap();
    assert_eq!(e.kind(), ErrorKind::ApiMisuse);
    assert!(!format!("{:?}", with(Access::Key(key(KEY)))).contains(KEY));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, format!("{KEY}\r\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let e = SharedKey::from_file(&path).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::NotAllowed, "{e}");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let from_file = SharedKey::from_file(&path).unwrap();
    let (_server, _, addr) = serve(with(Access::Key(key(KEY))));
    assert_eq!(
        fetch(&addr, "blob 4", &client(Some(from_file))).unwrap(),
        pattern(4)
    );
    let e = SharedKey::from_file(dir.path().join("none")).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Backend, "{e}");
}
