//! Who gets in.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use nixl_core::ErrorKind;
use nixl_meta::tcp::{Access, ServerConfig, fetch, invalidate, send};

use super::{Arc, Duration, client, key, pattern, quick, relay, rest_of, serve, with};

const KEY: &str = "the key that both sides share";

#[test]
fn other_keys_and_missing_keys_are_refused_on_both_sides() {
    let wrong = Some(key("the key that one side has"));
    let (_keyed, agent, addr) = serve(with(Access::Key(key(KEY))));
    for config in [client(wrong), client(None)] {
        for e in [
            fetch(&addr, "blob 1", &config).unwrap_err(),
            send(&addr, &pattern(1), &config).unwrap_err(),
            invalidate(&addr, "prefill-0", &config).unwrap_err(),
        ] {
            assert_eq!(e.kind(), ErrorKind::Unauthenticated, "{e}");
        }
    }
    assert!(agent.seen().is_empty());

    let (_open, agent, addr) = serve(with(Access::AllowUnauthenticated));
    let e = send(&addr, &pattern(1), &client(Some(key(KEY)))).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unauthenticated, "{e}");
    assert!(agent.seen().is_empty(), "a secret went to an open listener");
}

/// Whoever listens there without the key must not get as far as the blob.
#[test]
fn an_impostor_gets_no_blob() {
    let (_open, agent, addr) = serve(with(Access::AllowUnauthenticated));
    // The open server's verdict rewritten to "go on": the client still demands its proof.
    let relayed = relay(addr.parse().unwrap(), |to_server, at, chunk| {
        if !to_server && at == 0 {
            chunk[8] = 0;
        }
    });
    let e = send(&relayed, &pattern(1), &quick(Some(key(KEY)))).unwrap_err();
    assert!(
        matches!(e.kind(), ErrorKind::Unauthenticated | ErrorKind::PeerGone),
        "{e}"
    );
    assert!(agent.seen().is_empty());
}

#[test]
fn a_replayed_connection_is_refused() {
    let (server, agent, addr) = serve(with(Access::Key(key(KEY))));
    let recorded = Arc::new(Mutex::new(Vec::new()));
    let relayed = relay(server.local_addr(), {
        let recorded = Arc::clone(&recorded);
        move |to_server, _, chunk| {
            if to_server {
                recorded.lock().unwrap().extend_from_slice(chunk);
            }
        }
    });
    invalidate(&relayed, "prefill-0", &client(Some(key(KEY)))).unwrap();
    assert_eq!(agent.seen(), ["invalidate prefill-0"]);

    let recorded = recorded.lock().unwrap();
    assert!(recorded.len() > 41 + 32 + 5);
    let mut replay = TcpStream::connect(&addr).unwrap();
    replay.write_all(&recorded).unwrap();
    let mut answer = [0; 45 + 1];
    replay.read_exact(&mut answer).unwrap();
    assert_eq!(answer[8], 0, "it asks for the proof");
    assert_eq!(answer[45], 4, "and refuses the recorded one");
    assert!(
        rest_of(&replay).iter().all(|&b| b == 0),
        "no proof in return"
    );
    assert_eq!(agent.seen().len(), 1, "nothing was done twice");
}

/// Every byte of a connection changed on its way, one at a time, in both directions: an error,
/// and nothing wrong reaches either side.
#[test]
fn a_connection_changed_on_its_way_fails() {
    let (server, agent, _) = serve(ServerConfig {
        handshake_timeout: Duration::from_millis(300),
        timeout: Duration::from_millis(300),
        ..with(Access::Key(key(KEY)))
    });
    let target = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let changed = Arc::new(AtomicUsize::new(0));
    let relayed = relay(server.local_addr(), {
        let (target, changed) = (Arc::clone(&target), Arc::clone(&changed));
        move |to_server, at, chunk| {
            let victim = target.1.load(Ordering::SeqCst);
            let ours = usize::from(to_server) == target.0.load(Ordering::SeqCst);
            if ours && (at..at + chunk.len()).contains(&victim) {
                chunk[victim - at] ^= 1;
                changed.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let config = quick(Some(key(KEY)));
    let label = "blob 8";
    // hello, proof, frame; welcome, proof, frame: see the module's documentation.
    let lengths = [45 + 33 + 5 + 8 + 32, 41 + 32 + 5 + label.len() + 32];
    for (direction, len) in lengths.into_iter().enumerate() {
        for victim in 0..len {
            target.0.store(direction, Ordering::SeqCst);
            target.1.store(victim, Ordering::SeqCst);
            let before = changed.load(Ordering::SeqCst);
            // On a loaded machine a call may time out before it comes to that byte.
            while changed.load(Ordering::SeqCst) == before {
                let e = fetch(&relayed, label, &config).unwrap_err();
                assert_ne!(e.kind(), ErrorKind::Backend, "{direction} {victim}: {e}");
            }
        }
    }
    assert!(agent.seen().iter().all(|what| what == "fetch blob 8"));
    target.1.store(usize::MAX, Ordering::SeqCst);
    let unchanged = (0..50).find_map(|_| fetch(&relayed, label, &config).ok());
    assert_eq!(unchanged.unwrap(), pattern(8));
}
