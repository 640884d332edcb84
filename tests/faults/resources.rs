//! Limits of the machine, and metadata that is no metadata.

use nixl::{Agent, DescList, ErrorKind, MemKind, Op, Run};

use crate::{
    over,
    process::Process,
    world::{LIMIT, Memory, ONCE, SIZE, SOON, agent, config, image, moved, noise, within},
};

over!(tcp, shm, cma, ucx_tcp, ucx_cma: few_descriptors_here);
// Not over UCX: its listener does not survive a lack of descriptors (docs/ucx.md, What UCX breaks).
over!(tcp, shm, cma: few_descriptors_at_the_target);
over!(tcp: bad_metadata);

/// Whatever an agent lacks descriptors for is an error; nothing panics or hangs.
fn few_descriptors_here(path: &str) {
    let near = agent("near", path);
    let memory = Memory::new(&near, path, 1);
    let mut far = Process::start(path, "far");
    let blob = crate::process::hex(&near.metadata().unwrap());
    let answer = far.ask(&format!("squeeze {blob} {}", memory.addr()));
    let worked = answer
        .strip_prefix("worked ")
        .unwrap_or_else(|| panic!("{answer}"));
    assert_ne!(worked, "0", "not even 40 descriptors suffice");
    assert_ne!(worked, "16", "no descriptor at all suffices");
    memory.check(&image(1));
    memory.deregister(&near);
}

/// A target that cannot take us in: an error in bounded time, until it can.
fn few_descriptors_at_the_target(path: &str) {
    let mut config = config(path);
    config.agent.connect_timeout_ms = 300;
    config.agent.probe_timeout_ms = 300;
    let near = config.agent("near").unwrap().build().unwrap();
    let here = Memory::new(&near, path, 1);
    let (mut far, there) = Process::target(&near, path, "far", 2);
    assert_eq!(far.ask("files 0"), "ok");
    let request = ONCE.request(Op::Read, &near, &here, "far", there).unwrap();
    request.post_with(within(SOON)).unwrap();
    let e = request.wait(LIMIT).unwrap_err();
    assert!(
        matches!(
            e.kind(),
            ErrorKind::PeerGone | ErrorKind::Timeout | ErrorKind::Exhausted
        ),
        "{e}"
    );
    here.check(&image(1));
    assert_eq!(far.ask("release"), "ok");
    request.post_with(within(LIMIT)).unwrap();
    request.wait(LIMIT).unwrap();
    here.check(&moved(Op::Read, 2));
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut config = config("tcp");
    config.tcp.port = port;
    let e = config.agent("near").unwrap().build().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Backend, "{e}");
    assert!(e.message().contains(&port.to_string()), "{e}");
    drop(taken);
    config.agent("near").unwrap().build().unwrap();
}

fn list(run: Run) -> DescList {
    let mut list = DescList::new(MemKind::Dram);
    list.push_run(run);
    list
}

/// Lists that no memory could hold are refused, not tried.
#[test]
fn huge_lists_are_refused() {
    let near = agent("near", "tcp");
    let here = Memory::new(&near, "tcp", 1);
    let run = |len, stride, count| {
        list(Run {
            addr: here.addr(),
            len,
            dev: 0,
            stride,
            count,
        })
    };
    for (len, count) in [(1, 1 << 32), (1, u64::MAX), (SIZE, 1 << 40)] {
        let e = near.prepare_local(&run(len, 0, count)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Exhausted, "{count} of {len}: {e}");
    }
    let e = near.prepare_local(&run(1, 1, 1 << 33)).unwrap_err();
    assert_ne!(e.kind(), ErrorKind::Backend, "{e}");
    here.check(&image(1));
    here.deregister(&near);
}

/// The same registered bytes billions of times: what does not fit memory is an error.
#[test]
fn requests_that_do_not_fit_memory_are_refused() {
    let mut far = Process::start("tcp", "far");
    far.memory(1);
    assert_eq!(far.ask("huge"), "Exhausted Exhausted");
    far.check(&image(1));
}

/// Cut, damaged or made up: `Malformed`, and what was loaded is as before.
fn bad_metadata(path: &str) {
    let near = agent("near", path);
    let far = agent("far", path);
    let other = agent("other", path);
    let blob = far.metadata().unwrap();
    near.load_metadata(&blob).unwrap();
    let memory = Memory::new(&far, path, 2);
    let here = Memory::new(&near, path, 1);
    let (newer, stranger) = (far.metadata().unwrap(), other.metadata().unwrap());
    for whole in [&newer[..], &stranger[..]] {
        for len in (0..whole.len()).step_by(5) {
            refused(&near, &whole[..len]);
        }
        // The codec's own tests damage every bit.
        for bit in (0..whole.len() * 8).step_by(13) {
            let mut damaged = whole.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            refused(&near, &damaged);
        }
    }
    for seed in 0..200 {
        refused(&near, &noise(seed, seed * 16));
    }
    let own = near.load_metadata(&near.metadata().unwrap()).unwrap_err();
    assert_eq!(own.kind(), ErrorKind::ApiMisuse, "{own}");
    assert_eq!(near.peers(), ["far"]);
    // The newer blob was not taken in part.
    let e = ONCE.request(Op::Read, &near, &here, "far", memory.addr());
    assert_eq!(e.unwrap_err().kind(), ErrorKind::NotRegistered);

    near.load_metadata(&newer).unwrap();
    // An older one, replayed, takes nothing away.
    near.load_metadata(&blob).unwrap();
    let request = ONCE
        .request(Op::Read, &near, &here, "far", memory.addr())
        .unwrap();
    request.post_with(within(LIMIT)).unwrap();
    request.wait(LIMIT).unwrap();
    here.check(&moved(Op::Read, 2));
}

fn refused(near: &Agent, blob: &[u8]) {
    let e = near.load_metadata(blob).unwrap_err();
    assert!(
        matches!(e.kind(), ErrorKind::Malformed | ErrorKind::Unsupported),
        "{e}"
    );
}
