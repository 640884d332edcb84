//! Little memory may be pinned, and /dev/shm is full or cannot be written to.

use std::time::Instant;

use nixl::{ErrorKind, Op};

use crate::{
    libraries,
    namespaces::inside,
    over,
    process::Process,
    ucx,
    world::{LIMIT, Memory, ONCE, SOON, agent, config, image, moved, within},
};

over!(tcp, shm, cma, ucx_tcp, ucx_cma, ucx: little_may_be_pinned);

/// Transfers in both directions between an agent here and `far`, started already: every byte, or
/// an error that has one of `words`.
fn moves(path: &str, mut far: Process, words: &[&str]) {
    let near = agent("near", path);
    let here = Memory::new(&near, path, 1);
    assert_eq!(far.answer(), "ready");
    let there = far.served(&near, "far", 2);
    for op in [Op::Read, Op::Write] {
        here.fill(1);
        assert_eq!(far.ask("fill 2"), "ok");
        let begun = Instant::now();
        let request = ONCE.request(op, &near, &here, "far", there);
        let result = request.and_then(|request| {
            request.post_with(within(LIMIT))?;
            request.wait(LIMIT)
        });
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        println!("{path} {op:?}: {result:?}");
        match (result, op) {
            (Ok(()), Op::Read) => here.check(&moved(op, 2)),
            (Ok(()), Op::Write) => far.check(&moved(op, 1)),
            (Err(e), _) => {
                let says = words.iter().any(|word| e.message().contains(word));
                assert!(says, "{e}");
                here.check(&image(1));
            }
        }
    }
    here.deregister(&near);
}

/// Only RDMA devices pin memory; there the limit is named.
fn little_may_be_pinned(path: &str) {
    // Whoever may go beyond the limit is held to it like everybody else.
    let drop = "ulimit -l 64; if command -v setpriv >/dev/null; then \
                exec setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock \"$@\"; fi; exec \"$@\"";
    let far = Process::launch(&["sh", "-c", drop, "sh"], &[], path, "far");
    let words: &[&str] = if path == "ucx" { &["ulimit -l"] } else { &[] };
    moves(path, far, words);
}

macro_rules! inside {
    ($($case:ident($first:expr): $($path:ident),+;)+) => {
        $(mod $case {
            $(#[test] fn $path() {
                let name = concat!("limits::", stringify!($case), "::", stringify!($path));
                if super::ucx::is_here(stringify!($path)) && super::inside(name, "-Urm", $first) {
                    super::$case(stringify!($path));
                }
            })+
        })+
    };
}
inside! {
    shm_is_full("mount -t tmpfs -o size=4k,mode=1777 tmpfs /dev/shm; \
                 export FAULTS_TLS=posix,sysv,cma,tcp"): shm, ucx_cma;
    shm_is_read_only("mount -t tmpfs -o ro tmpfs /dev/shm; \
                      export FAULTS_TLS=posix,cma,tcp"): shm, ucx_tcp;
}

/// Neither our shared memory nor UCX's depends on it.
fn shm_is_full(path: &str) {
    moves(path, Process::launch(&[], &[], path, "far"), &[]);
}

/// UCX's shared memory does, and whoever asks for it is told; its agent goes on with other backends.
fn shm_is_read_only(path: &str) {
    if path == "shm" {
        return moves(path, Process::launch(&[], &[], path, "far"), &[]);
    }
    let mut config = config(path);
    let built = config.agent("near").and_then(|builder| builder.build());
    let e = built.map(drop).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Exhausted, "{e}");
    for word in ["/dev/shm", "Read-only file system", "UCX says"] {
        assert!(e.message().contains(word), "{word:?} in {e}");
    }
    config.backends.clear();
    config.policy.only.clear();
    config.policy.prefer = vec![path.to_owned()];
    let near = config.agent("near").unwrap().build().unwrap();
    let (mut far, there) = Process::target(&near, "tcp", "far", 2);
    assert_eq!(libraries::works(&near, "tcp", &mut far, there), "tcp");
}
