//! Notifications: after the data, in order, exactly once, from whom they say.

use std::time::{Duration, Instant};

use nixl_conformance::sim::SimConfig;
use nixl_core::{AgentConfig, ErrorKind, Op, PostOptions};

use crate::world::*;

const ORDER: [u64; 4] = [9, 3, 4, 200];

fn with(data: &[u8]) -> PostOptions {
    PostOptions {
        notification: Some(bytes::Bytes::copy_from_slice(data)),
        ..PostOptions::default()
    }
}

#[test]
fn a_transfers_notification_comes_after_its_data() {
    let (a, b) = pair(&[sim("sim", 0)]);
    let request = request(Op::Write, &a, &b, &ORDER).unwrap();
    request.post_with(with(b"done")).unwrap();
    let n = b.agent.wait_notification(LONG).unwrap();
    assert_eq!((&n.data[..], &*n.from), (&b"done"[..], "a"));
    assert!(!n.verified, "a is not loaded at b");
    check(Op::Write, &a, &b, &ORDER);
    request.wait(LONG).unwrap();
}

#[test]
fn a_failed_transfer_notifies_nobody() {
    let (a, b) = pair(&[sim("sim", 0)]);
    let request = completed(Op::Read, &a, &b, &ORDER);
    a.sims[0].faults(|f| f.stall_after = Some(0));
    request.post_with(with(b"never")).unwrap();
    request.cancel();
    request.wait(LONG).unwrap_err();
    a.agent.notify("b", b"later").unwrap();
    let n = b.agent.wait_notification(LONG).unwrap();
    assert_eq!(&n.data[..], b"later");
    assert!(b.agent.notifications().is_empty());
}

#[test]
fn notifications_keep_their_order_and_survive_cut_connections() {
    let (a, b) = pair(&[sim("one", 0), sim("two", 1)]);
    let count = 300u32;
    for i in 0..count {
        a.agent.notify("b", &i.to_le_bytes()).unwrap();
        if i % 70 == 69 {
            a.sims[(i / 70) as usize % 2].cut();
        }
    }
    for i in 0..count {
        let n = b.agent.wait_notification(LONG).unwrap();
        assert_eq!(&n.data[..], i.to_le_bytes(), "number {i}");
    }
    std::thread::sleep(Duration::from_millis(50));
    assert!(b.agent.notifications().is_empty(), "one came twice");
}

#[test]
fn loaded_senders_are_verified_and_strangers_can_be_refused() {
    let (a, b) = pair(&[sim("sim", 0)]);
    b.agent.load_metadata(&a.agent.metadata().unwrap()).unwrap();
    a.agent.notify("b", b"hello").unwrap();
    assert!(b.agent.wait_notification(LONG).unwrap().verified);

    let closed = AgentConfig {
        accept_unverified: false,
        ..quick()
    };
    let c = Party::new("c", &[sim("sim", 0)], closed);
    a.agent.load_metadata(&c.agent.metadata().unwrap()).unwrap();
    a.agent.notify("c", b"hello").unwrap();
    assert!(
        c.agent
            .wait_notification(Duration::from_millis(100))
            .is_none()
    );
    c.agent.load_metadata(&a.agent.metadata().unwrap()).unwrap();
    assert!(c.agent.wait_notification(LONG).unwrap().verified);
}

/// The target's acknowledgements can be lost with one of two connections.
#[test]
fn credit_comes_back_although_a_connection_is_lost_with_it() {
    let small = AgentConfig {
        notification_window: 10_000,
        ..quick()
    };
    let configs: &[SimConfig] = &[sim("one", 0), sim("two", 1)];
    let a = Party::new("a", configs, small.clone());
    let b = Party::new("b", configs, small);
    a.agent.load_metadata(&b.agent.metadata().unwrap()).unwrap();
    a.agent.connect("b", LONG).unwrap();
    let begun = Instant::now();
    while a.sims.iter().any(|s| s.counts().connects == 0) {
        assert!(begun.elapsed() < LONG);
    }
    std::thread::sleep(Duration::from_millis(50));
    let sends = || [0, 1].map(|i: usize| b.sims[i].counts().sends);
    let before = sends();
    a.sims
        .iter()
        .for_each(|s| s.faults(|f| f.hold_messages = true));
    while a.agent.notify("b", &[7; 1000]).is_ok() {}
    while b
        .agent
        .wait_notification(Duration::from_millis(50))
        .is_some()
    {}
    let by = loop {
        assert!(begun.elapsed() < LONG, "no acknowledgement");
        if let Some(i) = (0..2).find(|i| sends()[*i] > before[*i]) {
            break i;
        }
    };
    std::thread::sleep(Duration::from_millis(50));
    a.sims[by].cut();
    a.sims.iter().for_each(|s| s.release());
    while let Err(e) = a.agent.notify("b", &[7; 1000]) {
        assert_eq!(e.kind(), ErrorKind::Exhausted);
        assert!(begun.elapsed() < LONG, "credit did not come back");
        std::thread::yield_now();
    }
}

#[test]
fn a_full_queue_stops_its_sender_until_the_target_takes_some() {
    let small = AgentConfig {
        notification_window: 10_000,
        ..quick()
    };
    let configs: &[SimConfig] = &[sim("sim", 0)];
    let a = Party::new("a", configs, small.clone());
    let b = Party::new("b", configs, small);
    a.agent.load_metadata(&b.agent.metadata().unwrap()).unwrap();
    let mut sent = 0;
    let full = loop {
        match a.agent.notify("b", &[sent as u8; 1000]) {
            Ok(()) => sent += 1,
            Err(e) => break e,
        }
    };
    assert_eq!((full.kind(), sent), (ErrorKind::Exhausted, 9));
    b.agent.notify("b", b"other senders go on").unwrap();
    let mut got = Vec::new();
    while got.len() < 10 {
        got.push(b.agent.wait_notification(LONG).unwrap());
    }
    let begun = Instant::now();
    while let Err(e) = a.agent.notify("b", b"again") {
        assert_eq!(e.kind(), ErrorKind::Exhausted);
        assert!(begun.elapsed() < LONG, "credit did not come back");
        std::thread::yield_now();
    }
    let too_big = vec![0; (16 << 20) + 1];
    assert_eq!(
        a.agent.notify("b", &too_big).unwrap_err().kind(),
        ErrorKind::ApiMisuse
    );
    assert_eq!(
        a.agent.notify("x", b"").unwrap_err().kind(),
        ErrorKind::NotFound
    );
}
