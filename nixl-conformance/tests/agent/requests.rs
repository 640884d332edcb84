//! Requests: bytes, states, deadlines, cancelling, withdrawal.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use nixl_conformance::sim::{FaultPlan, SimConfig};
use nixl_core::{ErrorKind, Op, PostOptions, Revocation, Select, Status};

use crate::world::*;

const ORDER: [u64; 6] = [9, 3, 4, 200, 17, 5];

fn stalling() -> SimConfig {
    SimConfig {
        faults: FaultPlan::default(),
        ..sim("sim", 0)
    }
}

#[test]
fn reads_and_writes_put_every_byte_in_place() {
    for op in [Op::Read, Op::Write] {
        let (a, b) = pair(&[sim("sim", 0)]);
        let request = request(op, &a, &b, &ORDER).unwrap();
        assert_eq!(request.status(), Status::Prepared);
        request.post().unwrap();
        request.wait(LONG).unwrap();
        check(op, &a, &b, &ORDER);
        let receipt = request.receipt().unwrap();
        assert_eq!((receipt.path, receipt.attempts), ("sim", 1));
        assert_eq!((receipt.bytes, receipt.descriptors), (6 * BLOCK, 6));
        let stats = a.agent.snapshot().paths;
        assert_eq!((stats[0].bytes, stats[0].requests), (6 * BLOCK, 1));
    }
}

#[test]
fn one_request_is_posted_many_times() {
    let (a, b) = pair(&[sim("sim", 0)]);
    let request = request(Op::Read, &a, &b, &ORDER).unwrap();
    for round in 0..50 {
        b.fill(round);
        request.post().unwrap();
        request.wait(LONG).unwrap();
        for (i, from) in ORDER.iter().enumerate() {
            assert!(
                a.block(i as u64 * 2) == pattern(round, *from),
                "round {round}"
            );
        }
    }
}

#[test]
fn an_agent_reaches_itself() {
    let (a, _b) = pair(&[sim("sim", 0)]);
    let request = a
        .agent
        .create_request(Op::Read, &a.blocks(&[0]), "a", &a.blocks(&[7]))
        .unwrap();
    request.post().unwrap();
    request.wait(LONG).unwrap();
    assert!(a.block(0) == pattern(1, 7));
    let late = a.agent.allocate(BLOCK).unwrap();
    late.write_at(0, &pattern(9, 9)).unwrap();
    let list = nixl_core::DescList::dram([(late.addr(), BLOCK)]);
    let request = a
        .agent
        .create_request(Op::Read, &a.blocks(&[1]), "a", &list)
        .unwrap();
    request.post().unwrap();
    request.wait(LONG).unwrap();
    assert!(a.block(1) == pattern(9, 9));
}

#[test]
fn subsets_of_prepared_lists_move_their_blocks() {
    let (a, b) = pair(&[sim("sim", 0)]);
    let all: Vec<u64> = (0..LEN / BLOCK).collect();
    let local = a.agent.prepare_local(&a.blocks(&all)).unwrap();
    let remote = a.agent.prepare_remote("b", &b.blocks(&all)).unwrap();
    let (here, there) = ([10u32, 3, 4, 50], [7u32, 100, 101, 2]);
    let request = a
        .agent
        .request(
            Op::Read,
            &local,
            Select::Indices(&here),
            &remote,
            Select::Indices(&there),
        )
        .unwrap();
    request.post().unwrap();
    request.wait(LONG).unwrap();
    for (h, t) in here.iter().zip(there) {
        assert!(a.block(u64::from(*h)) == pattern(2, u64::from(t)));
    }
    assert_eq!(request.receipt().unwrap().merged, 3);
    drop(b);
}

#[test]
fn a_second_post_while_active_is_refused() {
    let (a, b) = pair(&[stalling()]);
    a.agent.connect("b", LONG).unwrap();
    let request = completed(Op::Read, &a, &b, &ORDER);
    a.sims[0].faults(|f| f.stall_after = Some(0));
    request.post().unwrap();
    assert_eq!(request.post().unwrap_err().kind(), ErrorKind::RepostActive);
    let begun = Instant::now();
    while request.status() != Status::Stalled {
        assert!(begun.elapsed() < LONG);
        std::thread::yield_now();
    }
    a.sims[0].release();
    request.wait(LONG).unwrap();
}

#[test]
fn a_deadline_ends_a_stalled_request_in_time_and_frees_its_memory() {
    let (a, b) = pair(&[stalling()]);
    let request = completed(Op::Read, &a, &b, &ORDER);
    a.sims[0].faults(|f| f.stall_after = Some(BLOCK));
    let begun = Instant::now();
    let deadline = Duration::from_millis(300);
    request
        .post_with(PostOptions {
            deadline: Some(deadline),
            ..PostOptions::default()
        })
        .unwrap();
    let e = request.wait(LONG).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout);
    assert!(
        begun.elapsed() < deadline + Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
    assert!(e.to_string().contains('b'), "{e}");
    a.agent.deregister(&a.region, LONG).unwrap();
}

#[test]
fn a_backend_deaf_to_cancel_is_closed() {
    let (a, b) = pair(&[stalling()]);
    let request = completed(Op::Read, &a, &b, &ORDER);
    a.sims[0].faults(|f| {
        f.stall_after = Some(0);
        f.deaf_to_cancel = true;
    });
    request.post().unwrap();
    request.cancel();
    assert_eq!(request.wait(LONG).unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(request.status(), Status::Cancelled);
}

#[test]
fn dropping_an_active_request_cancels_it_and_frees_nothing_early() {
    let (a, b) = pair(&[stalling()]);
    let request = completed(Op::Read, &a, &b, &ORDER);
    a.sims[0].faults(|f| {
        f.stall_after = Some(0);
        f.deaf_to_cancel = true;
    });
    request.post().unwrap();
    drop(request);
    let e = a.agent.deregister(&a.region, Duration::ZERO).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::StillMapped);
    a.agent.deregister(&a.region, LONG).unwrap();
}

#[test]
fn a_leaked_token_fails_the_request_and_keeps_the_memory() {
    let (a, b) = pair(&[stalling()]);
    let request = completed(Op::Read, &a, &b, &ORDER);
    a.sims[0].faults(|f| f.drop_tokens = 1);
    request.post().unwrap();
    assert_eq!(request.wait(LONG).unwrap_err().kind(), ErrorKind::Abandoned);
    let e = a.agent.deregister(&a.region, Duration::from_millis(50));
    assert_eq!(e.unwrap_err().kind(), ErrorKind::StillMapped);
}

#[test]
fn withdrawn_regions_refuse_posts_on_both_sides() {
    for revocation in [Revocation::Fenced, Revocation::Cooperative] {
        let config = SimConfig {
            revocation,
            ..sim("sim", 0)
        };
        let (a, b) = pair(&[config]);
        let request = completed(Op::Write, &a, &b, &ORDER);
        b.agent.deregister(&b.region, LONG).unwrap();
        b.fill(3);
        let refused = request.post().and_then(|()| request.wait(LONG));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotRegistered);
        assert!(
            b.block(ORDER[0]) == pattern(3, ORDER[0]),
            "written after withdrawal"
        );
        a.agent.deregister(&a.region, LONG).unwrap();
        assert_eq!(request.post().unwrap_err().kind(), ErrorKind::NotRegistered);
        let again = a.agent.deregister(&a.region, LONG).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::NotRegistered);
    }
}

#[test]
fn a_peer_that_keeps_a_mapping_makes_it_still_mapped() {
    let config = SimConfig {
        revocation: Revocation::Cooperative,
        ..sim("sim", 0)
    };
    let (a, b) = pair(&[config]);
    completed(Op::Read, &a, &b, &ORDER);
    b.sims[0].faults(|f| f.hold_messages = true);
    a.sims[0].faults(|f| f.hold_messages = true);
    let e = b.agent.deregister(&b.region, Duration::from_millis(50));
    let e = e.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::StillMapped);
    assert!(e.to_string().contains('a'), "{e}");
    a.sims[0].release();
    b.sims[0].release();
    b.agent.deregister(&b.region, LONG).unwrap();
}

#[test]
fn withdrawing_waits_for_a_peers_active_request() {
    let config = SimConfig {
        revocation: Revocation::Cooperative,
        ..sim("sim", 0)
    };
    let (a, b) = pair(&[config]);
    let request = completed(Op::Write, &a, &b, &ORDER);
    a.sims[0].faults(|f| f.stall_after = Some(BLOCK));
    request.post().unwrap();
    b.agent.deregister(&b.region, LONG).unwrap();
    assert_eq!(
        request.wait(LONG).unwrap_err().kind(),
        ErrorKind::NotRegistered
    );
}

#[test]
fn removing_a_peer_ends_its_requests() {
    let (a, b) = pair(&[stalling()]);
    let request = completed(Op::Read, &a, &b, &ORDER);
    a.sims[0].faults(|f| f.stall_after = Some(0));
    request.post().unwrap();
    a.agent.remove_peer("b").unwrap();
    assert_eq!(request.wait(LONG).unwrap_err().kind(), ErrorKind::PeerGone);
    assert_eq!(request.post().unwrap_err().kind(), ErrorKind::PeerGone);
    assert_eq!(
        a.agent.remove_peer("b").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    a.agent.deregister(&a.region, LONG).unwrap();
}

#[test]
fn all_four_views_see_the_end() {
    struct Count(AtomicUsize);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let (a, b) = pair(&[stalling()]);
    let request = request(Op::Read, &a, &b, &ORDER).unwrap();
    let called = Arc::new(AtomicUsize::new(0));
    let counter = called.clone();
    request.on_complete(Box::new(move |result| {
        assert!(result.is_ok());
        counter.fetch_add(1, SeqCst);
    }));
    let fd = a.agent.event_fd().unwrap();
    let woken = Arc::new(Count(AtomicUsize::new(0)));
    let waker = std::task::Waker::from(woken.clone());
    let mut cx = std::task::Context::from_waker(&waker);
    request.post().unwrap();
    let mut done = std::pin::pin!(request.done());
    let begun = Instant::now();
    while std::future::Future::poll(done.as_mut(), &mut cx).is_pending() {
        assert!(begun.elapsed() < LONG);
        std::thread::yield_now();
    }
    assert_eq!(request.status(), Status::Done);
    while called.load(SeqCst) == 0 {
        assert!(begun.elapsed() < LONG);
        std::thread::yield_now();
    }
    let mut events = [0; 8];
    while rustix::io::read(fd, &mut events).is_err() {
        assert!(begun.elapsed() < LONG);
        std::thread::yield_now();
    }
    assert_eq!(u64::from_ne_bytes(events), 1);
}

#[test]
fn shutting_down_ends_what_is_active() {
    let (a, b) = pair(&[stalling()]);
    let request = completed(Op::Read, &a, &b, &ORDER);
    a.sims[0].faults(|f| f.stall_after = Some(0));
    request.post().unwrap();
    let Party { agent, region, .. } = a;
    agent.shutdown(LONG).unwrap();
    assert!(matches!(
        request.status(),
        Status::Cancelled | Status::Failed(_)
    ));
    assert_eq!(request.post().unwrap_err().kind(), ErrorKind::PeerGone);
    drop((region, b));
}

#[test]
fn many_threads_share_one_agent() {
    let (a, b) = pair(&[sim("sim", 0)]);
    let (a, b) = (&a, &b);
    std::thread::scope(|scope| {
        for t in 0..4u64 {
            scope.spawn(move || {
                for i in 0..50 {
                    let (here, there) = (t * 60 + i, (i * 7 + t * 13) % 256);
                    let request = a
                        .agent
                        .create_request(Op::Read, &a.blocks(&[here]), "b", &b.blocks(&[there]))
                        .unwrap();
                    request.post().unwrap();
                    request.wait(LONG).unwrap();
                    assert!(a.block(here) == pattern(2, there));
                }
            });
        }
    });
}
