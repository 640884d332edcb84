//! Our agent and a NIXL agent that know each other, each with one region.

use std::{path::Path, sync::Arc, time::Duration};

use nixl::{Agent, DescList, ForeignMetadata, Op, PeerAccess, PostOptions, Region, Request};
use nixl_ucx::{Options, UcxBackend, config::UcxConfig};

use crate::nixl::{Holds, Nixl, libucp, python};

/// Longest wait for anything; nothing should come near it.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
pub(crate) const BLOCK: u64 = 3000;
pub(crate) const BLOCKS: u64 = 64;
/// Seeds of what stands in the two regions at first.
pub(crate) const OURS: u64 = 1;
pub(crate) const THEIRS: u64 = 2;

/// Both agents.
pub(crate) struct Pair {
    pub(crate) agent: Arc<Agent>,
    pub(crate) region: Region,
    pub(crate) nixl: Nixl,
    /// Address of NIXL's region `r`.
    pub(crate) base: u64,
}

/// Starts both, with the libucp that the NIXL wheel bundles, over `tls` if that is said.
/// `None` where the wheel is not installed.
pub(crate) fn strangers(tls: Option<&str>) -> Option<Pair> {
    on("nixl", tls)
}

/// [`strangers`] with the libucp of that name.
pub(crate) fn on(library: &str, tls: Option<&str>) -> Option<Pair> {
    let (python, library) = (python()?, libucp(library)?);
    let nixl = Nixl::start(&python, "nixl", tls);
    Some(Pair::new(agent("ours", &library, tls), nixl))
}

/// [`strangers`] that have loaded each other.
pub(crate) fn pair(tls: Option<&str>) -> Option<Pair> {
    let mut pair = strangers(tls)?;
    pair.introduce();
    Some(pair)
}

/// An agent with the UCX backend on `library` and no other.
pub(crate) fn agent(name: &str, library: &Path, tls: Option<&str>) -> Agent {
    let mut config = UcxConfig::default();
    config.lib = Some(library.to_owned());
    if let Some(tls) = tls {
        config.set("TLS", tls).unwrap();
    }
    let backend = UcxBackend::open(&config, Options::default());
    Agent::builder(name)
        .backend(backend.unwrap())
        .foreign_metadata(ForeignMetadata::Accept)
        .build()
        .unwrap()
}

impl Pair {
    pub(crate) fn new(agent: Agent, mut nixl: Nixl) -> Self {
        let region = agent.allocate(BLOCKS * BLOCK).unwrap();
        let base = nixl.alloc("r", BLOCKS, BLOCK);
        let mut pair = Self {
            agent: Arc::new(agent),
            region,
            nixl,
            base,
        };
        pair.fill();
        pair
    }

    /// Has each load the other's metadata.
    pub(crate) fn introduce(&mut self) {
        let (ours, theirs) = (self.agent.metadata().unwrap(), self.nixl.metadata());
        assert_eq!(self.agent.load_metadata(&theirs).unwrap(), "nixl");
        assert_eq!(self.nixl.load(&ours).unwrap(), "ours");
    }

    /// Fills both regions with bytes that name each block.
    pub(crate) fn fill(&mut self) {
        fill(&self.region, OURS);
        self.nixl.fill("r", THEIRS);
    }

    pub(crate) fn here(&self, blocks: &[u64]) -> DescList {
        list(self.region.addr(), blocks)
    }

    pub(crate) fn request(&self, op: Op, ours: &[u64], theirs: &[u64]) -> nixl::Result<Request> {
        let there = list(self.base, theirs);
        let here = self.here(ours);
        self.agent.create_request(op, &here, "nixl", &there)
    }

    /// Runs a request of ours to its end.
    pub(crate) fn run(&self, op: Op, ours: &[u64], theirs: &[u64], message: &[u8]) -> Request {
        let request = self.request(op, ours, theirs).unwrap();
        let notification = (!message.is_empty()).then(|| message.to_vec().into());
        let options = PostOptions {
            notification,
            ..PostOptions::default()
        };
        request.post_with(options).unwrap();
        request.wait(LIMIT).unwrap();
        request
    }

    /// Every byte on both sides, after each wrote its blocks `from` into the other's blocks `to`.
    pub(crate) fn check_crossed(&mut self, from: &[u64], to: &[u64]) {
        let (mut here, mut there) = (filled(OURS), filled(THEIRS));
        for (from, to) in from.iter().zip(to) {
            here[*to as usize] = block(THEIRS, *from);
            there[*to as usize] = block(OURS, *from);
        }
        check(&self.region, &here);
        self.nixl.check("r", &there);
    }

    /// Every byte on both sides, after a transfer between blocks `ours` and `theirs`: `op` as seen
    /// by whoever initiated it, us or NIXL.
    pub(crate) fn check(&mut self, into_ours: bool, ours: &[u64], theirs: &[u64]) {
        let (mut here, mut there) = (filled(OURS), filled(THEIRS));
        for (mine, its) in ours.iter().zip(theirs) {
            if into_ours {
                here[*mine as usize] = block(THEIRS, *its);
            } else {
                there[*its as usize] = block(OURS, *mine);
            }
        }
        check(&self.region, &here);
        self.nixl.check("r", &there);
    }
}

fn block(seed: u64, block: u64) -> Holds {
    Holds::Block { seed, block }
}

/// What a region that was filled holds.
pub(crate) fn filled(seed: u64) -> Vec<Holds> {
    (0..BLOCKS).map(|n| block(seed, n)).collect()
}

pub(crate) fn list(base: u64, blocks: &[u64]) -> DescList {
    DescList::dram(blocks.iter().map(|n| (base + n * BLOCK, BLOCK)))
}

/// Another region of ours, filled under `seed`.
pub(crate) fn region(agent: &Agent, seed: u64, access: PeerAccess) -> Region {
    let pages = nixl::HugePages::No;
    let region = agent.allocate_with(BLOCKS * BLOCK, pages, access).unwrap();
    fill(&region, seed);
    region
}

pub(crate) fn fill(region: &Region, seed: u64) {
    for n in 0..region.len() / BLOCK {
        region
            .write_at(n * BLOCK, &pattern(block(seed, n)))
            .unwrap();
    }
}

pub(crate) fn check(region: &Region, expected: &[Holds]) {
    let mut bytes = vec![0; BLOCK as usize];
    for (n, holds) in expected.iter().enumerate() {
        region.read_at(n as u64 * BLOCK, &mut bytes).unwrap();
        assert!(
            bytes == pattern(*holds),
            "our block {n} does not hold {holds:?}"
        );
    }
}

/// What `peer.py` calls the same.
fn pattern(holds: Holds) -> Vec<u8> {
    let byte = |at: u64| match holds {
        Holds::Blank => 0xa5,
        Holds::Block { seed, block } => {
            let n = (seed << 40) ^ (block << 20) ^ at;
            (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
        }
    };
    (0..BLOCK).map(byte).collect()
}

/// `count` different blocks in an order without neighbours, another for each `salt`.
pub(crate) fn scattered(count: u64, salt: u64) -> Vec<u64> {
    let all = count.next_power_of_two().max(BLOCKS);
    // Odd multiples run through all of a power of two.
    (0..count).map(|i| (i * 27 + salt * 5) % all).collect()
}
