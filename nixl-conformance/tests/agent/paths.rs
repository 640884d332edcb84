//! Paths: proof, failover, policies, generations.

use nixl_conformance::sim::{Failing, FaultPlan, SimBackend, SimConfig};
use nixl_core::{
    Agent, AgentConfig, ErrorKind, MemKind, Op, PathClass, PeerAccess, Span,
    negotiate::{Demand, Mode, Policy},
};

use crate::world::*;

const ORDER: [u64; 4] = [9, 3, 4, 200];

/// What a READ of [`ORDER`] asks for.
fn reads() -> Demand {
    Demand {
        op: Op::Read,
        local: MemKind::Dram,
        remote: MemKind::Dram,
        all_remote_shareable: true,
        descs: 4,
        bytes: 4 * BLOCK,
    }
}

fn failing(kind: ErrorKind) -> Option<Failing> {
    Some(Failing { times: 1, kind })
}

#[test]
fn the_cheapest_path_is_taken_and_the_receipt_says_so() {
    let (a, b) = pair(&[sim("slow", 5), sim("fast", 0)]);
    let request = completed(Op::Read, &a, &b, &ORDER);
    assert_eq!(request.receipt().unwrap().path, "fast");
    check(Op::Read, &a, &b, &ORDER);
}

#[test]
fn a_failed_connect_or_post_goes_to_the_next_path() {
    for fault in [
        FaultPlan {
            refuse_connects: failing(ErrorKind::PeerGone),
            ..FaultPlan::default()
        },
        FaultPlan {
            silent_connects: true,
            ..FaultPlan::default()
        },
    ] {
        let fast = SimConfig {
            faults: fault,
            ..sim("fast", 0)
        };
        let (a, b) = pair(&[fast, sim("slow", 5)]);
        let request = completed(Op::Write, &a, &b, &ORDER);
        assert_eq!(request.receipt().unwrap().path, "slow");
        check(Op::Write, &a, &b, &ORDER);
    }
}

#[test]
fn a_read_that_fails_midway_starts_over_on_the_next_path() {
    let (a, b) = pair(&[sim("fast", 0), sim("slow", 5)]);
    let request = completed(Op::Read, &a, &b, &ORDER);
    a.fill(1);
    a.sims[0].faults(|f| {
        f.fail_transfers = failing(ErrorKind::Backend);
        f.fail_after = BLOCK;
    });
    request.post().unwrap();
    request.wait(LONG).unwrap();
    let receipt = request.receipt().unwrap();
    assert_eq!((receipt.path, receipt.attempts), ("slow", 2));
    assert_eq!(receipt.failures[0].0, "fast");
    check(Op::Read, &a, &b, &ORDER);
}

#[test]
fn a_write_that_may_still_land_is_not_repeated() {
    for (fences, repeated) in [(true, true), (false, false)] {
        let fast = SimConfig {
            fences,
            ..sim("fast", 0)
        };
        let (a, b) = pair(&[fast, sim("slow", 5)]);
        let request = completed(Op::Write, &a, &b, &ORDER);
        a.sims[0].faults(|f| {
            f.fail_transfers = failing(ErrorKind::Backend);
            f.fail_after = BLOCK;
        });
        request.post().unwrap();
        let result = request.wait(LONG);
        if repeated {
            result.unwrap();
            assert_eq!(request.receipt().unwrap().path, "slow");
        } else {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Backend);
        }
    }
}

#[test]
fn a_cancel_meant_for_the_post_before_costs_one_attempt() {
    for op in [Op::Read, Op::Write] {
        let (a, b) = pair(&[sim("only", 0)]);
        let request = completed(op, &a, &b, &ORDER);
        a.fill(1);
        b.fill(2);
        a.sims[0].faults(|f| {
            f.fail_transfers = failing(ErrorKind::Cancelled);
            f.fail_after = BLOCK;
        });
        request.post().unwrap();
        request.wait(LONG).unwrap();
        assert_eq!(request.receipt().unwrap().attempts, 2);
        check(op, &a, &b, &ORDER);
    }
}

#[test]
fn a_dead_peer_is_gone_and_others_are_not() {
    let (a, b) = pair(&[sim("sim", 0)]);
    let c = Party::new("c", &[sim("sim", 0)], quick());
    c.fill(2);
    a.agent.load_metadata(&c.agent.metadata().unwrap()).unwrap();
    let (to_b, to_c) = (
        request(Op::Read, &a, &b, &ORDER).unwrap(),
        request(Op::Read, &a, &c, &ORDER).unwrap(),
    );
    to_b.post().unwrap();
    to_b.wait(LONG).unwrap();
    b.sims[0].kill();
    to_b.post().unwrap();
    let e = to_b.wait(LONG).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
    a.fill(1);
    to_c.post().unwrap();
    to_c.wait(LONG).unwrap();
    check(Op::Read, &a, &c, &ORDER);
}

#[test]
fn a_cut_connection_is_made_again() {
    let (a, b) = pair(&[sim("sim", 0)]);
    let request = request(Op::Read, &a, &b, &ORDER).unwrap();
    for _ in 0..3 {
        request.post().unwrap();
        request.wait(LONG).unwrap();
        check(Op::Read, &a, &b, &ORDER);
        a.sims[0].cut();
        while a.sims[0].in_flight() > 0 {}
    }
}

#[test]
fn a_late_answer_to_an_expired_connect_is_not_the_next_ones() {
    let silent = SimConfig {
        faults: FaultPlan {
            silent_connects: true,
            ..FaultPlan::default()
        },
        ..sim("only", 0)
    };
    let (a, b) = pair(&[silent]);
    let request = request(Op::Read, &a, &b, &ORDER).unwrap();
    request.post().unwrap();
    request.wait(LONG).unwrap_err();
    let expired = a.sims[0].counts().connects;
    request.post().unwrap();
    while a.sims[0].counts().connects == expired {
        std::thread::yield_now();
    }
    a.sims[0].faults(|f| {
        f.refuse_connects = Some(Failing {
            times: expired as u32,
            kind: ErrorKind::PeerGone,
        });
        f.silent_connects = false;
    });
    request.wait(LONG).unwrap();
    check(Op::Read, &a, &b, &ORDER);
    assert_eq!(a.sims[0].counts().connects, expired + 1);
}

#[test]
fn strict_refuses_a_worse_class_and_says_why() {
    let strict = AgentConfig {
        policy: Policy {
            mode: Mode::Strict(PathClass::Rdma),
            ..Policy::default()
        },
        ..quick()
    };
    let a = Party::new("a", &[sim("sim", 0)], strict);
    let b = Party::new("b", &[sim("sim", 0)], quick());
    a.agent.load_metadata(&b.agent.metadata().unwrap()).unwrap();
    let request = request(Op::Read, &a, &b, &ORDER).unwrap();
    request.post().unwrap();
    let e = request.wait(LONG).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.to_string().contains("strict policy"), "{e}");
}

#[test]
fn falling_to_a_slower_class_is_counted() {
    let fast = SimConfig {
        class: PathClass::Rdma,
        faults: FaultPlan {
            refuse_connects: Some(Failing {
                times: 100,
                kind: ErrorKind::PeerGone,
            }),
            ..FaultPlan::default()
        },
        ..sim("fast", 0)
    };
    let (a, b) = pair(&[fast, sim("slow", 5)]);
    completed(Op::Read, &a, &b, &ORDER);
    assert_eq!(a.agent.snapshot().degraded, 1);
    let found = a.agent.explain("b", &reads()).unwrap();
    assert!(found.to_string().contains("slow"), "{found}");
}

#[test]
fn a_restarted_peer_replaces_the_old_one_only_when_it_answers() {
    let (a, b) = pair(&[sim("sim", 0)]);
    let first = completed(Op::Read, &a, &b, &ORDER);

    let twin = Party::new("b", &[sim("sim", 0)], quick());
    twin.fill(5);
    let blob = twin.agent.metadata().unwrap();
    for whether in ["both answer", "the old one still answers"] {
        let e = a.agent.load_metadata(&blob).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NameConflict, "{whether}");
        first.post().unwrap();
        first.wait(LONG).unwrap();
        twin.sims[0].kill();
    }

    b.sims[0].kill();
    let e = a.agent.load_metadata(&blob).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PeerGone, "neither answers");

    let reborn = Party::new("b", &[sim("sim", 0)], quick());
    reborn.fill(2);
    a.agent
        .load_metadata(&reborn.agent.metadata().unwrap())
        .unwrap();
    assert_eq!(first.post().unwrap_err().kind(), ErrorKind::PeerGone);
    a.fill(1);
    completed(Op::Read, &a, &reborn, &ORDER);
    check(Op::Read, &a, &reborn, &ORDER);
}

#[test]
fn metadata_adds_removes_and_ignores_the_past() {
    let (a, b) = pair(&[sim("sim", 0)]);
    let old = b.agent.metadata().unwrap();
    let late = b.agent.allocate(BLOCK).unwrap();
    let list = nixl_core::DescList::dram([(late.addr(), BLOCK)]);
    let find = || {
        a.agent
            .prepare_remote("b", &list)
            .map(|_| ())
            .map_err(|e| e.kind())
    };
    assert_eq!(find(), Err(ErrorKind::NotRegistered));
    let partial = b
        .agent
        .partial_metadata(std::slice::from_ref(&late), false)
        .unwrap();
    a.agent.load_metadata(&partial).unwrap();
    assert_eq!(find(), Ok(()));
    a.agent.load_metadata(&old).unwrap();
    assert_eq!(find(), Ok(()), "an older sequence is ignored");
    let gone = b.agent.withdrawal(&[late]).unwrap();
    a.agent.load_metadata(&gone).unwrap();
    assert_eq!(find(), Err(ErrorKind::NotRegistered));
    a.agent.load_metadata(&partial).unwrap();
    assert_eq!(
        find(),
        Err(ErrorKind::NotRegistered),
        "a replayed blob is ignored"
    );
    let bye = b.agent.withdrawal(&[]).unwrap();
    a.agent.load_metadata(&bye).unwrap();
    assert!(a.agent.peers().is_empty(), "the agent took leave");
    let own = a.agent.metadata().unwrap();
    assert_eq!(
        a.agent.load_metadata(&own).unwrap_err().kind(),
        ErrorKind::ApiMisuse
    );
}

#[test]
fn metadata_loaded_by_two_threads_at_once_is_as_new_as_the_newer() {
    let (a, b) = pair(&[sim("sim", 0)]);
    let old = b.agent.metadata().unwrap();
    let late = b.agent.allocate(BLOCK).unwrap();
    let list = nixl_core::DescList::dram([(late.addr(), BLOCK)]);
    let new = b.agent.metadata().unwrap();
    let start = std::sync::Barrier::new(2);
    for round in 0..300 {
        a.agent.remove_peer("b").unwrap();
        std::thread::scope(|scope| {
            for blob in [&old, &new] {
                let (a, start) = (&a, &start);
                scope.spawn(move || {
                    start.wait();
                    a.agent.load_metadata(blob).unwrap();
                });
            }
        });
        let found = a.agent.prepare_remote("b", &list);
        assert!(found.is_ok(), "round {round}");
    }
}

#[test]
fn partial_metadata_tells_of_no_region_that_is_gone() {
    let (a, b) = pair(&[sim("sim", 0)]);
    b.agent.deregister(&b.region, LONG).unwrap();
    for region in [&b.region, &a.region] {
        let told = b.agent.partial_metadata(std::slice::from_ref(region), true);
        assert_eq!(told.unwrap_err().kind(), ErrorKind::NotRegistered);
    }
}

#[test]
fn a_peer_without_a_common_backend_is_unsupported() {
    let a = Party::new("a", &[sim("left", 0)], quick());
    let b = Party::new("b", &[sim("right", 0)], quick());
    let e = a.agent.load_metadata(&b.agent.metadata().unwrap());
    let e = e.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(
        e.to_string()
            .contains("no common backend (peer: right; here: left)"),
        "{e}"
    );
}

#[test]
fn a_policy_that_names_no_path_is_refused() {
    let policy = |name: &str| Policy {
        forbid: vec![name.to_owned()],
        ..Policy::default()
    };
    for name in ["tcp", "cuda_ipc", "mine"] {
        let built = Agent::builder("a")
            .backend(SimBackend::new(sim("mine", 0)))
            .policy(policy(name))
            .build();
        assert!(built.is_ok(), "{name}");
    }
    let built = Agent::builder("a").policy(policy("tpc")).build();
    let e = built.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ApiMisuse);
    assert!(e.to_string().contains("\"tpc\""), "{e}");
    assert!(e.to_string().contains("shm, cma"), "{e}");
}

#[test]
fn proving_waits_for_every_connection() {
    let (a, _b) = pair(&[sim("fast", 0), sim("slow", 1)]);
    a.sims[1].faults(|f| f.silent_connects = true);
    a.agent.connect("b", LONG).unwrap();
    let (sim, prove) = (&a.sims[1], || a.agent.prove("b", Op::Read, LONG).unwrap());
    std::thread::scope(|scope| {
        let proving = scope.spawn(prove);
        while sim.counts().connects == 0 {
            std::thread::yield_now();
        }
        sim.release();
        proving.join().unwrap();
    });
    let shown = a.agent.explain("b", &reads()).unwrap();
    let proven = shown.ranked.iter().filter(|c| c.proven).count();
    assert_eq!(proven, 2, "{shown}");
}

#[test]
fn an_explanation_says_which_pages_the_memory_got() {
    let (a, _b) = pair(&[sim("sim", 0)]);
    let shown = a.agent.explain("b", &reads()).unwrap();
    let small = shown.allocated.iter().find(|(page, _)| *page == 4096);
    assert_eq!(small, Some(&(4096, LEN)), "{shown}");
    assert!(shown.to_string().contains("KiB in 4 KiB pages"), "{shown}");
}

#[test]
fn memory_that_no_backend_moves_is_not_registered() {
    let a = Party::new("a", &[sim("left", 0)], quick());
    let span = Span {
        addr: 0x7000_0000_0000,
        len: 4096,
        kind: MemKind::Vram,
        dev: 0,
    };
    let before = a.agent.snapshot().regions;
    // SAFETY: INV-1, it is refused: nobody touches what is not there.
    let e = unsafe { a.agent.register_raw(span, PeerAccess::ReadWrite) }.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    for words in ["4096 bytes of Vram at 0x700000000000", "(left)"] {
        assert!(e.message().contains(words), "{e}");
    }
    assert_eq!(a.agent.snapshot().regions, before);
}
