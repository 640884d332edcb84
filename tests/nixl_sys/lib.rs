//! An agent, its backend and its memory, as a user of `nixl-sys` sets them up.

use std::time::{Duration, Instant};

use nixl_sys::{
    Agent, AgentConfig, MemType, MemoryRegion, NixlRegistration, OptArgs, SystemStorage,
    XferDescList, XferOp, XferRequest,
};

/// Bytes in a block.
pub const BLOCK: usize = 4096;
/// Blocks in an agent's memory.
pub const BLOCKS: usize = 64;
/// Patience of every wait.
const LONG: Duration = Duration::from_secs(20);

/// An agent with memory of [`BLOCKS`] blocks.
pub struct Party {
    pub agent: Agent,
    pub args: OptArgs,
    pub memory: SystemStorage,
}

impl Party {
    /// One whose blocks hold the pattern of `seed`.
    pub fn new(name: &str, seed: u8) -> Self {
        Self::configured(name, seed, AgentConfig::default())
    }

    pub fn configured(name: &str, seed: u8, config: AgentConfig) -> Self {
        let agent = Agent::new_configured(name, &config).unwrap();
        let (_, params) = agent.get_plugin_params("UCX").unwrap();
        let backend = agent.create_backend("UCX", &params).unwrap();
        let mut args = OptArgs::new().unwrap();
        args.add_backend(&backend).unwrap();
        let mut memory = SystemStorage::new(BLOCK * BLOCKS).unwrap();
        memory.register(&agent, Some(&args)).unwrap();
        let mut party = Self {
            agent,
            args,
            memory,
        };
        party.fill(seed);
        party
    }

    pub fn fill(&mut self, seed: u8) {
        for block in 0..BLOCKS {
            self.put(block, &pattern(seed, block));
        }
    }

    fn put(&mut self, block: usize, bytes: &[u8]) {
        // SAFETY: INV-2, inside of the storage, which is ours and which nobody writes to now.
        let place = unsafe {
            let base = self.memory.as_ptr().cast_mut();
            std::slice::from_raw_parts_mut(base.add(block * BLOCK), bytes.len())
        };
        place.copy_from_slice(bytes);
    }

    pub fn block(&self, block: usize) -> &[u8] {
        &self.memory.as_slice()[block * BLOCK..][..BLOCK]
    }

    /// A list of these blocks.
    pub fn list(&self, blocks: &[usize]) -> XferDescList<'_> {
        let mut list = XferDescList::new(MemType::Dram).unwrap();
        // SAFETY: INV-2, an address that is only passed on.
        let base = unsafe { self.memory.as_ptr() } as usize;
        for block in blocks {
            list.add_desc(base + block * BLOCK, BLOCK, 0);
        }
        list
    }

    /// Posts and waits.
    pub fn run(&self, request: &XferRequest) {
        self.agent.post_xfer_req(request, None).unwrap();
        until("the transfer is over", || {
            self.agent.get_xfer_status(request).unwrap().is_success()
        });
    }

    /// Loads what `other` says of itself.
    pub fn load(&self, other: &Self) {
        let blob = other.agent.get_local_md().unwrap();
        let name = self.agent.load_remote_md(&blob).unwrap();
        assert_eq!(name, other.agent.name());
    }
}

/// Bytes that name their block.
pub fn pattern(seed: u8, block: usize) -> Vec<u8> {
    (0..BLOCK)
        .map(|at| seed ^ (block as u8).wrapping_mul(31) ^ (at as u8).wrapping_add((at >> 8) as u8))
        .collect()
}

/// Waits for something that comes by itself.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {LONG:?}");
        std::thread::yield_now();
    }
}

/// Every block of both agents after `a`'s blocks `ours` were moved from or to `b`'s `theirs`, which
/// held the patterns of 1 and 2.
pub fn check(op: XferOp, a: &Party, b: &Party, ours: &[usize], theirs: &[usize]) {
    for block in 0..BLOCKS {
        let place = |list: &[usize]| list.iter().position(|b| *b == block);
        let want_a = match (op, place(ours)) {
            (XferOp::Read, Some(i)) => pattern(2, theirs[i]),
            _ => pattern(1, block),
        };
        let want_b = match (op, place(theirs)) {
            (XferOp::Write, Some(i)) => pattern(1, ours[i]),
            _ => pattern(2, block),
        };
        assert!(a.block(block) == want_a, "block {block} of a");
        assert!(b.block(block) == want_b, "block {block} of b");
    }
}
