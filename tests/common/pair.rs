//! One request between two agents over one path.

use std::time::Duration;

use nixl::{Agent, Config, DescList, Op, Region, Request};

use super::pattern::{image, offsets, span};

pub const LIMIT: Duration = Duration::from_secs(60);

/// Seeds of the two sides' block orders.
const HERE: u64 = 1;
const THERE: u64 = 2;

/// Who makes progress in an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// One copy thread and the progress thread.
    Own,
    /// Nobody but `Agent::progress`.
    Caller,
}

/// An agent that uses `path` and no other.
pub fn agent(name: &str, path: &str, threads: Threads) -> Agent {
    let mut config = Config::default();
    config.agent.copy_threads = match threads {
        Threads::Own => 1,
        Threads::Caller => 0,
    };
    config.tcp.bind = "127.0.0.1".to_owned();
    let backend = if path == "tcp" { "tcp" } else { "ipc" };
    config.backends = vec![backend.to_owned()];
    config.policy.only = vec![path.to_owned()];
    config.agent(name).unwrap().build().unwrap()
}

/// What a request moves.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub count: usize,
    pub block: u64,
}

impl Job {
    fn descriptors(self, base: u64, seed: u64) -> DescList {
        let blocks = offsets(self.count, self.block, seed);
        DescList::dram(blocks.into_iter().map(|at| (base + at, self.block)))
    }

    /// The target's memory, each block holding the bytes of its number under `seed`.
    pub fn target_memory(self, agent: &Agent, seed: u64) -> Region {
        self.memory(agent, THERE, seed)
    }

    /// The initiator's memory, as [`Job::target_memory`].
    pub fn initiator_memory(self, agent: &Agent, seed: u64) -> Region {
        self.memory(agent, HERE, seed)
    }

    fn memory(self, agent: &Agent, order: u64, seed: u64) -> Region {
        let region = agent.allocate(span(self.count, self.block)).unwrap();
        self.fill(&region, order, seed);
        region
    }

    fn fill(self, region: &Region, order: u64, seed: u64) {
        let blocks = offsets(self.count, self.block, order);
        region
            .write_at(0, &image(&blocks, self.block, seed))
            .unwrap();
    }

    /// The initiator's descriptors, its memory beginning at `base`.
    pub fn here(self, base: u64) -> DescList {
        self.descriptors(base, HERE)
    }

    /// The target's descriptors, its memory beginning at `base`.
    pub fn there(self, base: u64) -> DescList {
        self.descriptors(base, THERE)
    }

    /// Gives the initiator's blocks the bytes of their numbers under `seed`.
    pub fn refill(self, region: &Region, seed: u64) {
        self.fill(region, HERE, seed);
    }

    /// Panics at the first byte of the initiator's memory that is not what `seed` says.
    pub fn check(self, region: &Region, seed: u64) {
        let expected = image(&offsets(self.count, self.block, HERE), self.block, seed);
        let mut found = vec![0; expected.len()];
        region.read_at(0, &mut found).unwrap();
        if let Some(at) = (0..found.len()).find(|i| found[*i] != expected[*i]) {
            panic!("byte {at} is {:#x}, not {:#x}", found[at], expected[at]);
        }
    }

    pub fn request(self, op: Op, agent: &Agent, here: &Region, peer: &str, there: u64) -> Request {
        agent
            .create_request(op, &self.here(here.addr()), peer, &self.there(there))
            .unwrap()
    }
}
