//! What the two tell each other: whole, in parts, taken back, and what nobody should believe.

use std::time::{Duration, Instant};

use nixl::{Error, ErrorKind, Op, PeerAccess, Request};

use crate::{
    nixl::{Holds, Job, Nixl, libucp, post_command, python},
    ours::{BLOCK, BLOCKS, LIMIT, OURS, Pair, agent, list, pair, region, scattered, strangers},
};

fn read<'a>(base: u64, blocks: &'a [u64]) -> Job<'a> {
    Job {
        op: "READ",
        peer: "ours",
        local: "r",
        ours: blocks,
        base,
        theirs: blocks,
        size: BLOCK,
        message: b"",
    }
}

/// A transfer of ours and one of NIXL's; looks at every byte.
fn both_ways(pair: &mut Pair) {
    let (ours, theirs) = (scattered(20, 1), scattered(20, 2));
    pair.run(Op::Read, &ours, &theirs, b"");
    pair.check(true, &ours, &theirs);
    pair.fill();
    let base = pair.region.addr();
    pair.nixl.transfer(&read(base, &ours));
    pair.check(false, &ours, &ours);
    pair.fill();
}

#[test]
fn we_add_what_nixl_tells_in_parts() {
    let Some(mut pair) = strangers(None) else {
        return;
    };
    let more = pair.nixl.alloc("more", 8, BLOCK);
    pair.nixl.fill("more", 7);
    let alone = pair.nixl.partial(&["r"], false);
    let e = pair.agent.load_metadata(&alone).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    let conn = pair.nixl.partial(&[], true);
    assert_eq!(pair.agent.load_metadata(&conn).unwrap(), "nixl");
    let e = pair.request(Op::Read, &[0], &[0]).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::NotRegistered);
    pair.agent.notify("nixl", b"before any memory").unwrap();
    assert_eq!(pair.nixl.notifications(1)[0].1, b"before any memory");
    pair.agent.load_metadata(&alone).unwrap();
    pair.run(Op::Read, &[3], &[5], b"");
    pair.check(true, &[3], &[5]);
    pair.fill();
    for blob in [
        pair.nixl.partial(&["more", "r"], true),
        pair.nixl.metadata(),
    ] {
        pair.agent.load_metadata(&blob).unwrap();
        let (here, there) = (pair.here(&[1, 4]), list(more, &[6, 0]));
        let write = pair
            .agent
            .create_request(Op::Write, &here, "nixl", &there)
            .unwrap();
        write.post().unwrap();
        write.wait(LIMIT).unwrap();
        let mut holds: Vec<_> = (0..8)
            .map(|block| Holds::Block { seed: 7, block })
            .collect();
        holds[6] = Holds::Block {
            seed: OURS,
            block: 1,
        };
        holds[0] = Holds::Block {
            seed: OURS,
            block: 4,
        };
        pair.nixl.check("more", &holds);
    }
}

#[test]
fn nixl_adds_what_we_tell_in_parts() {
    let Some(mut pair) = strangers(None) else {
        return;
    };
    let second = region(&pair.agent, OURS, PeerAccess::ReadWrite);
    let part = |regions: &[nixl::Region], conn| pair.agent.partial_metadata(regions, conn).unwrap();
    let (conn, first) = (part(&[], true), part(&[pair.region.clone()], false));
    let both = part(&[pair.region.clone(), second.clone()], true);
    assert_eq!(pair.nixl.load(&conn).unwrap(), "ours");
    pair.nixl.notify("ours", b"before any memory");
    let got = pair.agent.wait_notification(LIMIT).expect("a notification");
    assert_eq!(&got.data[..], b"before any memory");
    let base = pair.region.addr();
    let early = post_command("early", &read(base, &[2]));
    assert!(pair.nixl.ask(&early).is_err(), "no region told yet");
    pair.nixl.load(&first).unwrap();
    pair.nixl.transfer(&read(base, &[2]));
    pair.check(false, &[2], &[2]);
    pair.nixl.load(&both).unwrap();
    pair.nixl.transfer(&read(second.addr(), &[9]));
    pair.check(false, &[2, 9], &[2, 9]);
    // Everything, again: nothing changed.
    let full = pair.agent.metadata().unwrap();
    assert_eq!(pair.nixl.load(&full).unwrap(), "ours");
}

#[test]
fn each_removes_the_other_and_loads_it_again() {
    let Some(mut pair) = pair(None) else { return };
    both_ways(&mut pair);
    pair.agent.remove_peer("nixl").unwrap();
    assert!(pair.agent.peers().is_empty());
    let e = pair.request(Op::Read, &[0], &[0]).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    // UCX ends both directions of a connection, and NIXL does not connect again by itself.
    let (ours, theirs) = (pair.agent.metadata().unwrap(), pair.nixl.metadata());
    pair.agent.load_metadata(&theirs).unwrap();
    pair.nixl.call("remove ours");
    assert_eq!(pair.nixl.load(&ours).unwrap(), "ours");
    both_ways(&mut pair);
    pair.nixl.call("remove ours");
    let base = pair.region.addr();
    let gone = post_command("gone", &read(base, &[2]));
    assert!(pair.nixl.ask(&gone).is_err());
    // We do.
    pair.run(Op::Read, &[1], &[2], b"");
    pair.check(true, &[1], &[2]);
    pair.fill();
    assert_eq!(pair.nixl.load(&ours).unwrap(), "ours");
    both_ways(&mut pair);
}

#[test]
fn memory_that_peers_may_only_read_is_not_told() {
    let Some(mut pair) = strangers(None) else {
        return;
    };
    let closed = region(&pair.agent, OURS, PeerAccess::ReadOnly);
    let ours = pair.agent.metadata().unwrap();
    pair.nixl.load(&ours).unwrap();
    let read = post_command("no", &read(closed.addr(), &[0]));
    let e = pair.nixl.ask(&read).unwrap_err();
    assert!(e.contains("NOT_FOUND"), "{e}");
}

/// Killed while it is the target; its successor under the same name is loaded.
#[test]
fn a_nixl_agent_that_dies_is_noticed_and_replaced() {
    let Some(mut first) = pair(None) else { return };
    both_ways(&mut first);
    let Pair {
        agent,
        region,
        nixl,
        ..
    } = first;
    drop(nixl);
    let python = python().expect("it was there");
    let mut nixl = Nixl::start(&python, "nixl", None);
    let base = nixl.alloc("r", BLOCKS, BLOCK);
    let begun = Instant::now();
    agent.load_metadata(&nixl.metadata()).unwrap();
    assert!(begun.elapsed() < LIMIT);
    nixl.load(&agent.metadata().unwrap()).unwrap();
    let mut pair = Pair {
        agent,
        region,
        nixl,
        base,
    };
    pair.fill();
    both_ways(&mut pair);
}

#[test]
fn a_request_to_a_dead_nixl_agent_ends() {
    let Some(mut pair) = pair(None) else { return };
    both_ways(&mut pair);
    let request = pair.request(Op::Read, &[0, 2], &[1, 4]).unwrap();
    let Pair { nixl, .. } = pair;
    drop(nixl);
    request.post().unwrap();
    let e = request.wait(LIMIT).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
}

/// Stopped before it was ever reached: an error that says so within two seconds of connecting.
#[test]
fn a_nixl_agent_that_does_not_answer_is_an_error() {
    let Some(mut pair) = strangers(None) else {
        return;
    };
    let theirs = pair.nixl.metadata();
    pair.agent.load_metadata(&theirs).unwrap();
    let request = pair.request(Op::Read, &[0, 2], &[1, 4]).unwrap();
    pair.nixl.stop();
    // Two waits of a second each: for the flush, then for the first READ.
    let e = fails_within(&request, Duration::from_millis(2500));
    assert!(e.to_string().contains("UCX"), "{e}");
    pair.nixl.go_on();
    request.post().unwrap();
    request.wait(LIMIT).unwrap();
    pair.check(true, &[0, 2], &[1, 4]);
}

/// A libucp that NIXL's does not understand: an error that says so, soon, not a request that
/// stays in progress.
#[test]
fn ucx_versions_that_do_not_understand_each_other_end_in_an_error() {
    let Some(old) = libucp("debian") else {
        return;
    };
    let Some(python) = python() else { return };
    let nixl = Nixl::start(&python, "nixl", None);
    let mut pair = Pair::new(agent("ours", &old, None), nixl);
    let theirs = pair.nixl.metadata();
    pair.agent.load_metadata(&theirs).unwrap();
    let request = pair.request(Op::Read, &[0, 2], &[1, 4]).unwrap();
    let e = fails_within(&request, Duration::from_secs(2));
    assert!(e.to_string().contains("1.13"), "{e}");
    // NIXL is told of no address that it would wait for.
    let ours = pair.agent.metadata().unwrap();
    pair.nixl.load(&ours).unwrap();
    let read = post_command("no", &read(pair.region.addr(), &[0]));
    let e = pair.nixl.ask(&read).unwrap_err();
    assert!(e.contains("NOT_FOUND"), "{e}");
}

fn fails_within(request: &Request, limit: Duration) -> Error {
    let begun = Instant::now();
    request.post().unwrap();
    let e = request.wait(LIMIT).unwrap_err();
    let took = begun.elapsed();
    println!("after {took:?}: {e}");
    assert!(took < limit, "{took:?}: {e}");
    e
}
