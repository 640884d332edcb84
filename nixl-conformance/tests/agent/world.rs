//! Two agents in one process, each with one or two simulated backends.

use std::time::Duration;

use nixl_conformance::sim::{SimBackend, SimConfig, SimControl};
use nixl_core::{Agent, AgentConfig, Cost, DescList, Op, Progress, Region, Request, Result};

/// Patience of every wait: nothing here takes long unless it hangs.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Bytes in each agent's region.
pub(crate) const LEN: u64 = 1 << 20;
/// Bytes in a block.
pub(crate) const BLOCK: u64 = 4096;

/// One agent, its region, and the handles of its backends.
pub(crate) struct Party {
    pub(crate) agent: Agent,
    pub(crate) region: Region,
    pub(crate) sims: Vec<SimControl>,
}

impl Party {
    pub(crate) fn new(name: &str, configs: &[SimConfig], agent: AgentConfig) -> Self {
        let mut builder = Agent::builder(name).config(agent);
        let mut sims = Vec::new();
        for config in configs {
            let sim = SimBackend::new(config.clone());
            sims.push(sim.control());
            builder = builder.backend(sim);
        }
        let agent = builder.build().unwrap();
        let region = agent.allocate(LEN).unwrap();
        Self {
            agent,
            region,
            sims,
        }
    }

    /// Descriptors of this agent's blocks.
    pub(crate) fn blocks(&self, order: &[u64]) -> DescList {
        DescList::dram(
            order
                .iter()
                .map(|i| (self.region.addr() + i * BLOCK, BLOCK)),
        )
    }

    /// Fills every block with bytes that name it.
    pub(crate) fn fill(&self, seed: u8) {
        for i in 0..LEN / BLOCK {
            self.region.write_at(i * BLOCK, &pattern(seed, i)).unwrap();
        }
    }

    pub(crate) fn block(&self, i: u64) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK as usize];
        self.region.read_at(i * BLOCK, &mut bytes).unwrap();
        bytes
    }
}

/// The bytes of block `i` under `seed`.
pub(crate) fn pattern(seed: u8, i: u64) -> Vec<u8> {
    (0..BLOCK)
        .map(|at| seed ^ (i as u8).wrapping_mul(31) ^ (at as u8).wrapping_add((at >> 8) as u8))
        .collect()
}

/// A simulated backend of its own name, best first by `rank`.
pub(crate) fn sim(name: &'static str, rank: u64) -> SimConfig {
    SimConfig {
        name,
        cost: Cost {
            latency_ns: 1000 * (rank + 1),
            per_desc_ns: 10,
            bytes_per_sec: 1 << 30,
        },
        ..SimConfig::default()
    }
}

/// Settings with short pauses.
pub(crate) fn quick() -> AgentConfig {
    AgentConfig {
        progress: Progress::Threads { copy_threads: 2 },
        deadline: Duration::from_secs(10),
        connect_timeout: Duration::from_millis(500),
        probe_timeout: Duration::from_millis(500),
        stall_after: Duration::from_millis(100),
        ..AgentConfig::default()
    }
}

/// Agents `a` and `b`; `a` has loaded `b`.
pub(crate) fn pair(configs: &[SimConfig]) -> (Party, Party) {
    let a = Party::new("a", configs, quick());
    let b = Party::new("b", configs, quick());
    a.agent.load_metadata(&b.agent.metadata().unwrap()).unwrap();
    a.fill(1);
    b.fill(2);
    (a, b)
}

/// A request of `a`'s blocks 0.. with `b`'s blocks `order`.
pub(crate) fn request(op: Op, a: &Party, b: &Party, order: &[u64]) -> Result<Request> {
    let own: Vec<u64> = (0..order.len() as u64).map(|i| i * 2).collect();
    a.agent
        .create_request(op, &a.blocks(&own), b.agent.name(), &b.blocks(order))
}

/// Whether the blocks of [`request`] hold what a completed transfer leaves, and all others what
/// they held before.
pub(crate) fn check(op: Op, a: &Party, b: &Party, order: &[u64]) {
    for i in 0..LEN / BLOCK {
        let moved_here = (i % 2 == 0).then(|| order.get(i as usize / 2)).flatten();
        let want_here = match (op, moved_here) {
            (Op::Read, Some(from)) => pattern(2, *from),
            _ => pattern(1, i),
        };
        assert!(a.block(i) == want_here, "block {i} of a");
        let moved_there = order.iter().position(|o| *o == i);
        let want_there = match (op, moved_there) {
            (Op::Write, Some(at)) => pattern(1, at as u64 * 2),
            _ => pattern(2, i),
        };
        assert!(b.block(i) == want_there, "block {i} of b");
    }
}

/// A request that has been posted and has completed once: connected, proven, warm.
pub(crate) fn completed(op: Op, a: &Party, b: &Party, order: &[u64]) -> Request {
    let request = request(op, a, b, order).unwrap();
    request.post().unwrap();
    request.wait(LONG).unwrap();
    request
}
