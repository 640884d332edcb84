//! Agents without threads: everything happens inside of `progress`.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::{Duration, Instant},
};

use nixl_conformance::sim::{FaultPlan, SimConfig};
use nixl_core::{AgentConfig, ErrorKind, Op, PostOptions, Progress, Status};

use crate::world::*;

const ORDER: [u64; 4] = [9, 3, 4, 200];

fn alone() -> AgentConfig {
    AgentConfig {
        progress: Progress::Caller,
        ..quick()
    }
}

fn duo(config: SimConfig) -> (Party, Party) {
    let a = Party::new("a", std::slice::from_ref(&config), alone());
    let b = Party::new("b", &[config], alone());
    a.agent.load_metadata(&b.agent.metadata().unwrap()).unwrap();
    a.fill(1);
    b.fill(2);
    (a, b)
}

/// Lets both make progress until `done`.
fn drive(a: &Party, b: &Party, what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LONG, "{what}");
        a.agent.progress(Duration::from_micros(100));
        b.agent.progress(Duration::from_micros(100));
    }
}

#[test]
fn two_agents_without_threads_do_everything_on_one() {
    for op in [Op::Read, Op::Write] {
        let (a, b) = duo(sim("sim", 0));
        let request = request(op, &a, &b, &ORDER).unwrap();
        let told = PostOptions {
            notification: Some(bytes::Bytes::from_static(b"done")),
            ..PostOptions::default()
        };
        request.post_with(told).unwrap();
        drive(&a, &b, "the request", || request.status() == Status::Done);
        check(op, &a, &b, &ORDER);
        let mut told = None;
        drive(&a, &b, "the notification", || {
            told = b.agent.take_notification();
            told.is_some()
        });
        assert_eq!(&told.unwrap().data[..], b"done");
        b.agent.deregister(&b.region, Duration::ZERO).unwrap();
        let refused = request.post().and_then(|()| {
            drive(&a, &b, "the refusal", || request.status() != Status::Active);
            request.wait(Duration::ZERO)
        });
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotRegistered);
    }
}

#[test]
fn a_deadline_is_kept_without_threads() {
    let stalled = SimConfig {
        faults: FaultPlan {
            silent_connects: true,
            ..FaultPlan::default()
        },
        ..sim("sim", 0)
    };
    let (a, b) = duo(stalled);
    let request = request(Op::Read, &a, &b, &ORDER).unwrap();
    let begun = Instant::now();
    let deadline = Some(Duration::from_millis(100));
    let options = PostOptions {
        deadline,
        ..PostOptions::default()
    };
    request.post_with(options).unwrap();
    let e = request.wait(LONG).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
    assert!(
        begun.elapsed() < Duration::from_millis(600),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_thread_asleep_in_progress_wakes_for_anothers_post() {
    let (a, b) = duo(sim("sim", 0));
    let request = request(Op::Read, &a, &b, &ORDER).unwrap();
    request.post().unwrap();
    drive(&a, &b, "the request", || request.status() == Status::Done);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(SeqCst) {
                a.agent.progress(LONG);
            }
        });
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(2));
            request.post().unwrap();
            let begun = Instant::now();
            while request.status() != Status::Done {
                assert!(begun.elapsed() < Duration::from_millis(500), "it slept on");
                std::thread::yield_now();
            }
        }
        over.store(true, SeqCst);
        request.post().unwrap();
    });
}
