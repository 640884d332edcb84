//! Heap that regions, requests and transfers take, measured and held to the targets.

mod common;

use std::sync::{Mutex, MutexGuard};

use common::{
    heap::{self, Heap},
    pair::{Job, LIMIT, Threads, agent},
    pattern::offsets,
};
use nixl::{Agent, MemKind, Op, PeerAccess, PreparedLocal, PreparedRemote, Region, Select};

#[global_allocator]
static HEAP: Heap = Heap;

/// The heap is the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// Bytes that `work` leaves allocated, for each of `count`.
fn kept_per<T>(count: usize, work: impl FnOnce() -> T) -> (f64, T) {
    let before = heap::live();
    let out = work();
    ((heap::live() - before) as f64 / count as f64, out)
}

fn hold(what: &str, found: f64, most: f64) {
    println!("{what}: {found:.2} bytes, target {most}");
    assert!(found <= most, "{what}: {found:.2} bytes, above {most}");
}

const REGIONS: usize = 10_000;
const LEN: u64 = 64;

/// Registers parts of one buffer that outlives the agent.
fn register(agent: &Agent, buffer: &[u8]) -> Vec<Region> {
    let base = buffer.as_ptr().expose_provenance() as u64;
    (0..REGIONS as u64)
        .map(|i| {
            let span = nixl::Span {
                addr: base + i * LEN,
                len: LEN,
                kind: MemKind::Dram,
                dev: 0,
            };
            // SAFETY: INV-1, the caller's buffer outlives the agent, and nobody writes to it.
            unsafe { agent.register_raw(span, PeerAccess::ReadOnly) }.unwrap()
        })
        .collect()
}

#[test]
fn a_registered_region_takes_256_bytes() {
    let _alone = alone();
    let buffer = vec![0u8; REGIONS * LEN as usize];
    let owner = agent("owner", "tcp", Threads::Own);
    let (here, regions) = kept_per(REGIONS, || register(&owner, &buffer));
    let handles = std::mem::size_of::<Region>() as f64;
    hold("a registered region", here - handles, 256.0);

    let peer = agent("peer", "tcp", Threads::Own);
    let blob = owner.metadata().unwrap();
    let (there, _) = kept_per(REGIONS, || peer.load_metadata(&blob).unwrap());
    hold("a peer's region", there, 256.0);
    drop((owner, regions));
}

/// Agents in one process: their heap is one.
struct Rig {
    _target: Agent,
    initiator: Agent,
    local: PreparedLocal,
    remote: PreparedRemote,
    memory: Region,
    _theirs: Region,
    job: Job,
}

const COUNT: usize = 65_536;
const BLOCK: u64 = 64;
const SEED: u64 = 5;

impl Rig {
    /// Connected and proven, with lists of [`COUNT`] blocks prepared.
    fn new(path: &str) -> Self {
        let job = Job {
            count: COUNT,
            block: BLOCK,
        };
        let target = agent("target", path, Threads::Own);
        let initiator = agent("initiator", path, Threads::Own);
        let theirs = job.target_memory(&target, SEED);
        let memory = job.initiator_memory(&initiator, 0);
        initiator
            .load_metadata(&target.metadata().unwrap())
            .unwrap();
        initiator.connect("target", LIMIT).unwrap();
        initiator.prove("target", Op::Read, LIMIT).unwrap();
        let local = initiator.prepare_local(&job.here(memory.addr())).unwrap();
        let remote = initiator
            .prepare_remote("target", &job.there(theirs.addr()))
            .unwrap();
        Self {
            _target: target,
            initiator,
            local,
            remote,
            memory,
            _theirs: theirs,
            job,
        }
    }

    fn request(&self, select: Select<'_>) -> nixl::Request {
        self.initiator
            .request(Op::Read, &self.local, select, &self.remote, select)
            .unwrap()
    }
}

#[test]
fn a_descriptor_in_flight_takes_32_bytes() {
    let _alone = alone();
    for path in ["local", "tcp"] {
        let rig = Rig::new(path);
        let request = rig.request(Select::All);
        let before = heap::watch_peak();
        request.post().unwrap();
        request.wait(LIMIT).unwrap();
        let taken = (heap::peak() - before) as f64 / COUNT as f64;
        rig.job.check(&rig.memory, SEED);
        hold(&format!("a descriptor in flight over {path}"), taken, 32.0);
    }
}

#[test]
fn a_descriptor_of_a_subset_takes_16_bytes() {
    let _alone = alone();
    // Every block once, in an order in which nothing merges.
    let order: Vec<u32> = offsets(COUNT, 1, 3)
        .iter()
        .map(|i| (i / 2) as u32)
        .collect();
    for path in ["local", "tcp"] {
        let rig = Rig::new(path);
        let (taken, request) = kept_per(COUNT, || rig.request(Select::Indices(&order)));
        assert_eq!(request.plan().merged(), COUNT as u64);
        hold(
            &format!("a descriptor of a subset over {path}"),
            taken,
            16.0,
        );
        request.post().unwrap();
        request.wait(LIMIT).unwrap();
        rig.job.check(&rig.memory, SEED);
    }
}
