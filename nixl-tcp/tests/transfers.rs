//! Bytes land in their place, over every kind of list and in both directions.

mod common;

use common::*;
use nixl_core::{Op, runtime::Progress};
use nixl_tcp::TcpConfig;

/// Moves blocks both ways and checks every byte of both memories.
fn check(a: &Node, b: &Node, link: &Link, mine: &Blocks, theirs: &Blocks, size: u64) {
    for op in [Op::Read, Op::Write] {
        let near = a.region(size, |i| pattern(i ^ 0x1111));
        let far = b.region(size, |i| pattern(i ^ 0x7777_0000));
        let (near0, far0) = (bytes(&near), bytes(&far));
        let plan = plan(op, &near, mine, &far, theirs);
        let transfer = link.endpoint.prepare("tcp", &plan).unwrap();
        for _ in 0..3 {
            post(&transfer, &plan).unwrap().wait(a).unwrap();
            assert_eq!(transfer.moved(), plan.bytes());
        }
        let (want_near, want_far) = match op {
            Op::Read => (expected(&near0, mine, &far0, theirs), far0),
            Op::Write => (near0.clone(), expected(&far0, theirs, &near0, mine)),
        };
        assert!(bytes(&near) == want_near, "{op:?}: local bytes differ");
        assert!(bytes(&far) == want_far, "{op:?}: remote bytes differ");
    }
}

#[test]
fn every_byte_lands_in_its_place() {
    let (a, b) = (Node::new("a", loopback()), Node::new("b", loopback()));
    let (link, _) = a.connect(&b);
    let mut rng = Lcg(1);
    for (n, len) in [
        (1, 8),
        (1, 1),
        (3, 5000),
        (64, 64 << 10),
        (3000, 100),
        (1, 9 << 20),
    ] {
        let (mine, theirs) = (rng.blocks(n, len), rng.blocks(n, len));
        check(&a, &b, &link, &mine, &theirs, n * len * 2);
    }
}

#[test]
fn one_stream_and_sixteen_give_the_same_bytes() {
    for streams in [1, 16] {
        let config = TcpConfig {
            streams,
            ..loopback()
        };
        let (a, b) = (Node::new("a", config), Node::new("b", loopback()));
        let (link, far) = a.connect(&b);
        assert_eq!(link.endpoint.describe("tcp"), format!("tcp/{streams}"));
        assert_eq!(far.endpoint.describe("tcp"), format!("tcp/{streams}"));
        let (mine, theirs) = (Lcg(2).blocks(500, 7000), Lcg(3).blocks(500, 7000));
        check(&a, &b, &link, &mine, &theirs, 500 * 14_000);
        check(&b, &a, &far, &mine, &theirs, 500 * 14_000);
    }
}

#[test]
fn a_caller_without_threads_makes_progress_by_itself() {
    let a = Node::with("a", loopback(), Progress::Caller);
    let b = Node::new("b", loopback());
    let (link, _) = a.connect(&b);
    let (mine, theirs) = (Lcg(4).blocks(200, 9000), Lcg(5).blocks(200, 9000));
    check(&a, &b, &link, &mine, &theirs, 200 * 18_000);
}

#[test]
fn many_requests_at_once_all_end() {
    let few = TcpConfig {
        slots: 3,
        ..loopback()
    };
    let (a, b) = (Node::new("a", loopback()), Node::new("b", few));
    let (link, far_link) = a.connect(&b);
    let near = a.filled(64 * 4096, 0);
    let far = b.region(64 * 4096, pattern);
    let near2 = b.filled(64 * 4096, 0);
    let far2 = a.region(64 * 4096, |i| pattern(i + 99));
    let mut ops = Vec::new();
    for i in 0..64 {
        let block = vec![(i * 4096, 4096)];
        let p = plan(Op::Read, &near, &block, &far, &block);
        let t = link.endpoint.prepare("tcp", &p).unwrap();
        ops.push((&a, post(&t, &p).unwrap(), t));
        let p = plan(Op::Read, &near2, &block, &far2, &block);
        let t = far_link.endpoint.prepare("tcp", &p).unwrap();
        ops.push((&b, post(&t, &p).unwrap(), t));
    }
    for (node, op, _) in &ops {
        op.wait(node).unwrap();
    }
    assert!(bytes(&near) == bytes(&far));
    assert!(bytes(&near2) == bytes(&far2));
}

#[test]
fn messages_arrive_whole_and_in_order_while_payload_flows() {
    let (a, b) = (Node::new("a", loopback()), Node::new("b", loopback()));
    let (link, far_link) = a.connect(&b);
    let size = 64 << 20;
    let (near, far) = (a.filled(size, 0), b.region(size, pattern));
    let all = vec![(0, size)];
    let p = plan(Op::Read, &near, &all, &far, &all);
    let t = link.endpoint.prepare("tcp", &p).unwrap();
    let op = post(&t, &p).unwrap();
    let message = |i: usize| -> Vec<u8> {
        let len = [0, 1, 100, 5000, 3 << 20][i % 5];
        (0..len)
            .map(|k| (k as u8).wrapping_mul(3) ^ i as u8)
            .collect()
    };
    for i in 0..20 {
        link.endpoint.send(message(i).into()).unwrap();
        far_link.endpoint.send(message(i + 1).into()).unwrap();
    }
    a.until("messages", || link.inbox.messages.lock().len() == 20);
    b.until("messages", || far_link.inbox.messages.lock().len() == 20);
    for i in 0..20 {
        assert!(
            far_link.inbox.messages.lock()[i] == message(i),
            "message {i}"
        );
        assert!(
            link.inbox.messages.lock()[i] == message(i + 1),
            "message {i}"
        );
    }
    op.wait(&a).unwrap();
    assert!(bytes(&near) == bytes(&far));
    assert!(link.endpoint.send(vec![0; 17 << 20].into()).is_err());
}

#[test]
fn every_address_family_and_host_names_connect() {
    let hosts: [(Option<&str>, &[&str]); 4] = [
        (None, &[]),
        (Some("127.0.0.1"), &[]),
        (Some("::1"), &[]),
        (None, &["name.invalid", "localhost"]),
    ];
    for (bind, names) in hosts {
        let config = TcpConfig {
            bind: bind.map(|b| b.parse().unwrap()),
            advertise: names.iter().map(|n| (*n).to_owned()).collect(),
            ..TcpConfig::default()
        };
        if bind == Some("::1") && std::net::TcpListener::bind("[::1]:0").is_err() {
            eprintln!("SKIP IPv6: this host has no ::1");
            continue;
        }
        let (a, b) = (Node::new("a", loopback()), Node::new("b", config));
        let (link, _) = a.connect(&b);
        let blocks = vec![(0, 100)];
        check(&a, &b, &link, &blocks, &blocks, 100);
    }
}
