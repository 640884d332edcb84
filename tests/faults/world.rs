//! Agents, memory and requests whose every byte is known.

use std::time::{Duration, Instant};

use crate::ucx;
use nixl::{
    Agent, Config, DescList, MemKind, Op, PeerAccess, PostOptions, Region, Request, Result, Span,
    Status,
};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Longest wait for what should happen soon; nothing should come near it.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// In which a request ends once its peer is gone.
pub(crate) const SOON: Duration = Duration::from_secs(5);

const BLOCK: u64 = 128 << 10;
/// Bytes of most memories here.
pub(crate) const SIZE: u64 = 4 << 20;

/// Set to the address of a process that is not on the loopback interface.
pub(crate) const BIND: &str = "FAULTS_BIND";

pub(crate) fn config(path: &str) -> Config {
    let mut config = Config::default();
    config.agent.copy_threads = 1;
    config.tcp.bind = std::env::var(BIND).unwrap_or("127.0.0.1".to_owned());
    let backend = match path {
        "tcp" => "tcp",
        "ucx_tcp" | "ucx_rndv_tcp" | "ucx_cma" | "ucx" | "ucx_or_tcp" => "ucx",
        _ => "ipc",
    };
    config.backends = vec![backend.to_owned()];
    config.policy.only = vec![path.to_owned()];
    if path == "ucx_or_tcp" {
        config.backends.push("tcp".to_owned());
        config.policy.only = vec!["ucx_tcp".to_owned(), "tcp".to_owned()];
    }
    ucx::configure(&mut config.ucx, path);
    config
}

/// An agent that uses `path` and no other.
pub(crate) fn agent(name: &str, path: &str) -> Agent {
    config(path).agent(name).unwrap().build().unwrap()
}

pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

// --- memory ---

/// Registered memory: the agent's own for `shm`, the caller's for the others.
pub(crate) struct Memory {
    region: Option<Region>,
    addr: usize,
    /// It is the caller's, and to be given back.
    mapped: bool,
}

impl Memory {
    pub(crate) fn new(agent: &Agent, path: &str, seed: u64) -> Self {
        Self::new_in(agent, path, seed).unwrap()
    }

    pub(crate) fn new_in(agent: &Agent, path: &str, seed: u64) -> Result<Self> {
        let memory = if path == "shm" {
            let region = agent.allocate(SIZE)?;
            Self {
                addr: region.addr() as usize,
                region: Some(region),
                mapped: false,
            }
        } else {
            Self::map(agent, std::ptr::null_mut(), MapFlags::empty())?
        };
        memory.fill(seed);
        Ok(memory)
    }

    fn map(agent: &Agent, at: *mut std::ffi::c_void, flags: MapFlags) -> Result<Self> {
        let (protection, flags) = (
            ProtFlags::READ | ProtFlags::WRITE,
            flags | MapFlags::PRIVATE,
        );
        // SAFETY: INV-5, a fresh mapping, at a place of the kernel's or one known to be free.
        let addr = unsafe { mmap_anonymous(at, SIZE as usize, protection, flags) }.unwrap();
        let span = Span {
            addr: addr as u64,
            len: SIZE,
            kind: MemKind::Dram,
            dev: 0,
        };
        // SAFETY: INV-1, unmapped only by `reuse`, once deregistering succeeded.
        let region = unsafe { agent.register_raw(span, PeerAccess::ReadWrite) }?;
        Ok(Self {
            region: Some(region),
            addr: addr as usize,
            mapped: true,
        })
    }

    pub(crate) fn region(&self) -> &Region {
        self.region.as_ref().expect("it goes in `reuse` only")
    }

    pub(crate) fn addr(&self) -> u64 {
        self.addr as u64
    }

    pub(crate) fn fill(&self, seed: u64) {
        self.region().write_at(0, &image(seed)).unwrap();
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; SIZE as usize];
        self.region().read_at(0, &mut bytes).unwrap();
        bytes
    }

    /// The memory is as [`Memory::fill`] left it, or as a whole [`Job`] left it.
    pub(crate) fn check(&self, expected: &[u8]) {
        same(&self.bytes(), expected);
    }

    /// Nothing of an operation that ended writes here any more.
    pub(crate) fn check_quiet(&self) {
        let canary = image(0xca7a);
        self.region().write_at(0, &canary).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(60) {
            std::thread::sleep(Duration::from_millis(10));
            self.check(&canary);
        }
    }

    pub(crate) fn deregister(&self, agent: &Agent) {
        agent.deregister(self.region(), SOON).unwrap();
    }

    /// After deregistering: gives the memory back and has `agent` register what takes its place.
    /// Memory that the agent allocated stays until its last handle goes, and is kept.
    pub(crate) fn reuse(mut self, agent: &Agent) -> Self {
        if !self.mapped {
            return self;
        }
        self.region = None;
        let at = self.addr as *mut std::ffi::c_void;
        // SAFETY: INV-1, deregistered, the last handle dropped, mapped by `map`.
        unsafe { munmap(at, SIZE as usize) }.unwrap();
        Self::map(agent, at, MapFlags::FIXED_NOREPLACE).unwrap()
    }
}

/// SplitMix64 by word: bytes that say where they belong.
pub(crate) fn image(seed: u64) -> Vec<u8> {
    noise(seed, SIZE)
}

pub(crate) fn noise(seed: u64, len: u64) -> Vec<u8> {
    let word = |i: u64| {
        let z = (seed << 32 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)).to_le_bytes()
    };
    (0..len / 8).flat_map(word).collect()
}

pub(crate) fn same(found: &[u8], expected: &[u8]) {
    if found != expected {
        let at = found.iter().zip(expected).position(|(f, e)| f != e);
        let at = at.unwrap_or(expected.len());
        panic!("byte {at} is {:#x}, not {:#x}", found[at], expected[at]);
    }
}

// --- requests ---

/// A transfer of the whole of two memories, each block to another place, over and over.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    pub(crate) rounds: u64,
}

/// Moves everything once.
pub(crate) const ONCE: Job = Job { rounds: 1 };
/// Moves 8 GiB: far from done when a signal comes.
pub(crate) const LONG: Job = Job { rounds: 2048 };

impl Job {
    const COUNT: u64 = SIZE / BLOCK;

    /// For each block: where it lies here and there. Nothing merges.
    fn places(self) -> impl Iterator<Item = (u64, u64)> {
        let place = |i: u64| (i * 7 % Self::COUNT, (i * 11 + 3) % Self::COUNT);
        (0..self.rounds * Self::COUNT).map(move |i| place(i % Self::COUNT))
    }

    pub(crate) fn request(
        self,
        op: Op,
        agent: &Agent,
        here: &Memory,
        peer: &str,
        there: u64,
    ) -> Result<Request> {
        let here = here.addr();
        let local = DescList::dram(self.places().map(|(l, _)| (here + l * BLOCK, BLOCK)));
        let remote = DescList::dram(self.places().map(|(_, r)| (there + r * BLOCK, BLOCK)));
        agent.create_request(op, &local, peer, &remote)
    }
}

/// What memory holds after a whole [`Job`] from memory filled by `seed`: at the initiator after a
/// READ, at the target after a WRITE.
pub(crate) fn moved(op: Op, seed: u64) -> Vec<u8> {
    let source = image(seed);
    let mut sink = vec![0; SIZE as usize];
    for (here, there) in ONCE.places() {
        let (from, to) = match op {
            Op::Read => (there, here),
            Op::Write => (here, there),
        };
        let range = |block: u64| (block * BLOCK) as usize..((block + 1) * BLOCK) as usize;
        sink[range(to)].copy_from_slice(&source[range(from)]);
    }
    sink
}

/// Every byte is what it was before, or what the transfer brings.
pub(crate) fn check_partial(found: &[u8], before: &[u8], after: &[u8]) {
    let wrong = (0..found.len()).find(|i| found[*i] != before[*i] && found[*i] != after[*i]);
    assert_eq!(wrong, None, "that byte is neither old nor new");
}

pub(crate) fn within(deadline: Duration) -> PostOptions {
    PostOptions {
        deadline: Some(deadline),
        notification: None,
    }
}

/// A request that has moved some of its bytes, and is far from done.
pub(crate) fn amid(request: Request) -> Request {
    request.post_with(within(LIMIT)).unwrap();
    until("bytes to move", || request.moved() > 0);
    assert!(is_active(&request), "{:?}", request.status());
    request
}

pub(crate) fn is_active(request: &Request) -> bool {
    matches!(request.status(), Status::Active | Status::Stalled)
}
