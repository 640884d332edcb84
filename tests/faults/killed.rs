//! A process dies at the worst moment: the other goes on.

use std::time::Instant;

use nixl::{Agent, ErrorKind, Op};

use crate::{
    over,
    process::Process,
    world::{
        LIMIT, LONG, Memory, ONCE, SOON, agent, amid, check_partial, image, moved, until, within,
    },
};

over!(tcp, shm, cma, ucx_tcp, ucx_rndv_tcp, ucx_cma:
    target_before, target_during_read, target_during_write, target_after,
    initiator_before, initiator_after,
);
// Over ucx_tcp UCX itself ends the target (docs/ucx.md, What UCX breaks).
over!(tcp, shm, cma, ucx_rndv_tcp, ucx_cma: initiator_during_read, initiator_during_write);

/// Moves everything once and checks every byte on both sides.
fn works(op: Op, near: &Agent, path: &str, target: &mut Process, name: &str, there: u64) {
    let here = Memory::new(near, path, 70);
    assert_eq!(target.ask("fill 80"), "ok");
    let request = ONCE.request(op, near, &here, name, there).unwrap();
    request.post_with(within(LIMIT)).unwrap();
    request.wait(LIMIT).unwrap();
    let (ours, theirs) = match op {
        Op::Read => (moved(op, 80), image(80)),
        Op::Write => (image(70), moved(op, 70)),
    };
    here.check(&ours);
    target.check(&theirs);
    here.deregister(near);
}

fn target_before(path: &str) {
    let near = agent("near", path);
    let here = Memory::new(&near, path, 1);
    let (mut far, there) = Process::target(&near, path, "far", 2);
    far.kill();
    for op in [Op::Read, Op::Write] {
        let request = ONCE.request(op, &near, &here, "far", there).unwrap();
        let begun = Instant::now();
        request.post_with(within(LIMIT)).unwrap();
        let e = request.wait(LIMIT).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        here.check(&image(1));
    }
    here.deregister(&near);
}

/// The target dies amid a transfer, a bystander does not notice, and the next incarnation takes
/// the dead one's place.
fn target_during(path: &str, op: Op) {
    let near = agent("near", path);
    let here = Memory::new(&near, path, 1);
    let (mut far, there) = Process::target(&near, path, "far", 2);
    let old_blob = far.metadata();
    let (mut by, by_there) = Process::target(&near, path, "bystander", 3);
    works(Op::Read, &near, path, &mut by, "bystander", by_there);

    let request = amid(LONG.request(op, &near, &here, "far", there).unwrap());
    far.kill();
    let killed = Instant::now();
    let e = request.wait(LIMIT).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
    assert!(killed.elapsed() < SOON, "{:?}", killed.elapsed());
    match op {
        Op::Read => check_partial(&here.bytes(), &image(1), &moved(op, 2)),
        Op::Write => here.check(&image(1)),
    }
    here.check_quiet();
    here.deregister(&near);
    works(Op::Write, &near, path, &mut by, "bystander", by_there);

    let (mut far, there) = Process::target(&near, path, "far", 4);
    works(op, &near, path, &mut far, "far", there);
    let e = request.post().unwrap_err();
    assert!(
        matches!(e.kind(), ErrorKind::PeerGone | ErrorKind::NotRegistered),
        "a request to the dead incarnation: {e}"
    );
    let e = near.load_metadata(&old_blob).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NameConflict, "{e}");
    works(op, &near, path, &mut far, "far", there);
    assert_eq!(near.snapshot().active_requests, 0);
}

fn target_during_read(path: &str) {
    target_during(path, Op::Read);
}

fn target_during_write(path: &str) {
    target_during(path, Op::Write);
}

/// What has ended stays as it is; what is posted next fails.
fn target_after(path: &str) {
    let near = agent("near", path);
    let here = Memory::new(&near, path, 1);
    let (mut far, there) = Process::target(&near, path, "far", 2);
    let request = ONCE.request(Op::Read, &near, &here, "far", there).unwrap();
    request.post_with(within(LIMIT)).unwrap();
    request.wait(LIMIT).unwrap();
    far.kill();
    here.check(&moved(Op::Read, 2));
    request.wait(LIMIT).unwrap();
    assert_eq!(request.receipt().unwrap().path, path);
    let begun = Instant::now();
    let again = request.post_with(within(LIMIT));
    let e = again.and_then(|()| request.wait(LIMIT)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    here.check(&moved(Op::Read, 2));
    here.deregister(&near);
}

/// The target sees the end of the connection, takes its memory back and serves the next one.
fn initiator_during(path: &str, op: &str) {
    let near = agent("near", path);
    let memory = Memory::new(&near, path, 1);
    let mut far = Process::initiator(&near, path, "far", 2);
    let posted = format!("loop {op} {} near {}", LONG.rounds, memory.addr());
    assert_eq!(far.ask(&posted), "ok");
    far.kill();
    let before = image(1);
    if op == "write" {
        check_partial(&memory.bytes(), &before, &moved(Op::Write, 2));
    } else {
        memory.check(&before);
    }
    memory.deregister(&near);
    memory.check_quiet();
    let memory = memory.reuse(&near);
    let memory = if path == "shm" {
        Memory::new(&near, path, 5)
    } else {
        memory
    };
    serves_the_next(&near, path, op, memory);
}

/// The next process of the dead initiator's name transfers, byte for byte; nothing is left over.
fn serves_the_next(near: &Agent, path: &str, op: &str, memory: Memory) {
    memory.fill(5);
    let mut next = Process::initiator(near, path, "far", 6);
    let run = format!("run {op} near {}", memory.addr());
    assert_eq!(next.ask(&run), "ok");
    match op {
        "write" => memory.check(&moved(Op::Write, 6)),
        _ => next.check(&moved(Op::Read, 5)),
    }
    memory.deregister(near);
    until("no request of ours", || {
        near.snapshot().active_requests == 0
    });
}

/// It knew the target and did nothing yet.
fn initiator_before(path: &str) {
    for op in ["read", "write"] {
        let near = agent("near", path);
        let memory = Memory::new(&near, path, 1);
        let mut far = Process::initiator(&near, path, "far", 2);
        far.kill();
        memory.check(&image(1));
        serves_the_next(&near, path, op, memory);
    }
}

/// What it wrote stays, and nobody holds the memory for it.
fn initiator_after(path: &str) {
    for op in ["read", "write"] {
        let near = agent("near", path);
        let memory = Memory::new(&near, path, 1);
        let mut far = Process::initiator(&near, path, "far", 2);
        let run = format!("run {op} near {}", memory.addr());
        assert_eq!(far.ask(&run), "ok");
        far.kill();
        let left = match op {
            "write" => moved(Op::Write, 2),
            _ => image(1),
        };
        memory.check(&left);
        memory.deregister(&near);
        memory.check(&left);
        serves_the_next(&near, path, op, Memory::new(&near, path, 5));
    }
}

fn initiator_during_read(path: &str) {
    initiator_during(path, "read");
}

fn initiator_during_write(path: &str) {
    initiator_during(path, "write");
}
