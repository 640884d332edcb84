//! A request ends early because the caller says so: its peer is removed, or it is cancelled.

use std::time::Instant;

use nixl::{Agent, ErrorKind, Op, Request, Status};

use crate::{
    over,
    process::Process,
    world::{
        LIMIT, LONG, Memory, ONCE, SOON, agent, amid, check_partial, image, is_active, moved,
        until, within,
    },
};

over!(tcp, shm, cma, ucx_tcp, ucx_rndv_tcp, ucx_cma:
    peer_amid_read, peer_amid_write, cancelled_amid_read, cancelled_amid_write,
    notifications_of_a_peer_loaded_again,
);

/// Ends a long request by `end`: nothing lands afterwards, at either side.
fn ended_early(path: &str, op: Op, end: impl Fn(&Agent, &Request)) -> (Agent, Process, Request) {
    let near = agent("near", path);
    let here = Memory::new(&near, path, 1);
    let (mut far, there) = Process::target(&near, path, "far", 2);
    let blob = far.metadata();
    let request = amid(LONG.request(op, &near, &here, "far", there).unwrap());
    let begun = Instant::now();
    end(&near, &request);
    until("its end", || !is_active(&request));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    if op == Op::Read {
        check_partial(&here.bytes(), &image(1), &moved(op, 2));
    }
    // Over TCP the target may not have heard of the end yet; what the initiator is told is that
    // nothing of the request lands any more, so this cannot be overwritten.
    assert_eq!(far.ask("fill 3"), "ok");
    here.check_quiet();
    far.check(&image(3));
    here.fill(4);

    near.load_metadata(&blob).unwrap();
    for op in [Op::Read, Op::Write] {
        let next = ONCE.request(op, &near, &here, "far", there).unwrap();
        next.post_with(within(LIMIT)).unwrap();
        next.wait(LIMIT).unwrap();
        if op == Op::Read {
            here.check(&moved(op, 3));
            here.fill(4);
        } else {
            far.check(&moved(op, 4));
        }
    }
    here.deregister(&near);
    (near, far, request)
}

fn peer_removed(path: &str, op: Op) {
    let (near, _far, request) = ended_early(path, op, |near, _| near.remove_peer("far").unwrap());
    let e = request.wait(LIMIT).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
    let e = request.post().unwrap_err();
    assert!(
        matches!(e.kind(), ErrorKind::PeerGone | ErrorKind::NotRegistered),
        "{e}"
    );
    drop(near);
}

fn peer_amid_read(path: &str) {
    peer_removed(path, Op::Read);
}

fn peer_amid_write(path: &str) {
    peer_removed(path, Op::Write);
}

fn cancelled(path: &str, op: Op) {
    let (near, _far, request) = ended_early(path, op, |_, request| request.cancel());
    assert_eq!(request.status(), Status::Cancelled);
    assert_eq!(
        request.wait(LIMIT).unwrap_err().kind(),
        ErrorKind::Cancelled
    );
    drop(near);
}

fn cancelled_amid_read(path: &str) {
    cancelled(path, Op::Read);
}

fn cancelled_amid_write(path: &str) {
    cancelled(path, Op::Write);
}

/// They go on where they were, for the same incarnation of the peer.
fn notifications_of_a_peer_loaded_again(path: &str) {
    let near = agent("near", path);
    let (mut far, _) = Process::target(&near, path, "far", 2);
    let blob = far.metadata();
    for round in 0..4 {
        for i in 0..3 {
            near.notify("far", format!("{round}.{i}").as_bytes())
                .unwrap();
        }
        let expected = format!("{round}.0 {round}.1 {round}.2");
        assert_eq!(far.ask("notified 3"), expected);
        near.remove_peer("far").unwrap();
        assert_eq!(near.load_metadata(&blob).unwrap(), "far");
    }
}
