//! TCP connections that break at any byte, or fall silent.

use std::time::{Duration, Instant};

use bytes::Bytes;
use nixl::{Agent, ErrorKind, Op, PostOptions, Region, Request};

use crate::{
    proxy::target,
    world::{
        LIMIT, Memory, ONCE, SIZE, SOON, agent, check_partial, config, image, moved, noise, within,
    },
};

const OPS: [Op; 2] = [Op::Read, Op::Write];

fn with(text: &str) -> PostOptions {
    PostOptions {
        notification: Some(Bytes::from(text.to_owned())),
        deadline: Some(LIMIT),
    }
}

/// The next notification that `far` takes.
fn heard(far: &Agent) -> String {
    let n = far.wait_notification(LIMIT).expect("a notification");
    String::from_utf8(n.data.to_vec()).unwrap()
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ (z >> 27)) >> 16
}

/// READs start over and succeed; lone notifications and those of READs arrive exactly once, in
/// the order in which they became deliverable.
#[test]
fn reads_and_notifications_survive_cuts() {
    let (far, there, proxy) = target(2);
    let near = agent("near", "tcp");
    near.load_metadata(&far.metadata().unwrap()).unwrap();
    let here = Memory::new(&near, "tcp", 1);
    let request = ONCE
        .request(Op::Read, &near, &here, "far", there.addr())
        .unwrap();
    request.post_with(within(LIMIT)).unwrap();
    request.wait(LIMIT).unwrap();

    let (mut sent, mut seed) = (Vec::new(), 1);
    for round in 0..12 {
        here.fill(1);
        let cut = (random(&mut seed) % (SIZE - 1000)) as usize;
        proxy.cut_after(cut);
        for i in 0..20 {
            let text = format!("lone-{round}-{i}");
            near.notify("far", text.as_bytes()).unwrap();
            sent.push(text);
        }
        let text = format!("read-{round}");
        request.post_with(with(&text)).unwrap();
        request.wait(LIMIT).unwrap();
        sent.push(text);
        here.check(&moved(Op::Read, 2));
        assert!(!proxy.is_whole(), "{cut} bytes were not cut");
        let receipt = request.receipt().unwrap();
        let failures: Vec<_> = receipt.failures.iter().map(|f| f.1.kind()).collect();
        // A cut before the post is noticed before the first attempt, or by it.
        assert_eq!(receipt.attempts as usize, failures.len() + 1);
        assert!(failures.iter().all(|k| *k == ErrorKind::PeerGone));
        if cut > 200_000 {
            assert_eq!(receipt.attempts, 2, "after {cut} bytes");
        }
    }
    for text in &sent {
        assert_eq!(heard(&far), *text);
    }
    near.notify("far", b"last").unwrap();
    assert_eq!(heard(&far), "last", "something arrived twice");
    there.check(&image(2));
    here.deregister(&near);
    there.deregister(&far);
}

/// A small transfer whose connections break after `k` bytes, for many `k`: handshake, opening,
/// payload and acknowledgement are cut everywhere.
#[test]
fn a_cut_at_any_byte_is_survived_or_reported() {
    let (far, _, proxy) = target(2);
    let near = agent("near", "tcp");
    let (mut lost, mut retried) = (0, 0);
    for step in 0..100 {
        let op = OPS[step % 2];
        // Fresh memory: what a lost WRITE had sent may land until its target sees the end.
        let [here, there] =
            [&near, &far].map(|agent| agent.register_buffer(vec![0; 6000]).unwrap());
        near.load_metadata(&far.metadata().unwrap()).unwrap();
        proxy.cut_after(step * step + step / 2);
        match small(op, &near, [&here, &there], &format!("{step}")) {
            Ok(attempts) => {
                retried += u32::from(attempts > 1);
                assert_eq!(heard(&far), format!("{step}"));
            }
            Err(e) => {
                lost += 1;
                assert_eq!(e.kind(), ErrorKind::PeerGone, "{op:?}: {e}");
            }
        }
        proxy.never_cut();
        near.remove_peer("far").unwrap();
        near.deregister(&here, SOON).unwrap();
        far.deregister(&there, SOON).unwrap();
    }
    assert!(retried > 5, "only {retried} requests were tried again");
    assert!(lost > 0, "no WRITE was lost");
    near.load_metadata(&far.metadata().unwrap()).unwrap();
    near.notify("far", b"last").unwrap();
    assert_eq!(heard(&far), "last", "a failed request notified");
}

fn buffer(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; region.len() as usize];
    region.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Every other 100 bytes; the attempts it took.
fn small(op: Op, near: &Agent, [here, there]: [&Region; 2], text: &str) -> nixl::Result<u32> {
    let fill = |region: &Region, seed| {
        let bytes = noise(seed, 6000);
        region.write_at(0, &bytes).unwrap();
        bytes
    };
    let (ours, theirs) = (fill(here, 1), fill(there, 2));
    let list = |base: u64| nixl::DescList::dram((0..30).map(|i| (base + i * 200, 100)));
    let request = near.create_request(op, &list(here.addr()), "far", &list(there.addr()))?;
    request.post_with(with(text))?;
    let result = request.wait(LIMIT);
    let (source, before, sink) = match op {
        Op::Read => (&theirs, &ours, here),
        Op::Write => (&ours, &theirs, there),
    };
    let after: Vec<u8> = (0..6000)
        .map(|i| if i % 200 < 100 { source[i] } else { before[i] })
        .collect();
    match result {
        Ok(()) => crate::world::same(&buffer(sink), &after),
        Err(_) => check_partial(&buffer(sink), before, &after),
    }
    let untouched = if op == Op::Read { there } else { here };
    crate::world::same(&buffer(untouched), source);
    result.map(|()| request.receipt().unwrap().attempts)
}

/// A line that falls silent: `Timeout` at the deadline, nothing lands later, and the line that
/// comes back serves again.
#[test]
fn a_silent_line_ends_requests_at_their_deadline() {
    let (far, there, proxy) = target(2);
    let near = agent("near", "tcp");
    near.load_metadata(&far.metadata().unwrap()).unwrap();
    let here = Memory::new(&near, "tcp", 1);
    for op in OPS {
        let request = ONCE.request(op, &near, &here, "far", there.addr()).unwrap();
        run(&request);
        here.fill(1);
        there.fill(2);
        proxy.freeze();
        let posted = Instant::now();
        request
            .post_with(within(Duration::from_millis(600)))
            .unwrap();
        let e = request.wait(LIMIT).unwrap_err();
        let took = posted.elapsed();
        assert_eq!(e.kind(), ErrorKind::Timeout, "{op:?}: {e}");
        assert!((500..2500).contains(&took.as_millis()), "{op:?}: {took:?}");
        here.check_quiet();
        proxy.thaw();
        here.fill(1);
        run(&request);
        match op {
            Op::Read => here.check(&moved(op, 2)),
            Op::Write => there.check(&moved(op, 1)),
        }
    }
    here.deregister(&near);
    there.deregister(&far);
}

fn run(request: &Request) {
    request.post_with(within(LIMIT)).unwrap();
    request.wait(LIMIT).unwrap();
}

/// Nobody answers the connect: an error in bounded time, and no harm done.
#[test]
fn a_silent_line_ends_connects() {
    let (far, there, proxy) = target(2);
    let mut config = config("tcp");
    config.agent.connect_timeout_ms = 300;
    let near = config.agent("near").unwrap().build().unwrap();
    near.load_metadata(&far.metadata().unwrap()).unwrap();
    let here = Memory::new(&near, "tcp", 1);
    proxy.freeze();
    for op in OPS {
        let request = ONCE.request(op, &near, &here, "far", there.addr()).unwrap();
        let posted = Instant::now();
        request.post_with(within(LIMIT)).unwrap();
        let e = request.wait(LIMIT).unwrap_err();
        assert!(
            matches!(e.kind(), ErrorKind::PeerGone | ErrorKind::Timeout),
            "{op:?}: {e}"
        );
        assert!(posted.elapsed() < SOON, "{op:?}: {:?}", posted.elapsed());
        here.check(&image(1));
    }
    proxy.thaw();
    let request = ONCE
        .request(Op::Read, &near, &here, "far", there.addr())
        .unwrap();
    run(&request);
    here.check(&moved(Op::Read, 2));
}
