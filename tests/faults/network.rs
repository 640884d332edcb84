//! A network whose link goes down and comes back: two network namespaces and a veth pair.

use std::time::{Duration, Instant};

use nixl::{Agent, ErrorKind, Op};

use crate::{
    namespaces::{SCRIPT, inside, sh},
    process::Process,
    ucx,
    world::{
        BIND, LIMIT, LONG, Memory, ONCE, SOON, agent, check_partial, image, is_active, moved,
        until, within,
    },
};

const THERE: &str = "10.77.0.2";
/// A veth pair, up before UCX looks at what is.
const LINKS: &str = "mount -t sysfs sysfs /sys; ip link set lo up; ip link add v0 type veth peer name v1; \
                     ip addr add 10.77.0.1/24 dev v0; ip link set v0 up; ip link set v1 up";

macro_rules! cut {
    ($($path:ident),+) => {
        $(#[test] fn $path() {
            let name = concat!("network::", stringify!($path));
            if ucx::is_here(stringify!($path)) && inside(name, "-Urnm", LINKS) {
                link_goes_down(stringify!($path));
            }
        })+
    };
}
cut!(tcp, ucx_tcp);

/// The peer at the other end of a veth pair.
fn across(near: &Agent, path: &str, seed: u64) -> (Process, u64) {
    let script = format!(
        "mount -t sysfs sysfs /sys; ip link set lo up; ip addr add {THERE}/24 dev v1; ip link set v1 up; \
         i=0; while ! ip -br link show dev v1 | grep -q LOWER_UP; do i=$((i+1)); test $i -lt 2000; done"
    );
    let variables = [(SCRIPT, &script[..]), (BIND, THERE)];
    let mut far = Process::launch(&["unshare", "--net", "--mount"], &variables, path, "far");
    // It is in its namespace once that is another one than ours.
    let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
    let theirs = format!("/proc/{}/ns/net", far.id());
    until("its namespace", || {
        std::fs::read_link(&theirs).unwrap() != ours
    });
    sh(&format!("ip link set v1 netns {}", far.id()));
    assert_eq!(far.ask("go"), "ready");
    let there = far.served(near, "far", seed);
    (far, there)
}

fn run(near: &Agent, op: Op, here: &Memory, name: &str, there: u64) -> nixl::Result<()> {
    let request = ONCE.request(op, near, here, name, there)?;
    request.post_with(within(LIMIT))?;
    request.wait(LIMIT)
}

/// The bystander is reached as if nothing had happened.
fn works(near: &Agent, path: &str, by: &mut Process, there: u64) {
    let here = Memory::new(near, path, 70);
    let begun = Instant::now();
    for op in [Op::Read, Op::Write] {
        here.fill(70);
        assert_eq!(by.ask("fill 80"), "ok");
        run(near, op, &here, "bystander", there).unwrap();
        match op {
            Op::Read => here.check(&moved(op, 80)),
            Op::Write => by.check(&moved(op, 70)),
        }
    }
    here.deregister(near);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

fn link_goes_down(path: &str) {
    let near = agent("near", path);
    let here = Memory::new(&near, path, 1);
    let (mut far, there) = across(&near, path, 2);
    let (mut by, by_there) = Process::target(&near, path, "bystander", 3);
    works(&near, path, &mut by, by_there);
    for op in [Op::Read, Op::Write] {
        here.fill(1);
        assert_eq!(far.ask("fill 2"), "ok");
        run(&near, op, &here, "far", there).unwrap();
        here.fill(1);
        assert_eq!(far.ask("fill 2"), "ok");
        let request = LONG.request(op, &near, &here, "far", there).unwrap();
        request.post_with(within(Duration::from_secs(2))).unwrap();
        let posted = Instant::now();
        until("bytes to move", || request.moved() > 0);
        assert!(is_active(&request), "{:?}", request.status());
        sh("ip link set v0 down");
        let e = request.wait(LIMIT).unwrap_err();
        let took = posted.elapsed();
        assert!(
            matches!(e.kind(), ErrorKind::Timeout | ErrorKind::PeerGone),
            "{op:?}: {e}"
        );
        assert!(took < SOON, "{op:?}: {took:?}");
        assert_eq!(e.peer(), Some("far"), "{e}");
        if op == Op::Read {
            check_partial(&here.bytes(), &image(1), &moved(op, 2));
        }
        here.check_quiet();
        works(&near, path, &mut by, by_there);
        sh("ip link set v0 up");
        let begun = Instant::now();
        here.fill(1);
        while let Err(e) = run(&near, op, &here, "far", there) {
            assert!(begun.elapsed() < LIMIT, "it never works again: {e}");
            std::thread::sleep(Duration::from_millis(50));
        }
        println!("{path} {op:?}: {e}; back after {:?}", begun.elapsed());
    }
    here.deregister(&near);
}
