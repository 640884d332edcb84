//! A backend inside one process that moves bytes between agents and does wrong on request.
//!
//! The smallest complete backend: read it beside `docs/backend-guide.md`. Agents find each other
//! in a registry by generation, prove their secrets with core's handshake, and the initiator's
//! copy threads move the bytes. A [`FaultPlan`] says what goes wrong, a [`SimControl`] steers it
//! from a test. It owns no thread: under `Progress::Caller` a test decides when anything happens.

mod engine;
mod fault;
mod link;
mod transfer;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Weak},
};

use bytes::Bytes;
use nixl_core::{
    BackendName, Cost, ErrorKind, Generation, MemKind, Op, PathCaps, PathClass, PathName, Reach,
    Region, RegionKey, Result, Revocation,
    backend::{Backend, ConnectDone, Context, NixlFace, PeerAddress},
    error::fail,
    mem::Registration,
};
use parking_lot::Mutex;

use engine::Engine;
pub use fault::{Failing, FaultPlan, SimControl, SimCounts};

/// Both directions between host memory: what the simulated path can do by default.
pub const READ_AND_WRITE: &[(Op, MemKind, MemKind)] = &[
    (Op::Read, MemKind::Dram, MemKind::Dram),
    (Op::Write, MemKind::Dram, MemKind::Dram),
];
/// A path without WRITE.
pub const READ_ONLY: &[(Op, MemKind, MemKind)] = &[(Op::Read, MemKind::Dram, MemKind::Dram)];
/// A path without READ.
pub const WRITE_ONLY: &[(Op, MemKind, MemKind)] = &[(Op::Write, MemKind::Dram, MemKind::Dram)];

/// What a simulated backend claims to be.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Name of backend and path. Two of different names serve to test failover.
    pub name: &'static str,
    /// Operations it can do.
    pub mem: &'static [(Op, MemKind, MemKind)],
    /// Class that policies see.
    pub class: PathClass,
    /// How it lets go of withdrawn memory. `Cooperative`: it pins a remote region at first use
    /// and until `forget`; `Fenced`: for the time of each chunk.
    pub revocation: Revocation,
    /// Cost that it advertises.
    pub cost: Cost,
    /// Works only where the remote region is shareable.
    pub needs_shareable: bool,
    /// What `fenced` says after a failed WRITE.
    pub fences: bool,
    /// NIXL's name for it, if NIXL's agents are to have it too.
    pub nixl: Option<&'static str>,
    /// Seed of every random choice.
    pub seed: u64,
    /// What goes wrong from the start.
    pub faults: FaultPlan,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            name: "sim",
            mem: READ_AND_WRITE,
            class: PathClass::Tcp,
            revocation: Revocation::Fenced,
            cost: Cost {
                latency_ns: 1_000_000,
                per_desc_ns: 1_000,
                bytes_per_sec: 100_000_000,
            },
            needs_shareable: false,
            fences: true,
            nixl: None,
            seed: 1,
            faults: FaultPlan::default(),
        }
    }
}

/// The simulated backend of one agent.
pub struct SimBackend {
    paths: [PathCaps; 1],
    engine: Arc<Engine>,
}

impl SimBackend {
    /// One that claims what `config` says.
    pub fn new(config: SimConfig) -> Self {
        let paths = [PathCaps {
            path: config.name,
            backend: config.name,
            class: config.class,
            wire: 1..=1,
            reach: Reach::Process,
            mem: config.mem,
            needs_shareable: config.needs_shareable,
            target_must_progress: false,
            revocation: config.revocation,
            hazard: None,
            cost: config.cost,
        }];
        Self {
            paths,
            engine: Engine::new(config),
        }
    }

    /// The handle that steers it.
    pub fn control(&self) -> SimControl {
        SimControl(self.engine.clone())
    }
}

impl Default for SimBackend {
    fn default() -> Self {
        Self::new(SimConfig::default())
    }
}

impl Backend for SimBackend {
    fn name(&self) -> BackendName {
        self.paths[0].backend
    }

    fn paths(&self) -> &[PathCaps] {
        &self.paths
    }

    fn start(&self, ctx: Context) -> Result<Bytes> {
        let key = (self.name(), ctx.identity.generation);
        self.engine.start(ctx)?;
        REGISTRY.lock().insert(key, Arc::downgrade(&self.engine));
        Ok(ADDRESS)
    }

    fn nixl(&self) -> Option<NixlFace> {
        let ctx = self.engine.context().ok()?;
        Some(NixlFace {
            name: self.engine.config.nixl?,
            conn: Some(conn_info(ctx.identity.generation)),
            paths: vec![self.paths[0].path],
        })
    }

    fn register(&self, region: &Region) -> Result<Option<Box<dyn Registration>>> {
        let foreign = self.engine.config.nixl;
        Ok(foreign.map(|_| Box::new(Key(region.key())) as Box<dyn Registration>))
    }

    fn connect(&self, peer: Arc<PeerAddress>, done: ConnectDone) {
        self.engine.connect(peer, done);
    }

    fn shutdown(&self) {
        self.engine.die(false);
    }
}

impl Drop for SimBackend {
    fn drop(&mut self) {
        self.engine.die(false);
    }
}

/// What stands in NIXL's container for a region: the key that others find in its card.
struct Key(RegionKey);

impl Registration for Key {
    fn extra(&self) -> Bytes {
        Bytes::new()
    }

    fn nixl(&self) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(&self.0.0))
    }
}

/// What NIXL's agents are told in place of the address.
fn conn_info(generation: Generation) -> Bytes {
    [&ADDRESS[..], &generation.0.to_le_bytes()].concat().into()
}

/// The address bytes: the registry finds an agent by its generation alone.
const ADDRESS: Bytes = Bytes::from_static(b"simulated");

/// Every simulated backend of the process that accepts connections.
static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Default::default);

type Registry = HashMap<(PathName, Generation), Weak<Engine>>;

fn look_up(name: BackendName, peer: &PeerAddress) -> Result<Arc<Engine>> {
    let gone = |text: String| fail(ErrorKind::PeerGone, text).with_peer(&peer.card.name);
    let generation = match peer.card.backend(name) {
        None => {
            return Err(fail(
                ErrorKind::Unsupported,
                format!("the peer has no backend {name:?}"),
            ));
        }
        Some(card) => match (card.address.strip_prefix(&ADDRESS[..]), peer.card.foreign) {
            (Some([]), false) => Some(peer.card.generation),
            (Some(rest), true) => rest
                .try_into()
                .ok()
                .map(|g| Generation(u64::from_le_bytes(g))),
            _ => None,
        },
    };
    let Some(generation) = generation else {
        return Err(fail(
            ErrorKind::Malformed,
            "the peer's address is not one of a simulated backend",
        ));
    };
    let found = REGISTRY.lock().get(&(name, generation)).cloned();
    found.and_then(|engine| engine.upgrade()).ok_or_else(|| {
        gone(format!(
            "this process has no simulated agent of generation {generation}"
        ))
    })
}

fn withdraw(name: BackendName, generation: Generation) {
    REGISTRY.lock().remove(&(name, generation));
}
