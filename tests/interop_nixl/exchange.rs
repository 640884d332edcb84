//! Metadata through NIXL's socket protocol, between its agents and ours.

use std::{net::TcpListener, time::Instant};

use nixl::{
    Op,
    p2p::{self, NixlListener},
};

use crate::{
    nixl::{Job, Nixl, libucp, python},
    ours::{BLOCK, LIMIT, Pair, agent},
};

const BLOCKS: [u64; 3] = [5, 1, 40];

fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

/// Both agents; without its own listener NIXL's makes no such calls either.
fn listening() -> Option<Pair> {
    let (python, library) = (python()?, libucp("nixl")?);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let nixl = Nixl::listening(&python, "nixl", None, Some(free.unwrap().port()));
    Some(Pair::new(agent("ours", &library, None), nixl))
}

#[test]
fn nixl_fetches_sends_and_withdraws_at_our_listener() {
    let Some(mut pair) = listening() else {
        return;
    };
    let listener = NixlListener::start(&pair.agent, 0).unwrap();
    let port = listener.local_addr().port();
    pair.nixl.call(&format!("fetch ours {port}"));
    pair.nixl.call(&format!("knows ours 1 {}", LIMIT.as_secs()));
    pair.nixl.transfer(&Job {
        op: "READ",
        peer: "ours",
        local: "r",
        ours: &BLOCKS,
        base: pair.region.addr(),
        theirs: &BLOCKS,
        size: BLOCK,
        message: b"",
    });
    pair.check(false, &BLOCKS, &BLOCKS);

    pair.fill();
    pair.nixl.call(&format!("send {port}"));
    let agent = pair.agent.clone();
    until("NIXL's metadata comes", || agent.peers() == ["nixl"]);
    pair.run(Op::Read, &BLOCKS, &BLOCKS, b"");
    pair.check(true, &BLOCKS, &BLOCKS);
    pair.nixl.call(&format!("withdraw {port}"));
    until("NIXL's metadata goes", || agent.peers().is_empty());
}

#[test]
fn we_fetch_send_and_withdraw_at_nixls_listener() {
    let Some(mut pair) = listening() else {
        return;
    };
    let address = format!("127.0.0.1:{}", pair.nixl.port.unwrap());
    assert_eq!(p2p::fetch(&pair.agent, &address).unwrap(), "nixl");
    pair.run(Op::Write, &BLOCKS, &BLOCKS, b"");
    pair.check(false, &BLOCKS, &BLOCKS);

    p2p::send(&pair.agent, &address, None).unwrap();
    let limit = LIMIT.as_secs();
    pair.nixl.call(&format!("knows ours 1 {limit}"));
    p2p::invalidate(&pair.agent, &address).unwrap();
    pair.nixl.call(&format!("knows ours 0 {limit}"));
}
