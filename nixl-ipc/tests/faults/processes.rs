//! Two real processes: bytes, death, stopping, limits, namespaces.

use std::process::{Command, Stdio};

use nixl_conformance::rig::{Memory, must_fail, pattern};
use nixl_core::{DescList, ErrorKind, Op, Secret};
use nixl_ipc::{CMA, SHM};
use rustix::process::Signal;

use crate::{
    child::checksum,
    second::{Second, Shuffle, bytes, print_card, print_region, rig},
    setup::config,
};

const MIB: u64 = 1 << 20;

/// READ and WRITE of scattered blocks, every byte of both sides checked.
fn every_byte(path: &'static str, memory: &str) {
    let dir = "ipc";
    let rig = rig(path, dir);
    let mut second = Second::start(dir);
    let node = rig.node("first");
    let side = rig.try_connect(&node, second.card.clone()).unwrap();
    for (block, len) in [
        (8, 8 * 3000),
        (2048, 4 * MIB),
        (32 << 10, 16 * MIB),
        (MIB, 7 * MIB),
    ] {
        let shuffle = Shuffle {
            theirs: second.region(memory, len, true, len),
            block,
        };
        let index = shuffle.theirs.id.0 - 1;
        let ours = node.region(Memory::Heap, len as usize);
        let read = shuffle.plan(&rig, Op::Read, &node, &ours);
        rig.attempt(&side, &read).unwrap();
        assert!(bytes(&ours) == shuffle.read(&pattern(len, 0, len as usize)));

        let new = pattern(len + 1, 0, len as usize);
        ours.write_at(0, &new).unwrap();
        let write = shuffle.plan(&rig, Op::Write, &node, &ours);
        rig.attempt(&side, &write).unwrap();
        assert_eq!(
            second.ask(&format!("read {index}")),
            checksum(&shuffle.written(&new))
        );
        assert!(bytes(&ours) == new);
    }
    rig.finish();
}

#[test]
fn shm_moves_every_byte() {
    every_byte(SHM, "agent");
}

#[test]
fn cma_moves_every_byte() {
    every_byte(CMA, "heap");
    every_byte(CMA, "agent");
}

#[test]
fn messages_cross_processes_in_order() {
    let dir = "ipc";
    let rig = rig(SHM, dir);
    let mut second = Second::start(dir);
    let node = rig.node("first");
    let side = rig.try_connect(&node, second.card.clone()).unwrap();
    let lens = [0, 1, 65_534, 65_535, 65_536, 1 << 20, 16 << 20];
    for i in 0..100 {
        side.send(pattern(1, i, lens[i as usize % lens.len()]));
        // A peer that leaves more unread than core ever does is cut off: let it keep up.
        if i % 25 == 24 {
            let count = (i + 1).to_string();
            assert_eq!(second.ask(&format!("received {count}")), count);
        }
    }
    assert_eq!(second.ask("send 50 200000"), "ok");
    rig.wait("the answers", || side.received() == 50);
    for i in 0..50 {
        assert!(side.message(i).1 == pattern(2, i as u64, 200_000));
    }
    rig.finish();
}

/// The kernel keeps mapped memory, so only the look at the peer tells: `PeerGone`, never `Ok`.
fn killed(path: &'static str, memory: &str) {
    // Of its own: whoever starts in the same directory clears away what a dead agent left.
    let dir = &format!("ipc-killed-{path}");
    let rig = rig(path, dir);
    let mut second = Second::start(dir);
    let node = rig.node("first");
    let theirs = second.region(memory, 32 * MIB, true, 1);
    let ours = node.region(Memory::Heap, 32 << 20);
    // The same blocks again and again: long enough for a process to die meanwhile.
    let blocks = |base: u64| {
        DescList::dram((0..65_536).map(move |i| (base + i * 37 % 512 * 65_536, 65_536)))
    };
    let (local, remote) = (blocks(ours.addr()), blocks(theirs.addr));
    let cards = std::slice::from_ref(&theirs);
    let plan = rig.plan(Op::Write, &node, &local, cards, &remote);
    let card = second.card.clone();
    let side = rig.try_connect(&node, card.clone()).unwrap();

    // During: after the first bytes, long before the last.
    let op = rig.prepare(&side, &plan);
    op.post().unwrap();
    rig.wait("bytes to move", || op.transfer().moved() > 0);
    second.kill();
    assert_eq!(rig.end(&op).unwrap_err().kind(), ErrorKind::PeerGone);
    assert!(op.transfer().moved() < plan.bytes());
    assert!(op.transfer().fenced());
    rig.wait("the end of the connection", || side.closed().is_some());
    assert_eq!(side.closed().unwrap().kind(), ErrorKind::PeerGone);

    // After: nothing is posted any more.
    assert_eq!(must_fail(op.post(), "a post").kind(), ErrorKind::PeerGone);

    // Before: nobody answers, and whoever starts next clears the socket away.
    let e = rig.try_connect(&node, card.clone()).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
    let left = config(dir, false)
        .dir
        .unwrap()
        .join(std::str::from_utf8(&card.backends[0].address).unwrap());
    assert!(left.exists());
    let _next = Second::start(dir);
    assert!(!left.exists(), "a dead agent's socket stays");
    rig.finish();
}

#[test]
fn a_killed_peer_ends_shm_transfers() {
    killed(SHM, "agent");
}

#[test]
fn a_killed_peer_ends_cma_transfers() {
    killed(CMA, "heap");
}

/// The initiator copies, so bytes move; messages wait until the peer goes on.
fn stopped(path: &'static str) {
    let dir = "ipc";
    let rig = rig(path, dir);
    let mut second = Second::start(dir);
    let node = rig.node("first");
    let shuffle = Shuffle {
        theirs: second.region("agent", 4 * MIB, true, 5),
        block: 4096,
    };
    let ours = node.region(Memory::Heap, 4 << 20);
    let plan = shuffle.plan(&rig, Op::Read, &node, &ours);
    let side = rig.try_connect(&node, second.card.clone()).unwrap();
    let op = rig.prepare(&side, &plan);
    rig.run(&op).unwrap();
    second.signal(Signal::STOP);
    ours.write_at(0, &vec![0; 4 << 20]).unwrap();
    rig.run(&op).unwrap();
    assert!(bytes(&ours) == shuffle.read(&pattern(5, 0, 4 << 20)));
    for i in 0..20 {
        side.send(pattern(1, i, 1 << 20));
    }
    // A peer that is not connected yet does not answer: an error, in bounded time.
    let stranger = rig.node("stranger");
    let e = rig
        .try_connect(&stranger, second.card.clone())
        .err()
        .unwrap();
    assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
    second.signal(Signal::CONT);
    assert_eq!(second.ask("received 20"), "20");
    rig.finish();
}

#[test]
fn a_stopped_peer_stops_no_shm_transfer() {
    stopped(SHM);
}

#[test]
fn a_stopped_peer_stops_no_cma_transfer() {
    stopped(CMA);
}

/// A post that needs the peer's leave first: it waits, can be cancelled, and ends with the peer.
#[test]
fn a_post_that_waits_for_a_stopped_peer_can_end() {
    for (path, memory) in [(SHM, "agent"), (CMA, "heap")] {
        let rig = rig(path, "ipc");
        let mut second = Second::start("ipc");
        let node = rig.node("first");
        let ours = node.region(Memory::Heap, MIB as usize);
        let side = rig.try_connect(&node, second.card.clone()).unwrap();
        let mut prepare = |seed| {
            let shuffle = Shuffle {
                theirs: second.region(memory, MIB, true, seed),
                block: 4096,
            };
            let plan = shuffle.plan(&rig, Op::Read, &node, &ours);
            (shuffle, plan)
        };
        let ((shuffle, first), (_, other)) = (prepare(1), prepare(2));
        second.signal(Signal::STOP);
        let op = rig.prepare(&side, &first);
        op.post().unwrap();
        assert!(op.result().is_none(), "nobody granted it");
        op.transfer().cancel();
        let e = rig.end(&op).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Cancelled);
        // Posted again, it goes on by itself once the peer does.
        op.post().unwrap();
        assert!(op.result().is_none());
        second.signal(Signal::CONT);
        rig.end(&op).unwrap();
        assert!(bytes(&ours) == shuffle.read(&pattern(1, 0, MIB as usize)));

        second.signal(Signal::STOP);
        let op = rig.prepare(&side, &other);
        op.post().unwrap();
        second.kill();
        let e = rig.end(&op).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
        assert_eq!(op.transfer().moved(), 0);
        rig.finish();
    }
}

#[test]
fn a_wrong_secret_is_refused_by_either_side() {
    let dir = "ipc";
    let rig = rig(SHM, dir);
    let mut second = Second::start(dir);
    let node = rig.node("first");
    let mut card = second.card.clone();
    card.secret = Secret([7; 32]);
    let e = rig.try_connect(&node, card).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Unauthenticated, "{e}");

    let mut card = node.card();
    card.secret = Secret([7; 32]);
    let said = second.ask(&format!("dial {}", print_card(&card)));
    assert!(said.starts_with("Unauthenticated"), "{said}");
    assert!(node.accepted().is_empty());
    let said = second.ask(&format!("dial {}", print_card(&node.card())));
    assert_eq!(said, "ok");
    rig.finish();
}

/// A region withdrawn while mapped: who holds the mapping goes on, who asks anew is refused.
fn withdrawn(path: &'static str, memory: &str) {
    let dir = "ipc";
    let rig = rig(path, dir);
    let mut second = Second::start(dir);
    let node = rig.node("first");
    let shuffle = Shuffle {
        theirs: second.region(memory, 64 * MIB, true, 1),
        block: 4096,
    };
    let ours = node.region(Memory::Heap, 64 << 20);
    let side = rig.try_connect(&node, second.card.clone()).unwrap();
    let plan = shuffle.plan(&rig, Op::Read, &node, &ours);
    let op = rig.prepare(&side, &plan);
    rig.run(&op).unwrap();
    op.post().unwrap();
    rig.wait("bytes to move", || op.transfer().moved() > 0);
    assert_eq!(second.ask("withdraw 0"), "ok");
    side.forget(shuffle.theirs.id);
    rig.end(&op).unwrap();
    assert!(bytes(&ours) == shuffle.read(&pattern(1, 0, 64 << 20)));
    let e = must_fail(rig.run(&op), "a post to a withdrawn region");
    assert_eq!(e.kind(), ErrorKind::NotRegistered, "{e}");
    let mapped = std::fs::read_to_string("/proc/self/maps").unwrap();
    let peers = mapped.lines().filter(|l| l.contains("memfd:nixl")).count();
    assert_eq!(
        peers, 0,
        "the peer's memory is still mapped here:\n{mapped}"
    );
    rig.finish();
}

#[test]
fn a_withdrawn_region_is_unmapped() {
    withdrawn(SHM, "agent");
}

#[test]
fn a_withdrawn_region_is_no_longer_read_by_cma() {
    withdrawn(CMA, "heap");
}

/// Without a free descriptor: a typed error, and all is well again with one.
#[test]
fn a_lack_of_descriptors_is_said() {
    let dir = "ipc";
    let rig = rig(SHM, dir);
    let mut second = Second::start(dir);
    let node = rig.node("first");
    let region = node.region(Memory::Agent, 8192);
    region.write_at(0, &pattern(3, 0, 8192)).unwrap();
    let (card, region) = (print_card(&node.card()), print_region(&region.card()));
    // None for the socket to dial with.
    assert_eq!(second.ask("files 1"), "ok");
    let said = second.ask(&format!("dial {card}"));
    assert!(said.starts_with("Exhausted"), "{said}");
    assert!(said.contains("ulimit -n"), "{said}");
    assert_eq!(second.ask("files 50"), "ok");
    assert_eq!(second.ask(&format!("dial {card}")), "ok");
    // None for the memory to map.
    assert_eq!(second.ask("files 0"), "ok");
    let said = second.ask(&format!("pull 3 {region}"));
    assert!(said.starts_with("Exhausted"), "{said}");
    assert_eq!(second.ask("files 50"), "ok");
    assert_eq!(second.ask(&format!("pull 3 {region}")), "ok");
    rig.finish();
}

/// Whether the second process can run under a command here; says so where not.
fn can_wrap(wrapper: &[&str]) -> bool {
    let status = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg("true")
        .stderr(Stdio::null())
        .status();
    let can = status.is_ok_and(|s| s.success());
    if !can {
        println!(
            "SKIP wrapped process: {} is not permitted",
            wrapper.join(" ")
        );
    }
    can
}

/// A process with fewer rights than ours may not look into us (ptrace(2), access mode checking).
#[test]
fn missing_rights_are_named() {
    let wrapper = ["setpriv", "--bounding-set=-all"];
    if !rustix::process::geteuid().is_root() {
        println!("SKIP missing rights: only root has any to give up");
        return;
    }
    if !can_wrap(&wrapper) {
        return;
    }
    let rig = rig(SHM, "ipc");
    let mut second = Second::start_under(&wrapper, "ipc");
    let node = rig.node("first");
    let region = node.region(Memory::Agent, 4096);
    region.write_at(0, &pattern(8, 0, 4096)).unwrap();
    let (card, region) = (print_card(&node.card()), print_region(&region.card()));
    assert_eq!(second.ask(&format!("dial {card}")), "ok");
    let said = second.ask(&format!("cma {region}"));
    assert!(said.starts_with("Unsupported no CMA: EPERM"), "{said}");
    assert!(said.contains("ptrace"), "{said}");
    assert_eq!(second.ask(&format!("pull 8 {region}")), "ok");
    rig.finish();
}

#[test]
fn a_shared_directory_crosses_network_namespaces() {
    let wrapper = ["unshare", "--net"];
    if !can_wrap(&wrapper) {
        return;
    }
    let dir = "ipc";
    for (path, memory) in [(SHM, "agent"), (CMA, "heap")] {
        let rig = rig(path, dir);
        let mut second = Second::start_under(&wrapper, dir);
        let node = rig.node("first");
        let shuffle = Shuffle {
            theirs: second.region(memory, MIB, true, 9),
            block: 512,
        };
        let ours = node.region(Memory::Heap, MIB as usize);
        let side = rig.try_connect(&node, second.card.clone()).unwrap();
        let plan = shuffle.plan(&rig, Op::Read, &node, &ours);
        rig.attempt(&side, &plan).unwrap();
        assert!(bytes(&ours) == shuffle.read(&pattern(9, 0, MIB as usize)));
        rig.finish();
    }
}

/// From inside a PID namespace its parent's processes cannot be seen: no CMA, and it says why;
/// shared memory works all the same.
#[test]
fn another_pid_namespace_is_named() {
    let wrapper = ["unshare", "--pid", "--fork", "--kill-child"];
    if !can_wrap(&wrapper) {
        return;
    }
    let dir = "ipc";
    let rig = rig(SHM, dir);
    let mut second = Second::start_under(&wrapper, dir);
    let node = rig.node("first");
    let region = node.region(Memory::Agent, 100_000);
    region.write_at(0, &pattern(4, 0, 100_000)).unwrap();
    let (card, region) = (print_card(&node.card()), print_region(&region.card()));
    assert_eq!(second.ask(&format!("dial {card}")), "ok");
    let said = second.ask(&format!("cma {region}"));
    assert!(said.starts_with("Unsupported no CMA"), "{said}");
    assert!(
        said.contains("not visible from our PID namespace"),
        "{said}"
    );
    assert_eq!(second.ask(&format!("pull 4 {region}")), "ok");

    // From outside the process inside can be seen, under another number than it thinks it has.
    let theirs = second.region("heap", 8192, true, 6);
    let side = rig.try_connect(&node, second.card.clone()).unwrap();
    let ours = node.region(Memory::Heap, 8192);
    let shuffle = Shuffle { theirs, block: 64 };
    let plan = shuffle.plan(&rig, Op::Read, &node, &ours);
    side.endpoint().prepare(CMA, &plan).unwrap();
    rig.finish();
}
