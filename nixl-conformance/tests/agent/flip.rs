//! Direction flip: what a path cannot do one way, the peer does the other way.

use std::time::Duration;

use nixl_conformance::sim::{READ_ONLY, SimConfig, WRITE_ONLY};
use nixl_core::{ErrorKind, Op, PostOptions, Revocation};

use crate::world::*;

const ORDER: [u64; 5] = [9, 3, 4, 200, 17];

/// A path without `op`.
fn one_way(op: Op) -> SimConfig {
    SimConfig {
        mem: match op {
            Op::Read => WRITE_ONLY,
            Op::Write => READ_ONLY,
        },
        ..sim("oneway", 0)
    }
}

fn acquainted(config: SimConfig) -> (Party, Party) {
    let (a, b) = pair(&[config]);
    b.agent.load_metadata(&a.agent.metadata().unwrap()).unwrap();
    (a, b)
}

#[test]
fn the_peer_does_the_opposite_and_the_receipt_says_so() {
    for op in [Op::Read, Op::Write] {
        let (a, b) = acquainted(one_way(op));
        let request = request(op, &a, &b, &ORDER).unwrap();
        for _ in 0..3 {
            request.post().unwrap();
            request.wait(LONG).unwrap();
            check(op, &a, &b, &ORDER);
        }
        let receipt = request.receipt().unwrap();
        assert!(receipt.lanes.contains("flipped"), "{receipt:?}");
    }
}

#[test]
fn what_one_peer_may_ask_for_at_a_time_is_bounded() {
    const MOST: usize = 4096;
    let (a, b) = acquainted(one_way(Op::Read));
    let first = request(Op::Read, &a, &b, &ORDER).unwrap();
    first.post().unwrap();
    first.wait(LONG).unwrap();
    b.sims[0].faults(|f| f.stall_after = Some(0));
    let all: Vec<_> = (0..=MOST)
        .map(|_| {
            let request = request(Op::Read, &a, &b, &[7]).unwrap();
            request.post().unwrap();
            request
        })
        .collect();
    let e = all[MOST].wait(LONG).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Exhausted, "{e}");
    b.sims[0].release();
    for request in &all[..MOST] {
        request.wait(LONG).unwrap();
    }
}

#[test]
fn a_stranger_is_not_served() {
    let (a, b) = pair(&[one_way(Op::Read)]);
    let request = request(Op::Read, &a, &b, &ORDER).unwrap();
    request.post().unwrap();
    let e = request.wait(LONG).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
    assert!(a.block(0) == pattern(1, 0));
}

#[test]
fn a_cooperative_path_is_never_flipped() {
    let config = SimConfig {
        revocation: Revocation::Cooperative,
        ..one_way(Op::Read)
    };
    let (a, b) = acquainted(config);
    let request = request(Op::Read, &a, &b, &ORDER).unwrap();
    request.post().unwrap();
    assert_eq!(
        request.wait(LONG).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
}

#[test]
fn nothing_lands_after_a_timeout() {
    let (a, b) = acquainted(one_way(Op::Read));
    let request = completed(Op::Read, &a, &b, &ORDER);
    a.fill(1);
    b.sims[0].faults(|f| {
        f.stall_after = Some(BLOCK);
        f.deaf_to_cancel = true;
    });
    request
        .post_with(PostOptions {
            deadline: Some(Duration::from_millis(200)),
            ..PostOptions::default()
        })
        .unwrap();
    assert_eq!(request.wait(LONG).unwrap_err().kind(), ErrorKind::Timeout);
    let frozen: Vec<_> = (0..12).map(|i| a.block(i)).collect();
    b.sims[0].faults(|f| f.stall_after = None);
    a.agent.deregister(&a.region, LONG).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    for (i, block) in frozen.iter().enumerate() {
        assert!(
            a.block(i as u64) == *block,
            "block {i} changed after the timeout"
        );
    }
}
