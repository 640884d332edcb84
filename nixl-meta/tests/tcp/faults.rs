//! Peers that are slow, dead, broken or hostile.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Instant,
};

use nixl_core::ErrorKind;
use nixl_meta::tcp::{Access, ClientConfig, ServerConfig, fetch, send};

use super::{Duration, client, fake_server, hello, pattern, quick, rest_of, serve, with};

fn cpu_time() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap())
}

#[test]
fn garbage_does_no_harm() {
    let (_server, agent, addr) = serve(ServerConfig::default());
    let garbage: [&[u8]; 5] = [
        b"",
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\nmore than a greeting has",
        &[0xff; 500],
        b"NIXLCOMM:INVLprefill-0....................................",
        &hello()[..40],
    ];
    for bytes in garbage {
        let mut stream = TcpStream::connect(&addr).unwrap();
        stream.write_all(bytes).unwrap();
        // The listener may have hung up already.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        assert!(rest_of(&stream).is_empty(), "{bytes:?}");
    }
    assert!(agent.seen().is_empty());
    assert_eq!(fetch(&addr, "blob 9", &client(None)).unwrap(), pattern(9));
}

#[test]
fn frames_too_long_or_unknown_end_the_connection() {
    let (_server, agent, addr) = serve(ServerConfig {
        max_blob: 1000,
        ..with(Access::AllowUnauthenticated)
    });
    let heads: [[u8; 5]; 6] = [
        [2, 0xff, 0xff, 0xff, 0xff],
        [2, 0xe9, 3, 0, 0],
        [1, 0, 1, 0, 0],
        [3, 0, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [9, 1, 0, 0, 0],
    ];
    for head in heads {
        let mut stream = TcpStream::connect(&addr).unwrap();
        stream.write_all(&hello()).unwrap();
        stream.read_exact(&mut [0; 45]).unwrap();
        stream.write_all(&head).unwrap();
        assert!(rest_of(&stream).is_empty(), "{head:?}");
    }
    assert!(agent.seen().is_empty());

    let e = send(&addr, &pattern(1001), &client(None)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Exhausted, "{e}");
    let e = fetch(&addr, "blob 1001", &client(None)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Exhausted, "{e}");
    assert_eq!(
        fetch(&addr, "blob 1000", &client(None)).unwrap(),
        pattern(1000)
    );
    let small = ClientConfig {
        max_blob: 999,
        ..client(None)
    };
    let e = fetch(&addr, "blob 1000", &small).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Exhausted, "{e}");
}

#[test]
fn names_on_the_wire_must_be_text() {
    let (_server, agent, addr) = serve(ServerConfig::default());
    for body in [&b""[..], b"\xff\xfe"] {
        let mut stream = TcpStream::connect(&addr).unwrap();
        stream.write_all(&hello()).unwrap();
        stream.read_exact(&mut [0; 45]).unwrap();
        let len = u8::try_from(body.len()).unwrap();
        stream.write_all(&[1, len, 0, 0, 0]).unwrap();
        stream.write_all(body).unwrap();
        assert_eq!(rest_of(&stream)[0], 1, "an error frame");
    }
    assert!(agent.seen().is_empty());
}

#[test]
fn a_listener_of_something_else_is_told_apart() {
    let addr = fake_server(|mut stream| {
        stream.write_all(&[b'x'; 100]).unwrap();
        rest_of(&stream);
    });
    let e = fetch(&addr, "metadata", &client(None)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PeerMisbehaved, "{e}");

    let addr = fake_server(|mut stream| {
        let mut welcome = [0; 45];
        welcome[..8].copy_from_slice(b"NXMETA\0\x02");
        welcome[8] = 3;
        stream.write_all(&welcome).unwrap();
        rest_of(&stream);
    });
    let e = fetch(&addr, "metadata", &client(None)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
}

/// The greeting of a listener without a key, then `reply`.
fn answering(reply: impl Fn(&mut TcpStream) + Send + 'static) -> String {
    fake_server(move |mut stream| {
        let mut welcome = [0; 45];
        welcome[..8].copy_from_slice(b"NXMETA\0\x01");
        stream.write_all(&welcome).unwrap();
        reply(&mut stream);
    })
}

#[test]
fn a_listener_that_dies_or_lies_in_the_middle() {
    let addr = answering(|stream| {
        stream.read_exact(&mut [0; 41 + 5 + 8]).unwrap();
        stream.write_all(&[0, 100, 0, 0, 0, 1, 2, 3]).unwrap();
    });
    let e = fetch(&addr, "metadata", &client(None)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");

    let replies: [(&[u8], ErrorKind); 4] = [
        (&[0, 0xff, 0xff, 0xff, 0xff], ErrorKind::Exhausted),
        (&[1, 0xff, 0xff, 0, 0], ErrorKind::Exhausted),
        (&[7, 0, 0, 0, 0], ErrorKind::PeerMisbehaved),
        (&[1, 2, 0, 0, 0, 1, 2], ErrorKind::Backend),
    ];
    for (bytes, kind) in replies {
        let addr = answering(move |stream| {
            stream.write_all(bytes).unwrap();
            rest_of(stream);
        });
        let e = fetch(&addr, "metadata", &client(None)).unwrap_err();
        assert_eq!(e.kind(), kind, "{bytes:?}: {e}");
    }
}

#[test]
fn nobody_there() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let e = fetch(&port.to_string(), "metadata", &client(None)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
}

#[test]
fn a_silent_or_dripping_listener_times_out() {
    let silent = fake_server(|stream| drop(rest_of(&stream)));
    let dripping = answering(|stream| {
        let (_open, never) = mpsc::channel::<()>();
        let drop_of = [0, 0, 1, 0, 0];
        for i in 0.. {
            let byte = drop_of.get(i).copied().unwrap_or(1);
            let _ = never.recv_timeout(Duration::from_millis(20));
            if stream.write_all(&[byte]).is_err() {
                return;
            }
        }
    });
    for addr in [silent, dripping] {
        let begun = Instant::now();
        let e = fetch(&addr, "metadata", &quick(None)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

/// A listener that never reads: the blob does not fit the socket buffers.
#[test]
fn sending_to_a_stuck_listener_times_out() {
    let (_open, end) = mpsc::channel::<()>();
    let addr = fake_server(move |mut stream| {
        let mut welcome = [0xff; 45];
        welcome[..9].copy_from_slice(b"NXMETA\0\x01\0");
        stream.write_all(&welcome).unwrap();
        let _ = end.recv();
    });
    let e = send(&addr, &pattern(32 << 20), &quick(None)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
}

/// Clients that hang in the handshake or after it hold the only place for the time that is
/// configured for that, and nothing spins meanwhile.
#[test]
fn half_open_clients_lose_their_place() {
    const SHORT: Duration = Duration::from_millis(200);
    let for_ever = Duration::from_secs(3600);
    let hello = hello();
    let cases: [(&[&[u8]], Duration, Duration); 2] = [
        (&[&[], &hello[..20]], SHORT, for_ever),
        (&[&hello], for_ever, SHORT),
    ];
    for (partial, handshake_timeout, timeout) in cases {
        let (_server, _, addr) = serve(ServerConfig {
            max_connections: 1,
            handshake_timeout,
            timeout,
            ..ServerConfig::default()
        });
        let (cpu, begun) = (cpu_time(), Instant::now());
        let hanging: Vec<_> = partial
            .iter()
            .map(|bytes| {
                let mut stream = TcpStream::connect(&addr).unwrap();
                stream.write_all(bytes).unwrap();
                stream
            })
            .collect();
        assert_eq!(fetch(&addr, "blob 5", &client(None)).unwrap(), pattern(5));
        assert!(begun.elapsed() >= SHORT * u32::try_from(hanging.len()).unwrap());
        assert!(cpu_time() - cpu < SHORT / 2, "it spins");
        for stream in hanging {
            rest_of(&stream);
        }
    }
}

#[test]
fn a_handler_that_panics_frees_its_place() {
    let (_server, _, addr) = serve(ServerConfig {
        max_connections: 1,
        ..ServerConfig::default()
    });
    for _ in 0..3 {
        let e = fetch(&addr, "panic now", &client(None)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
    }
    assert_eq!(fetch(&addr, "blob 5", &client(None)).unwrap(), pattern(5));
}

#[test]
fn an_idle_listener_uses_no_cpu() {
    let (_server, _, _) = serve(ServerConfig::default());
    let before = cpu_time();
    thread::sleep(Duration::from_millis(300));
    assert!(cpu_time() - before < Duration::from_millis(30));
}
