//! A target deregisters and frees memory while another process writes to it.

use std::time::{Duration, Instant};

use nixl::{Agent, ErrorKind, Op};

use crate::{
    over,
    process::Process,
    world::{LONG, Memory, SOON, agent, check_partial, image, moved},
};

over!(tcp, shm, cma, ucx_tcp, ucx_rndv_tcp, ucx_cma: amid_writes, amid_reads, below_a_stopped_writer, below_a_writer_killed_while_stopped);

/// How long the writer's attempts are watched.
const WATCH: Duration = Duration::from_millis(200);

struct Scene {
    near: Agent,
    memory: Memory,
    writer: Process,
}

impl Scene {
    /// The other process transfers to or from our memory, over and over.
    fn new(path: &str, op: &str, rounds: u64) -> Self {
        let near = agent("near", path);
        let memory = Memory::new(&near, path, 1);
        let mut writer = Process::initiator(&near, path, "writer", 2);
        let posted = format!("loop {op} {rounds} near {}", memory.addr());
        assert_eq!(writer.ask(&posted), "ok");
        Self {
            near,
            memory,
            writer,
        }
    }

    /// Deregistered: what takes the memory's place is never written to.
    fn check_reuse(self) -> (Agent, Memory, Process) {
        let memory = self.memory.reuse(&self.near);
        let canary = image(9);
        memory.fill(9);
        let begun = Instant::now();
        while begun.elapsed() < WATCH {
            std::thread::sleep(Duration::from_millis(10));
            memory.check(&canary);
        }
        (self.near, memory, self.writer)
    }
}

/// Withdrawn amid `op`: quiet at once, the same address serves again under a new key.
fn amid(path: &str, op: &str) {
    let scene = Scene::new(path, op, 64);
    scene.near.deregister(scene.memory.region(), SOON).unwrap();
    if op == "write" {
        check_partial(&scene.memory.bytes(), &image(1), &moved(Op::Write, 2));
    } else {
        scene.memory.check(&image(1));
    }
    let e = scene.near.deregister(scene.memory.region(), SOON);
    assert_eq!(e.unwrap_err().kind(), ErrorKind::NotRegistered);
    let (near, memory, mut writer) = scene.check_reuse();
    assert_eq!(writer.ask("end"), "NotRegistered 0");
    if path == "shm" {
        return;
    }
    writer.load(&near);
    assert_eq!(writer.ask("fill 12"), "ok");
    let run = format!("run write near {}", memory.addr());
    assert_eq!(writer.ask(&run), "ok");
    memory.check(&moved(Op::Write, 12));
}

fn amid_writes(path: &str) {
    amid(path, "write");
}

fn amid_reads(path: &str) {
    amid(path, "read");
}

/// A stopped writer has the memory mapped still; over TCP its key is revoked and that is enough.
fn stopped(path: &str) -> Scene {
    let scene = Scene::new(path, "write", LONG.rounds);
    scene.writer.stop();
    let patience = Duration::from_millis(300);
    let begun = Instant::now();
    let result = scene.near.deregister(scene.memory.region(), patience);
    let took = begun.elapsed();
    assert!(took < SOON, "{took:?}");
    if path == "tcp" {
        result.unwrap();
    } else {
        let e = result.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::StillMapped, "{e}");
        assert!(took >= patience, "{took:?}");
        assert_eq!(e.peer(), Some("writer"), "{e}");
        check_partial(&scene.memory.bytes(), &image(1), &moved(Op::Write, 2));
    }
    scene
}

fn below_a_stopped_writer(path: &str) {
    let scene = stopped(path);
    scene.writer.resume();
    if path != "tcp" {
        scene.near.deregister(scene.memory.region(), SOON).unwrap();
    }
    let (_near, _memory, mut writer) = scene.check_reuse();
    assert_eq!(writer.ask("end"), "NotRegistered 0");
}

fn below_a_writer_killed_while_stopped(path: &str) {
    let mut scene = stopped(path);
    scene.writer.kill();
    if path != "tcp" {
        scene.near.deregister(scene.memory.region(), SOON).unwrap();
    }
    let (near, memory, _) = scene.check_reuse();
    if path == "shm" {
        return;
    }
    let mut next = Process::initiator(&near, path, "writer", 12);
    let run = format!("run write near {}", memory.addr());
    assert_eq!(next.ask(&run), "ok");
    memory.check(&moved(Op::Write, 12));
}
