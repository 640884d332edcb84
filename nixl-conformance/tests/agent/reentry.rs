//! Calls back into the library from its own callbacks, and limits that no clock can hold.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use nixl_conformance::sim::Failing;
use nixl_core::{AgentConfig, ErrorKind, Op, PostOptions, Request, Status};

use crate::world::*;

const ORDER: [u64; 4] = [9, 3, 4, 200];

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LONG, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_callback_may_post_again_and_again() {
    const POSTS: usize = 20_000;
    let (a, b) = pair(&[sim("sim", 0)]);
    let request = Arc::new(request(Op::Read, &a, &b, &ORDER).unwrap());
    let me: Arc<OnceLock<Weak<Request>>> = Arc::default();
    me.set(Arc::downgrade(&request)).unwrap();
    let ended = Arc::new(AtomicUsize::new(0));
    let (count, sim) = (ended.clone(), a.sims[0].clone());
    request.on_complete(Box::new(move |_| {
        // From the second post on each one ends inside of `post`.
        if count.fetch_add(1, SeqCst) == 0 {
            sim.faults(|f| {
                f.refuse_posts = Some(Failing {
                    times: u32::MAX,
                    kind: ErrorKind::NotAllowed,
                });
            });
        }
        if count.load(SeqCst) < POSTS
            && let Some(request) = me.get().and_then(Weak::upgrade)
        {
            request.post().unwrap();
        }
    }));
    request.post().unwrap();
    until("the callbacks stopped", || ended.load(SeqCst) == POSTS);
}

#[test]
fn a_callback_may_be_replaced_by_itself() {
    let (a, b) = pair(&[sim("sim", 0)]);
    let request = Arc::new(request(Op::Read, &a, &b, &ORDER).unwrap());
    let second = Arc::new(AtomicUsize::new(0));
    let (me, count) = (Arc::downgrade(&request), second.clone());
    request.on_complete(Box::new(move |_| {
        let count = count.clone();
        if let Some(request) = me.upgrade() {
            request.on_complete(Box::new(move |_| {
                count.fetch_add(1, SeqCst);
            }));
        }
    }));
    for _ in 0..2 {
        request.post().unwrap();
        request.wait(LONG).unwrap();
    }
    until("the second callback was not called", || {
        second.load(SeqCst) == 1
    });
}

#[test]
fn a_callback_that_panics_harms_nobody_else() {
    let (a, b) = pair(&[sim("sim", 0)]);
    let request = request(Op::Read, &a, &b, &ORDER).unwrap();
    let called = Arc::new(AtomicUsize::new(0));
    let count = called.clone();
    request.on_complete(Box::new(move |_| {
        count.fetch_add(1, SeqCst);
        panic!("a bug in the application");
    }));
    for round in 1..=3 {
        request.post().unwrap();
        request.wait(LONG).unwrap();
        until("the callback was not called", || {
            called.load(SeqCst) == round
        });
    }
}

#[test]
fn no_limit_is_too_long() {
    let config = AgentConfig {
        connect_timeout: Duration::MAX,
        probe_timeout: Duration::MAX,
        stall_after: Duration::MAX,
        ..quick()
    };
    let a = Party::new("a", &[sim("sim", 0)], config.clone());
    let b = Party::new("b", &[sim("sim", 0)], config);
    a.agent.load_metadata(&b.agent.metadata().unwrap()).unwrap();
    a.fill(1);
    b.fill(2);
    let request = request(Op::Read, &a, &b, &ORDER).unwrap();
    let forever = PostOptions {
        deadline: Some(Duration::MAX),
        ..PostOptions::default()
    };
    request.post_with(forever.clone()).unwrap();
    request.wait(Duration::MAX).unwrap();
    check(Op::Read, &a, &b, &ORDER);
    a.sims[0].faults(|f| f.stall_after = Some(0));
    request.post_with(forever).unwrap();
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(request.status(), Status::Active);
    a.sims[0].release();
    request.wait(LONG).unwrap();
}
