//! The target is stopped (SIGSTOP) and perhaps goes on.

use std::time::{Duration, Instant};

use bytes::Bytes;
use nixl::{Agent, ErrorKind, Op, PostOptions, Request, Status};

use crate::{
    over,
    process::Process,
    world::{
        LIMIT, Memory, ONCE, agent, check_partial, config, image, is_active, moved, until, within,
    },
};

over!(tcp, ucx_tcp, ucx_rndv_tcp: ends_at_its_deadline, goes_on_before_its_deadline);
over!(shm, cma: moves_bytes_without_the_target);

const OPS: [Op; 2] = [Op::Read, Op::Write];

/// A request that has run once, so that connection and path stand.
fn proven(op: Op, near: &Agent, here: &Memory, there: u64) -> Request {
    let request = ONCE.request(op, near, here, "far", there).unwrap();
    request.post_with(within(LIMIT)).unwrap();
    request.wait(LIMIT).unwrap();
    request
}

/// Memory at both ends as if nothing had been moved.
fn refill(here: &Memory, far: &mut Process) {
    here.fill(1);
    assert_eq!(far.ask("fill 2"), "ok");
}

fn check(op: Op, here: &Memory, far: &mut Process) {
    match op {
        Op::Read => here.check(&moved(op, 2)),
        Op::Write => far.check(&moved(op, 1)),
    }
}

fn ends_at_its_deadline(path: &str) {
    let near = agent("near", path);
    let here = Memory::new(&near, path, 1);
    let (mut far, there) = Process::target(&near, path, "far", 2);
    for op in OPS {
        let request = proven(op, &near, &here, there);
        refill(&here, &mut far);
        far.stop();
        let posted = Instant::now();
        request
            .post_with(within(Duration::from_millis(500)))
            .unwrap();
        let e = request.wait(LIMIT).unwrap_err();
        let took = posted.elapsed();
        assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
        assert!(
            (400..2000).contains(&took.as_millis()),
            "{op:?} ended after {took:?}"
        );
        check_partial(&here.bytes(), &image(1), &moved(Op::Read, 2));
        here.check_quiet();
        far.resume();
        // What the target still had to do with it is over before the next one.
        refill(&here, &mut far);
        request.post_with(within(LIMIT)).unwrap();
        request.wait(LIMIT).unwrap();
        check(op, &here, &mut far);
    }
    here.deregister(&near);
}

/// Even if it was stopped for longer than its host may be silent: the host is not gone.
fn goes_on_before_its_deadline(path: &str) {
    let mut config = config(path);
    config.tcp.user_timeout_ms = 500;
    config.tcp.heartbeat_ms = 100;
    config.agent.stall_after_ms = 1200;
    let near = config.agent("near").unwrap().build().unwrap();
    let here = Memory::new(&near, path, 1);
    let (mut far, there) = Process::target(&near, path, "far", 2);
    let requests = OPS.map(|op| proven(op, &near, &here, there));
    for (op, request) in OPS.into_iter().zip(requests) {
        refill(&here, &mut far);
        far.stop();
        request.post_with(within(LIMIT)).unwrap();
        until("the request to stall", || {
            assert!(is_active(&request), "{:?}", request.status());
            request.status() == Status::Stalled
        });
        far.resume();
        request.wait(LIMIT).unwrap();
        check(op, &here, &mut far);
        let receipt = request.receipt().unwrap();
        assert_eq!((receipt.attempts, receipt.failures), (1, vec![]));
    }
    here.deregister(&near);
}

/// The initiator copies; only the notification has to wait.
fn moves_bytes_without_the_target(path: &str) {
    let near = agent("near", path);
    let here = Memory::new(&near, path, 1);
    let (mut far, there) = Process::target(&near, path, "far", 2);
    let requests = OPS.map(|op| proven(op, &near, &here, there));
    for (op, request) in OPS.into_iter().zip(requests) {
        refill(&here, &mut far);
        far.stop();
        let text = format!("after-{op:?}");
        let options = PostOptions {
            notification: Some(Bytes::from(text.clone())),
            deadline: Some(LIMIT),
        };
        request.post_with(options).unwrap();
        request.wait(LIMIT).unwrap();
        if op == Op::Read {
            check(op, &here, &mut far);
        }
        far.resume();
        assert_eq!(far.ask("notified 1"), text);
        check(op, &here, &mut far);
    }
    here.deregister(&near);
}
