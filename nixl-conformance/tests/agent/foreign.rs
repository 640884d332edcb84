//! Agents of NIXL's as peers. A blob of ours that is cut behind the container is what NIXL would
//! write, so an agent over the simulated backend stands in for one.

use std::{path::Path, sync::Arc, time::Instant};

use nixl_conformance::sim::{READ_ONLY, SimConfig};
use nixl_core::{
    Agent, AgentConfig, DescList, ErrorKind, ForeignMetadata, HugePages, MemKind, Notification, Op,
    PeerAccess, PostOptions, Region, Span, Status,
    metadata::{Decoded, Limits, decode},
    negotiate::{Demand, Negotiation},
};

use crate::world::{BLOCK, LEN, LONG, Party, check, completed, quick, request, sim};

/// A simulated backend that NIXL's agents have too.
fn common() -> SimConfig {
    SimConfig {
        nixl: Some("UCX"),
        ..sim("sim", 0)
    }
}

fn welcoming() -> AgentConfig {
    AgentConfig {
        foreign_metadata: ForeignMetadata::Accept,
        ..quick()
    }
}

/// What NIXL would write in place of `blob`.
fn cut(blob: &[u8]) -> &[u8] {
    const TRAILER: &[u8] = b"nixl_rs";
    let at = blob.windows(TRAILER.len()).rposition(|w| w == TRAILER);
    let cut = &blob[..at.expect("a blob of ours")];
    let decoded = decode(cut, &Limits::default()).unwrap();
    assert!(matches!(decoded, Decoded::Foreign(_)));
    cut
}

fn full(party: &Party) -> Vec<u8> {
    cut(&party.agent.metadata().unwrap()).to_vec()
}

fn partial(party: &Party, regions: &[Region], with_conn: bool) -> Vec<u8> {
    let blob = party.agent.partial_metadata(regions, with_conn).unwrap();
    cut(&blob).to_vec()
}

fn refused(agent: &Agent, blob: &[u8], kind: ErrorKind, word: &str) {
    let before = agent.peers();
    let e = agent.load_metadata(blob).unwrap_err();
    assert_eq!(e.kind(), kind, "{e}");
    assert!(e.to_string().contains(word), "{word:?} not in {e}");
    assert_eq!(agent.peers(), before);
}

/// Agents `a` and `b`; `a` has loaded `b` as a NIXL agent.
fn pair(configs: &[SimConfig]) -> (Party, Party) {
    let a = Party::new("a", configs, welcoming());
    let b = Party::new("b", configs, welcoming());
    assert_eq!(a.agent.load_metadata(&full(&b)).unwrap(), "b");
    a.fill(1);
    b.fill(2);
    (a, b)
}

fn explain(a: &Party, b: &Party, op: Op) -> Negotiation {
    let demand = Demand {
        op,
        local: MemKind::Dram,
        remote: MemKind::Dram,
        all_remote_shareable: false,
        descs: 2,
        bytes: 2 * BLOCK,
    };
    a.agent.explain(b.agent.name(), &demand).unwrap()
}

fn next(party: &Party) -> Notification {
    let found = party.agent.wait_notification(LONG);
    found.expect("a notification in time")
}

#[test]
fn a_nixl_blob_is_refused_unless_the_policy_accepts_it() {
    let b = Party::new("b", &[common()], quick());
    let strict = Party::new("a", &[common()], quick());
    refused(
        &strict.agent,
        &full(&b),
        ErrorKind::NotAllowed,
        "foreign_metadata",
    );
    // Whatever the policy: nothing to reach it with.
    let other = Party::new("a", &[sim("sim", 0)], welcoming());
    let why = "no common backend (peer: UCX; here: sim)";
    refused(&other.agent, &full(&b), ErrorKind::Unsupported, why);
    let open = Party::new("a", &[common()], welcoming());
    refused(&b.agent, &full(&b), ErrorKind::ApiMisuse, "own metadata");
    assert_eq!(open.agent.load_metadata(&full(&b)).unwrap(), "b");
    let card = open.agent.peer_card("b").unwrap();
    assert!(card.foreign && card.probes.is_empty());
}

#[test]
fn every_byte_moves_both_ways_and_the_account_says_foreign() {
    for op in [Op::Read, Op::Write] {
        let (a, b) = pair(&[
            sim("better", 0),
            SimConfig {
                nixl: Some("UCX"),
                ..sim("sim", 1)
            },
        ]);
        let order = [7, 0, 100, 33, 34];
        let request = completed(op, &a, &b, &order);
        check(op, &a, &b, &order);
        let receipt = request.receipt().unwrap();
        assert!(receipt.foreign);
        assert_eq!((receipt.path, receipt.attempts), ("sim", 1));
        let found = explain(&a, &b, op);
        assert!(found.foreign && found.degraded.is_none());
        let rows = found.rows();
        assert_eq!((rows[0].path, rows[0].proven), ("sim", true));
        assert_eq!((rows[1].path, rows[1].code), ("better", Some("foreign")));
        assert!(rows.iter().all(|row| row.foreign));
        assert!(found.to_string().contains("foreign agent"), "{found}");
        request.post().unwrap();
        request.wait(LONG).unwrap();
    }
}

#[test]
fn nothing_is_flipped() {
    let reads = SimConfig {
        mem: READ_ONLY,
        ..common()
    };
    let (a, b) = pair(&[reads]);
    assert_eq!(explain(&a, &b, Op::Write).rows()[0].code, Some("mem_kind"));
    completed(Op::Read, &a, &b, &[1]);
    check(Op::Read, &a, &b, &[1]);
}

#[test]
fn notifications_carry_a_name_that_is_a_claim() {
    let (a, b) = pair(&[common()]);
    for data in [&b"first"[..], b"", &[0xff; 3000]] {
        a.agent.notify("b", data).unwrap();
        let got = next(&b);
        assert_eq!(
            (&*got.from, &got.data[..], got.verified),
            ("a", data, false)
        );
    }
    // After the data of its request.
    let write = request(Op::Write, &a, &b, &[4]).unwrap();
    let options = PostOptions {
        notification: Some("written".into()),
        ..PostOptions::default()
    };
    write.post_with(options).unwrap();
    assert_eq!(&next(&b).data[..], b"written");
    check(Op::Write, &a, &b, &[4]);
    // The sender is loaded by now, and told from its successors.
    b.agent.load_metadata(&full(&a)).unwrap();
    a.agent.notify("b", b"known").unwrap();
    let got = next(&b);
    let loaded = b.agent.peer_card("a").unwrap().generation;
    assert_eq!((got.generation, got.verified), (loaded, false));
}

#[test]
fn notifications_that_policy_refuses_are_dropped() {
    let closed = AgentConfig {
        accept_unverified: false,
        ..welcoming()
    };
    for (config, known) in [(quick(), false), (closed, false), (welcoming(), true)] {
        let a = Party::new("a", &[common()], welcoming());
        let b = Party::new("b", &[common()], config);
        a.agent.load_metadata(&full(&b)).unwrap();
        if known {
            // It proves who it is, so nobody else speaks under its name.
            b.agent.load_metadata(&a.agent.metadata().unwrap()).unwrap();
        }
        a.agent.notify("b", b"drop me").unwrap();
        let delivered = || b.sims[0].counts().delivered > 0;
        let begun = Instant::now();
        while !delivered() {
            assert!(begun.elapsed() < LONG);
            std::thread::yield_now();
        }
        // Handled on the thread that counted it, before anything that comes later.
        a.agent.notify("b", b"me too").unwrap();
        while b.sims[0].counts().delivered < 2 {
            assert!(begun.elapsed() < LONG);
            std::thread::yield_now();
        }
        assert!(b.agent.notifications().is_empty());
    }
}

#[test]
fn what_a_connection_holds_back_counts_against_the_window() {
    let small = AgentConfig {
        notification_window: 1000,
        ..welcoming()
    };
    let a = Party::new("a", &[common()], small);
    let b = Party::new("b", &[common()], welcoming());
    a.agent.load_metadata(&full(&b)).unwrap();
    a.agent.connect("b", LONG).unwrap();
    b.sims[0].faults(|plan| plan.hold_messages = true);
    let mut sent = 0;
    let refused = loop {
        match a.agent.notify("b", &[sent; 100]) {
            Ok(()) => sent += 1,
            Err(e) => break e,
        }
        assert!(sent < 20);
    };
    assert_eq!(refused.kind(), ErrorKind::Exhausted);
    assert!(sent >= 5, "{sent}");
    b.sims[0].release();
    for i in 0..sent {
        assert_eq!(next(&b).data[0], i);
    }
    a.agent.notify("b", b"again").unwrap();
}

#[test]
fn partial_metadata_adds_and_takes_nothing_away() {
    let a = Party::new("a", &[common()], welcoming());
    let b = Party::new("b", &[common()], welcoming());
    let more = b.agent.allocate(LEN).unwrap();
    let (first, second) = ([b.region.clone()], [more.clone()]);
    let unknown = partial(&b, &first, false);
    refused(&a.agent, &unknown, ErrorKind::NotFound, "connection info");
    // Connection info alone, then a region at a time, each again.
    for blob in [
        partial(&b, &[], true),
        unknown.clone(),
        unknown,
        partial(&b, &second, true),
        partial(&b, &second, false),
        full(&b),
    ] {
        assert_eq!(a.agent.load_metadata(&blob).unwrap(), "b");
    }
    a.fill(1);
    b.fill(2);
    completed(Op::Read, &a, &b, &[3, 1]);
    check(Op::Read, &a, &b, &[3, 1]);
    let there = DescList::dram([(more.addr(), BLOCK)]);
    assert!(a.agent.prepare_remote("b", &there).is_ok());
    // A region that is registered anew has another key; nobody can say which blob is newer.
    let renewed = [(more.addr(), more.len())];
    b.agent.deregister(&more, LONG).unwrap();
    let span = Span {
        addr: renewed[0].0,
        len: renewed[0].1,
        ..more.span()
    };
    // SAFETY: INV-1, `more` keeps the memory until the test ends.
    let again = unsafe { b.agent.register_raw(span, PeerAccess::ReadWrite) }.unwrap();
    let third = b.agent.allocate(BLOCK).unwrap();
    let both = [again, third.clone()];
    let blob = partial(&b, &both, false);
    refused(&a.agent, &blob, ErrorKind::NotAllowed, "another key");
    let there = DescList::dram([(third.addr(), BLOCK)]);
    let e = a.agent.prepare_remote("b", &there).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::NotRegistered, "all or nothing");
}

#[test]
fn regions_that_peers_may_only_read_are_not_told() {
    let b = Party::new("b", &[common()], welcoming());
    let pages = HugePages::No;
    let access = PeerAccess::ReadOnly;
    let closed = b.agent.allocate_with(LEN, pages, access).unwrap();
    let blob = full(&b);
    let Decoded::Foreign(told) = decode(&blob, &Limits::default()).unwrap() else {
        panic!("taken for ours");
    };
    let sections = &told.nixl.sections;
    let spans: Vec<_> = sections
        .iter()
        .flat_map(|s| &s.descs)
        .map(|d| d.0)
        .collect();
    assert_eq!(
        spans,
        [b.region.addr()],
        "{:#x} must not be told",
        closed.addr()
    );
}

#[test]
fn a_removed_peer_ends_its_requests_and_can_be_loaded_again() {
    let (a, b) = pair(&[common()]);
    completed(Op::Read, &a, &b, &[9]);
    let held = request(Op::Read, &a, &b, &[2]).unwrap();
    a.sims[0].faults(|plan| plan.stall_after = Some(0));
    held.post().unwrap();
    a.agent.remove_peer("b").unwrap();
    assert_eq!(held.wait(LONG).unwrap_err().kind(), ErrorKind::PeerGone);
    a.sims[0].release();
    assert!(a.agent.peers().is_empty());
    a.agent.load_metadata(&full(&b)).unwrap();
    a.fill(1);
    completed(Op::Write, &a, &b, &[8]);
    check(Op::Write, &a, &b, &[8]);
}

#[test]
fn a_successor_is_loaded_once_the_one_before_is_gone() {
    let (a, b) = pair(&[common()]);
    completed(Op::Read, &a, &b, &[9]);
    let reborn = Party::new("b", &[common()], welcoming());
    refused(&a.agent, &full(&reborn), ErrorKind::NameConflict, "living");
    let old = a.agent.peer_card("b").unwrap().generation;
    b.sims[0].kill();
    drop(b);
    a.agent.load_metadata(&full(&reborn)).unwrap();
    assert_ne!(a.agent.peer_card("b").unwrap().generation, old);
    a.fill(1);
    reborn.fill(2);
    completed(Op::Read, &a, &reborn, &[6]);
    check(Op::Read, &a, &reborn, &[6]);
}

#[test]
fn a_proven_name_is_not_taken_over() {
    let a = Party::new("a", &[common()], welcoming());
    let b = Party::new("b", &[common()], welcoming());
    a.agent.load_metadata(&b.agent.metadata().unwrap()).unwrap();
    refused(&a.agent, &full(&b), ErrorKind::NameConflict, "proves");
    assert!(!a.agent.peer_card("b").unwrap().foreign);
}

#[test]
fn an_agent_that_does_not_understand_us_is_an_error_that_says_so() {
    let patient = AgentConfig {
        connect_timeout: LONG,
        probe_timeout: LONG,
        ..welcoming()
    };
    for silent in [true, false] {
        let a = Party::new("a", &[common()], patient.clone());
        let b = Party::new("b", &[common()], welcoming());
        a.agent.load_metadata(&full(&b)).unwrap();
        a.sims[0].faults(|plan| {
            plan.silent_connects = silent;
            plan.stall_after = Some(0);
        });
        let read = request(Op::Read, &a, &b, &[1]).unwrap();
        let begun = Instant::now();
        read.post().unwrap();
        let e = read.wait(LONG / 2).unwrap_err();
        assert!(begun.elapsed() < LONG / 4, "took {:?}", begun.elapsed());
        assert!(e.to_string().contains("of a version"), "{e}");
        assert!(matches!(read.status(), Status::Failed(_)));
        while a.sims[0].in_flight() > 0 {
            assert!(begun.elapsed() < LONG, "the probe keeps its memory");
            std::thread::yield_now();
        }
    }
}

/// What real NIXL wrote loads; nobody answers at the address, which is made up.
#[test]
fn recorded_blobs_load() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data");
    let nixl = std::fs::read(data.join("nixl-1.5.1.bin")).unwrap();
    let ours = std::fs::read(data.join("metadata-ucx.bin")).unwrap();
    for blob in [&nixl[..], cut(&ours)] {
        let a = Party::new("a", &[common()], welcoming());
        assert_eq!(a.agent.load_metadata(blob).unwrap(), "agentA");
        let Decoded::Foreign(told) = decode(blob, &Limits::default()).unwrap() else {
            panic!("taken for ours");
        };
        let (addr, len, ..) = told.nixl.sections[0].descs[0];
        let there = DescList::dram([(addr, len)]);
        assert!(a.agent.prepare_remote("agentA", &there).is_ok());
        let e = a.agent.connect("agentA", LONG).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Malformed, "{e}");
    }
}

/// Whatever a blob was bent to, an agent refuses it or adds what it says, and lives on.
#[test]
fn bent_blobs_harm_nobody() {
    let a = Party::new("a", &[common()], welcoming());
    let b = Arc::new(Party::new("b", &[common()], welcoming()));
    let blob = full(&b);
    for bit in 0..blob.len() * 8 {
        let mut bent = blob.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        match a.agent.load_metadata(&bent) {
            Ok(name) => a.agent.remove_peer(&name).unwrap(),
            Err(e) => assert!(
                // The name, the backend's name, or the frame.
                [
                    ErrorKind::Malformed,
                    ErrorKind::Unsupported,
                    ErrorKind::ApiMisuse,
                    ErrorKind::NotFound
                ]
                .contains(&e.kind()),
                "bit {bit}: {e}"
            ),
        }
    }
    assert!(a.agent.peers().is_empty());
    a.agent.load_metadata(&blob).unwrap();
    a.fill(1);
    b.fill(2);
    completed(Op::Read, &a, &b, &[0]);
    check(Op::Read, &a, &b, &[0]);
}
