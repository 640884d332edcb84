//! Memory that goes away while others want it.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use nixl_conformance::sim::{SimBackend, SimConfig};
use nixl_core::{Agent, ErrorKind, Op, Revocation};

use crate::{
    early::{Early, Hook},
    world::*,
};

const ORDER: [u64; 4] = [9, 3, 4, 200];

fn cooperative() -> SimConfig {
    SimConfig {
        revocation: Revocation::Cooperative,
        ..sim("sim", 0)
    }
}

#[test]
fn a_request_that_waits_for_a_path_is_not_posted_on_a_withdrawn_region() {
    let (a, b) = pair(&[cooperative()]);
    let request = request(Op::Write, &a, &b, &ORDER).unwrap();
    request.post().unwrap();
    request.wait(LONG).unwrap();
    a.sims[0].faults(|f| f.silent_connects = true);
    a.sims[0].cut();
    let begun = Instant::now();
    while a.agent.connect("b", Duration::ZERO).is_ok() {
        assert!(begun.elapsed() < LONG);
    }
    let posts = a.sims[0].counts().posts;
    request.post().unwrap();
    let gone = b.agent.withdrawal(std::slice::from_ref(&b.region)).unwrap();
    a.agent.load_metadata(&gone).unwrap();
    a.sims[0].release();
    let e = request.wait(LONG).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotRegistered, "{e}");
    let probes = 1;
    assert_eq!(a.sims[0].counts().posts, posts + probes);
}

#[test]
fn a_region_of_another_agent_is_not_taken_for_ones_own() {
    let (a, b) = pair(&[sim("sim", 0)]);
    assert_eq!(a.region.id(), b.region.id(), "or this shows nothing");
    let request = request(Op::Read, &a, &b, &ORDER).unwrap();
    request.post().unwrap();
    request.wait(LONG).unwrap();
    a.sims[0].faults(|f| {
        f.stall_after = Some(0);
        f.deaf_to_cancel = true;
    });
    request.post().unwrap();
    let still = |agent: &Agent, region| agent.deregister(region, Duration::ZERO).unwrap_err();
    assert_eq!(
        still(&a.agent, &a.region).kind(),
        ErrorKind::StillMapped,
        "withdrawn, and in use"
    );
    assert_eq!(
        still(&a.agent, &b.region).kind(),
        ErrorKind::NotRegistered,
        "b's region with the same number"
    );
    assert_eq!(still(&a.agent, &a.region).kind(), ErrorKind::StillMapped);
    a.sims[0].release();
    request.wait(LONG).unwrap();
    a.agent.deregister(&a.region, LONG).unwrap();
}

#[test]
fn shutting_down_waits_for_peers_that_may_touch_the_memory() {
    let (a, b) = pair(&[cooperative()]);
    let request = request(Op::Write, &a, &b, &ORDER).unwrap();
    request.post().unwrap();
    request.wait(LONG).unwrap();
    a.sims[0].faults(|f| f.hold_messages = true);
    let Party { agent, region, .. } = b;
    let e = agent.shutdown(Duration::from_millis(100)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout);
    assert!(e.to_string().contains('a'), "{e}");
    drop(region);
}

#[test]
fn shutting_down_ends_what_peers_do_with_the_memory() {
    let (a, b) = pair(&[cooperative()]);
    let request = request(Op::Write, &a, &b, &ORDER).unwrap();
    request.post().unwrap();
    request.wait(LONG).unwrap();
    a.sims[0].faults(|f| f.stall_after = Some(BLOCK));
    request.post().unwrap();
    let Party { agent, region, .. } = b;
    agent.shutdown(LONG).unwrap();
    drop(region);
    let e = request.wait(LONG).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotRegistered, "{e}");
}

/// `a` behind a backend with a hook in its posts, and `b`; `a` has loaded `b`.
fn hooked() -> (Party, Party, Arc<Early>) {
    let sim_a = SimBackend::new(sim("sim", 0));
    let control = sim_a.control();
    let early = Arc::new(Early {
        inner: sim_a,
        hook: Hook::default(),
    });
    let agent = Agent::builder("a")
        .config(quick())
        .backend_arc(early.clone())
        .build()
        .unwrap();
    let region = agent.allocate(LEN).unwrap();
    let a = Party {
        agent,
        region,
        sims: vec![control],
    };
    let b = Party::new("b", &[sim("sim", 0)], quick());
    a.agent.load_metadata(&b.agent.metadata().unwrap()).unwrap();
    (a, b, early)
}

#[test]
fn a_cancel_that_meets_its_post_does_not_cost_the_connection() {
    let (a, b, early) = hooked();
    let request = Arc::new(request(Op::Read, &a, &b, &ORDER).unwrap());
    request.post().unwrap();
    request.wait(LONG).unwrap();
    a.sims[0].faults(|f| f.stall_after = Some(0));
    let connects = a.sims[0].counts().connects;
    let me = Arc::downgrade(&request);
    *early.hook.lock() = Some(Box::new(move |token| {
        me.upgrade().unwrap().cancel();
        Some(token)
    }));
    request.post().unwrap();
    let e = request.wait(LONG).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Cancelled);
    *early.hook.lock() = None;
    a.sims[0].release();
    request.post().unwrap();
    request.wait(LONG).unwrap();
    assert_eq!(a.sims[0].counts().connects, connects);
}

#[test]
fn an_unclean_shutdown_ends_every_view_of_what_it_leaves_behind() {
    let (a, b, early) = hooked();
    let request = completed(Op::Read, &a, &b, &ORDER);
    let (keep, kept) = std::sync::mpsc::channel();
    *early.hook.lock() = Some(Box::new(move |token| {
        keep.send(token).unwrap();
        None
    }));
    request.post().unwrap();
    let Party { agent, region, .. } = a;
    let e = agent.shutdown(Duration::from_millis(100)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
    assert!(e.to_string().contains("1 requests"), "{e}");
    let e = request.wait(LONG).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Abandoned, "{e}");
    let mut done = std::pin::pin!(request.done());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(done.as_mut().poll(&mut context).is_ready());
    assert!(region.pins() > 0, "what may still be touched was let go");
    // Late is no harm.
    kept.recv().unwrap().complete(Ok(()));
    assert_eq!(request.wait(LONG).unwrap_err().kind(), ErrorKind::Abandoned);
}
