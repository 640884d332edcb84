//! What goes wrong ends in a typed error, once, and no byte goes out of place.

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use common::{
    proxy::{Proxy, at_port, port_of},
    *,
};
use nixl_core::{Error, ErrorKind, Op, RegionKey, Secret, plan::RemoteRegion};
use nixl_tcp::TcpConfig;

fn pair() -> (Node, Node) {
    (Node::new("a", loopback()), Node::new("b", loopback()))
}

fn kind(r: Result<(), Error>) -> ErrorKind {
    r.unwrap_err().kind()
}

#[test]
fn a_peer_without_the_secret_is_refused() {
    let (a, b) = pair();
    let mut wrong = b.card.clone();
    wrong.secret = Secret([0xee; 32]);
    let e = a.try_connect(&wrong).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Unauthenticated, "{e}");
    let mut other = b.card.clone();
    other.name = "somebody".to_owned();
    let e = a.try_connect(&other).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::PeerMisbehaved, "{e}");
    let mut old = b.card.clone();
    old.generation.0 ^= 1;
    let e = a.try_connect(&old).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
    assert!(b.upper.accepted.lock().is_empty());
}

#[test]
fn nobody_speaks_under_a_loaded_peers_name_without_its_secret() {
    let (a, b) = pair();
    let (_, far) = a.connect(&b);
    assert!(
        !far.peer.unwrap().verified,
        "a stranger's name is only a claim"
    );
    b.upper.loaded.lock().push(a.identity.clone());
    let (_, far) = a.connect(&b);
    assert!(far.peer.unwrap().verified);
    let mut real = a.identity.clone();
    real.secret = Secret([9; 32]);
    *b.upper.loaded.lock() = vec![real];
    let e = a.try_connect(&b.card).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Unauthenticated, "{e}");
}

/// Sends `bytes` to `node`'s listener and returns what it says before it closes.
fn shout(node: &Node, bytes: &[u8]) -> Vec<u8> {
    let mut s = TcpStream::connect(("127.0.0.1", port_of(&node.card))).unwrap();
    s.set_read_timeout(Some(LONG)).unwrap();
    let _ = s.write_all(bytes);
    let mut out = Vec::new();
    let mut buf = [0; 1000];
    while let Ok(n) = s.read(&mut buf) {
        if n == 0 {
            break;
        }
        out.extend(&buf[..n]);
    }
    out
}

#[test]
fn garbage_at_the_door_is_shown_out() {
    let (a, b) = pair();
    shout(&b, b"GET / HTTP/1.1\r\n\r\n");
    shout(&b, b"NXT\x01\x04\0\x08\0........");
    shout(&b, b"NXT\x02\x01\0\0\0");
    let mut rng = Lcg(5);
    for _ in 0..50 {
        let mut bytes = b"NXT\x01\x01\0\x40\0".to_vec();
        bytes.extend((0..64).map(|_| rng.below(256) as u8));
        let answer = shout(&b, &bytes);
        assert_eq!(answer[4], 6, "a hello of garbage was answered: {answer:?}");
    }
    a.connect(&b);
}

#[test]
fn a_replayed_handshake_and_a_replayed_join_are_refused() {
    let (a, b) = pair();
    let proxy = Proxy::new(&b.card, i64::MAX);
    let _link = a.try_connect(&proxy.card(&b.card)).unwrap();
    b.until("the peer to accept", || !b.upper.accepted.lock().is_empty());
    let sent = proxy.shared.sent.lock().clone();
    for stream in &sent {
        let answer = shout(&b, stream);
        assert!(
            !answer.windows(5).any(|w| w == b"NXT\x01\x05"),
            "a replay was welcomed"
        );
    }
    assert_eq!(sent.len(), 5);
    assert_eq!(b.upper.accepted.lock().len(), 1);
}

#[test]
fn wrong_keys_and_bounds_fail_before_memory_is_touched() {
    let (a, b) = pair();
    let (link, _) = a.connect(&b);
    let near = a.filled(8192, 1);
    let far = b.filled(8192, 2);
    let guard = b.filled(8192, 3);
    let real = RemoteRegion::from(&far.card());
    let blocks = vec![(0, 4096)];
    let tail = vec![(6000, 4096)];
    for op in [Op::Read, Op::Write] {
        let wrong = RemoteRegion {
            key: RegionKey([7; 16]),
            ..real.clone()
        };
        let p = plan_with(op, &near, &blocks, &wrong, &blocks);
        assert_eq!(kind(run(&a, &link, &p)), ErrorKind::NotRegistered);
        let moved = RemoteRegion {
            addr: real.addr - 4096,
            ..real.clone()
        };
        let p = plan_with(op, &near, &blocks, &moved, &blocks);
        assert_eq!(kind(run(&a, &link, &p)), ErrorKind::NotRegistered);
        let longer = RemoteRegion {
            len: 1 << 30,
            ..real.clone()
        };
        let p = plan_with(op, &near, &blocks, &longer, &tail);
        assert_eq!(kind(run(&a, &link, &p)), ErrorKind::NotRegistered);
    }
    assert!(bytes(&near).iter().all(|b| *b == 1));
    assert!(bytes(&far).iter().all(|b| *b == 2));
    assert!(bytes(&guard).iter().all(|b| *b == 3));
    let p = plan(Op::Read, &near, &blocks, &far, &blocks);
    run(&a, &link, &p).unwrap();
}

#[test]
fn a_withdrawn_region_fails_later_requests() {
    let (a, b) = pair();
    let (link, _) = a.connect(&b);
    let (near, far) = (a.filled(1 << 20, 1), b.filled(1 << 20, 2));
    let all = vec![(0, 1 << 20)];
    for op in [Op::Read, Op::Write] {
        let p = plan(op, &near, &all, &far, &all);
        run(&a, &link, &p).unwrap();
    }
    assert!(b.regions.withdraw(&far));
    for op in [Op::Read, Op::Write] {
        let p = plan(op, &near, &all, &far, &all);
        assert_eq!(kind(run(&a, &link, &p)), ErrorKind::NotRegistered);
    }
    assert_eq!(far.pins(), 0);
}

#[test]
fn a_region_withdrawn_midway_is_let_go_at_once_and_stays_as_it_is() {
    let (a, b) = pair();
    let proxy = Proxy::new(&b.card, i64::MAX);
    let link = a.try_connect(&proxy.card(&b.card)).unwrap();
    let size = 64 << 20;
    for op in [Op::Read, Op::Write] {
        let (near, far) = (a.filled(size, 1), b.filled(size, 2));
        let all = vec![(0, size)];
        let p = plan(op, &near, &all, &far, &all);
        let t = link.endpoint.prepare("tcp", &p).unwrap();
        let before = proxy.passed();
        let op1 = post(&t, &p).unwrap();
        a.until("some bytes to pass", || proxy.passed() > before + (1 << 20));
        proxy.shared.paused.store(true, SeqCst);
        b.regions.withdraw(&far);
        b.until("the pins to go", || far.pins() == 0);
        let frozen = bytes(&far);
        proxy.shared.paused.store(false, SeqCst);
        assert_eq!(kind(op1.wait(&a)), ErrorKind::NotRegistered);
        assert!(bytes(&far) == frozen, "{op:?}: withdrawn memory changed");
        // The connection is as good as before.
        let fresh = b.filled(size, 5);
        let p = plan(op, &near, &all, &fresh, &all);
        run(&a, &link, &p).unwrap();
        assert!(bytes(&near) == bytes(&fresh));
    }
}

#[test]
fn a_cancelled_request_ends_and_its_memory_is_left_alone() {
    let (a, b) = pair();
    let proxy = Proxy::new(&b.card, i64::MAX);
    let link = a.try_connect(&proxy.card(&b.card)).unwrap();
    let size = 64 << 20;
    for op in [Op::Read, Op::Write] {
        let (near, far) = (a.filled(size, 1), b.filled(size, 2));
        let all = vec![(0, size)];
        let p = plan(op, &near, &all, &far, &all);
        let t = link.endpoint.prepare("tcp", &p).unwrap();
        let before = proxy.passed();
        let op1 = post(&t, &p).unwrap();
        a.until("some bytes to pass", || proxy.passed() > before + (1 << 20));
        t.cancel();
        assert_eq!(kind(op1.wait(&a)), ErrorKind::Cancelled);
        for _ in 0..3 {
            // Posting again right away must not meet bytes of the first time.
            let op1 = post(&t, &p).unwrap();
            t.cancel();
            let _ = op1.wait(&a);
        }
        run(&a, &link, &p).unwrap();
        assert!(bytes(&near) == bytes(&far), "{op:?}");
    }
}

#[test]
fn cancelled_memory_is_not_written_after_the_end() {
    let (a, b) = pair();
    let proxy = Proxy::new(&b.card, i64::MAX);
    let link = a.try_connect(&proxy.card(&b.card)).unwrap();
    let size = 32 << 20;
    let all = vec![(0, size)];
    for op in [Op::Read, Op::Write] {
        let (near, far) = (a.filled(size, 1), b.filled(size, 2));
        let dst = if op == Op::Read { &near } else { &far };
        let p = plan(op, &near, &all, &far, &all);
        let t = link.endpoint.prepare("tcp", &p).unwrap();
        let before = proxy.passed();
        let op1 = post(&t, &p).unwrap();
        a.until("some bytes to pass", || proxy.passed() > before + (1 << 20));
        t.cancel();
        assert_eq!(kind(op1.wait(&a)), ErrorKind::Cancelled);
        dst.write_at(0, &vec![9; size as usize]).unwrap();
        // All that was on its way arrives before this does: the streams are in order, and each
        // chunk of this one goes over one of them.
        let (n2, f2) = (a.filled(size, 3), b.filled(size, 4));
        run(&a, &link, &plan(op, &n2, &all, &f2, &all)).unwrap();
        assert!(
            bytes(dst).iter().all(|b| *b == 9),
            "{op:?}: late bytes landed"
        );
    }
}

#[test]
fn a_cancelled_write_whose_target_is_silent_closes_the_connection() {
    let config = TcpConfig {
        cancel_grace: Duration::from_millis(200),
        ..loopback()
    };
    let (a, b) = (Node::new("a", config), Node::new("b", loopback()));
    let proxy = Proxy::new(&b.card, i64::MAX);
    let link = a.try_connect(&proxy.card(&b.card)).unwrap();
    let size = 64 << 20;
    let (near, far) = (a.filled(size, 1), b.filled(size, 2));
    let all = vec![(0, size)];
    let p = plan(Op::Write, &near, &all, &far, &all);
    let t = link.endpoint.prepare("tcp", &p).unwrap();
    proxy.shared.paused.store(true, SeqCst);
    let op1 = post(&t, &p).unwrap();
    a.until("the socket to fill", || t.moved() > 0);
    t.cancel();
    assert_eq!(kind(op1.wait(&a)), ErrorKind::Cancelled);
    assert!(!t.fenced(), "bytes may still land");
    a.until("the end", || link.inbox.closed.lock().is_some());
    let e = post(&t, &p).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
}

#[test]
fn a_slow_peer_only_takes_longer() {
    let (a, b) = pair();
    let proxy = Proxy::new(&b.card, i64::MAX);
    let link = a.try_connect(&proxy.card(&b.card)).unwrap();
    let size = 16 << 20;
    let (near, far) = (a.filled(size, 1), b.region(size, pattern));
    let all = vec![(0, size)];
    let p = plan(Op::Read, &near, &all, &far, &all);
    let t = link.endpoint.prepare("tcp", &p).unwrap();
    proxy.shared.paused.store(true, SeqCst);
    let op1 = post(&t, &p).unwrap();
    let until = Instant::now() + Duration::from_millis(300);
    assert!(!a.runtime.wait(until, || op1.is_done()));
    proxy.shared.paused.store(false, SeqCst);
    op1.wait(&a).unwrap();
    assert!(bytes(&near) == bytes(&far));
}

#[test]
fn a_connection_cut_at_any_byte_ends_everything_once() {
    let (a, b) = pair();
    let size = 300_000;
    let blocks: Blocks = (0..30).map(|i| (i * 10_000, 5_000)).collect();
    let mut whole = 0;
    for step in 0..120 {
        let budget = step * step * 40;
        let proxy = Proxy::new(&b.card, budget);
        let link = match a.try_connect(&proxy.card(&b.card)) {
            Ok(link) => link,
            Err(e) => {
                assert_ne!(e.kind(), ErrorKind::Unauthenticated, "{e}");
                continue;
            }
        };
        let (near, far) = (a.filled(size, 1), b.region(size, pattern));
        let (near0, far0) = (bytes(&near), bytes(&far));
        let op = if step % 2 == 0 { Op::Read } else { Op::Write };
        let p = plan(op, &near, &blocks, &far, &blocks);
        let t = link.endpoint.prepare("tcp", &p).unwrap();
        match post(&t, &p).and_then(|o| o.wait(&a)) {
            Ok(()) => whole += 1,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
                a.until("the end", || link.inbox.closed.lock().is_some());
            }
        }
        // The source is untouched, the gaps of the destination too.
        let (src, src0, dst, dst0) = match op {
            Op::Read => (bytes(&far), far0, bytes(&near), near0),
            Op::Write => (bytes(&near), near0, bytes(&far), far0),
        };
        assert!(src == src0);
        let gap = |i: usize| i % 10_000 >= 5_000;
        assert!(
            (0..dst.len())
                .filter(|i| gap(*i))
                .all(|i| dst[i] == dst0[i])
        );
        proxy.cut();
    }
    assert!(whole > 10, "only {whole} transfers got through");
}

#[test]
fn a_peer_that_dies_ends_requests_of_both_sides() {
    let (a, b) = pair();
    let proxy = Proxy::new(&b.card, i64::MAX);
    let link = a.try_connect(&proxy.card(&b.card)).unwrap();
    b.until("the peer to accept", || !b.upper.accepted.lock().is_empty());
    let far_link = b.upper.accepted.lock()[0].clone();
    let size = 32 << 20;
    let (near, far) = (a.filled(size, 1), b.filled(size, 2));
    let all = vec![(0, size)];
    proxy.shared.paused.store(true, SeqCst);
    let mut ops = Vec::new();
    for op in [Op::Read, Op::Write] {
        let p = plan(op, &near, &all, &far, &all);
        ops.push((
            &a,
            post(&link.endpoint.prepare("tcp", &p).unwrap(), &p).unwrap(),
        ));
        let p = plan(op, &far, &all, &near, &all);
        ops.push((
            &b,
            post(&far_link.endpoint.prepare("tcp", &p).unwrap(), &p).unwrap(),
        ));
    }
    proxy.cut();
    for (node, op) in ops {
        assert_eq!(kind(op.wait(node)), ErrorKind::PeerGone);
    }
    a.until("the end", || link.inbox.closed.lock().is_some());
    b.until("the end", || far_link.inbox.closed.lock().is_some());
    assert_eq!((near.pins(), far.pins()), (0, 0));
}

#[test]
fn closing_ends_requests_and_tells_both_sides() {
    let (a, b) = pair();
    let (link, far_link) = a.connect(&b);
    let size = 64 << 20;
    let (near, far) = (a.filled(size, 1), b.filled(size, 2));
    let all = vec![(0, size)];
    let p = plan(Op::Read, &near, &all, &far, &all);
    let op1 = post(&link.endpoint.prepare("tcp", &p).unwrap(), &p).unwrap();
    link.endpoint.close();
    assert_eq!(kind(op1.wait(&a)), ErrorKind::PeerGone);
    a.until("the end", || link.inbox.closed.lock().is_some());
    b.until("the end", || far_link.inbox.closed.lock().is_some());
    assert!(link.endpoint.send(vec![1].into()).is_err());
}

#[test]
fn nobody_there_and_half_open_handshakes_end_in_time() {
    let config = TcpConfig {
        connect_timeout: Duration::from_millis(300),
        ..loopback()
    };
    let (a, b) = (Node::new("a", config.clone()), Node::new("b", config));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    // Somebody who accepts and never says a word.
    let e = a.try_connect(&at_port(&b.card, port)).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
    drop(free);
    let e = a.try_connect(&at_port(&b.card, port)).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
    // And the other way round: the listener hangs up on a silent guest.
    assert!(shout(&b, b"").is_empty());
    a.connect(&b);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let backend = nixl_tcp::TcpBackend::new(TcpConfig { port, ..loopback() }).unwrap();
    let node = Node::new("a", loopback());
    let ctx = node.context();
    let e = nixl_core::backend::Backend::start(&backend, ctx).unwrap_err();
    assert!(e.message().contains("another process has this port"), "{e}");
    assert!(
        nixl_tcp::TcpBackend::new(TcpConfig {
            streams: 0,
            ..loopback()
        })
        .is_err()
    );
}

#[test]
fn out_of_file_descriptors_refuses_and_recovers() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let (a, b) = pair();
    let old = getrlimit(Resource::Nofile);
    let mut hold: Vec<_> = (0..200)
        .map(|_| std::fs::File::open("/dev/null").unwrap())
        .collect();
    let used = hold
        .last()
        .map(|f| std::os::fd::AsRawFd::as_raw_fd(f) as u64)
        .unwrap();
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(used + 4),
            maximum: old.maximum,
        },
    )
    .unwrap();
    let e = a.try_connect(&b.card).err().unwrap();
    assert!(
        matches!(
            e.kind(),
            ErrorKind::PeerGone | ErrorKind::Backend | ErrorKind::Timeout
        ),
        "{e}"
    );
    hold.clear();
    setrlimit(Resource::Nofile, old).unwrap();
    a.connect(&b);
}

#[test]
fn cancels_that_cross_the_end_harm_nobody() {
    let (a, b) = pair();
    let (link, far_link) = a.connect(&b);
    let (near, far) = (a.filled(8192, 1), b.filled(8192, 2));
    let blocks = vec![(0, 512), (4096, 512)];
    let mut rng = Lcg(11);
    let (mut done, mut cancelled) = (0, 0);
    for i in 0..4000 {
        let op = if i % 2 == 0 { Op::Read } else { Op::Write };
        let p = plan(op, &near, &blocks, &far, &blocks);
        let t = link.endpoint.prepare("tcp", &p).unwrap();
        let op1 = post(&t, &p).unwrap();
        let until = Instant::now() + Duration::from_micros(rng.below(60));
        while Instant::now() < until && !op1.is_done() {
            std::hint::spin_loop();
        }
        t.cancel();
        match op1.wait(&a) {
            Ok(()) => done += 1,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Cancelled, "{e}");
                cancelled += 1;
            }
        }
    }
    assert!(
        done > 0 && cancelled > 0,
        "{done} done, {cancelled} cancelled"
    );
    let p = plan(Op::Read, &near, &blocks, &far, &blocks);
    run(&a, &link, &p).unwrap();
    assert!(link.inbox.closed.lock().is_none() && far_link.inbox.closed.lock().is_none());
}
