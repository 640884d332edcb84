//! Builds an agent.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use super::{
    Agent, AgentConfig, ForeignMetadata, host,
    probe_memory::{NONCE, PROBED, ProbeMemory, SCRATCH},
    shared::{Hub, Shared},
};
use crate::{
    AgentCard, BackendCard, ErrorKind, Generation, PathCard, RegionId, RegionKey, Result, Secret,
    auth::{self, Identity},
    backend::{Backend, Context},
    error::fail,
    mem::{HostMemory, HugePages, MemoryOwner, OwnedBuffer, Region, RegionTable},
    negotiate::Policy,
    runtime::{Progress, Runtime, Tick},
};

/// Longest agent name in bytes.
const MAX_NAME: usize = 255;

/// Collects what an agent needs; [`AgentBuilder::build`] starts it.
pub struct AgentBuilder {
    name: String,
    config: AgentConfig,
    backends: Vec<Arc<dyn Backend>>,
}

impl AgentBuilder {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            config: AgentConfig::default(),
            backends: Vec::new(),
        }
    }

    /// Adds a backend.
    pub fn backend(mut self, backend: impl Backend) -> Self {
        self.backends.push(Arc::new(backend));
        self
    }

    /// Adds a backend that is shared already.
    pub fn backend_arc(mut self, backend: Arc<dyn Backend>) -> Self {
        self.backends.push(backend);
        self
    }

    /// Replaces all settings.
    pub fn config(mut self, config: AgentConfig) -> Self {
        self.config = config;
        self
    }

    /// Who makes progress.
    pub fn progress(mut self, progress: Progress) -> Self {
        self.config.progress = progress;
        self
    }

    /// Which paths may be used.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.config.policy = policy;
        self
    }

    /// What to do with NIXL's agents.
    pub fn foreign_metadata(mut self, what: ForeignMetadata) -> Self {
        self.config.foreign_metadata = what;
        self
    }

    /// Deadline of requests that name none.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.config.deadline = deadline;
        self
    }

    /// Starts threads and backends.
    ///
    /// Errors: `ApiMisuse` for a bad name or two backends of one name; whatever a backend says
    /// when it cannot start.
    pub fn build(self) -> Result<Agent> {
        check_name(&self.name)?;
        check_backends(&self.backends)?;
        let paths = self.backends.iter().flat_map(|b| b.paths());
        self.config
            .policy
            .check(&paths.cloned().collect::<Vec<_>>())?;
        let identity = Identity {
            name: self.name,
            generation: Generation(u64::from_le_bytes(auth::random()?)),
            secret: Secret(auth::random()?),
        };
        let runtime = Runtime::start(self.config.progress, self.config.spin)?;
        let regions = Arc::new(RegionTable::default());
        let hub = Arc::new(Hub(OnceLock::new()));
        let context = Context::new(
            identity.clone(),
            runtime.clone(),
            regions.clone(),
            hub.clone(),
        );
        let started = start(&self.backends, &context)
            .and_then(|cards| Ok((cards, probe_memory(&regions, &self.backends)?)));
        let (backends, probe_memory) = match started {
            Ok(started) => started,
            Err(e) => {
                self.backends.iter().for_each(|b| b.shutdown());
                runtime.stop();
                return Err(e);
            }
        };
        let card = AgentCard {
            name: identity.name.clone(),
            generation: identity.generation,
            secret: identity.secret.clone(),
            host: host::detect(),
            progresses: self.config.progress != Progress::Caller,
            backends,
            probes: probe_memory.cards(),
            foreign: false,
        };
        let shared = Arc::new(Shared::new(
            identity,
            self.config,
            runtime,
            regions,
            self.backends,
            card,
            probe_memory,
            FIRST_REGION,
        ));
        // Set once, here.
        let _ = hub.0.set(Arc::downgrade(&shared));
        let ticker: Weak<dyn Tick> = Arc::downgrade(&(shared.clone() as Arc<dyn Tick>));
        shared.runtime.add_ticker(ticker);
        let agent = Agent { shared };
        agent.load_self();
        for backend in &agent.shared.backends {
            tracing::info!(agent = %agent.name(), "Backend {} was instantiated", backend.name().to_uppercase());
        }
        Ok(agent)
    }
}

/// Numbers below are the probe regions'.
pub(super) const FIRST_REGION: u64 = 16;

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(fail(
            ErrorKind::ApiMisuse,
            format!("{name:?} is no agent name: 1 to {MAX_NAME} bytes without control characters"),
        ));
    }
    Ok(())
}

fn check_backends(backends: &[Arc<dyn Backend>]) -> Result<()> {
    for (i, b) in backends.iter().enumerate() {
        if backends[..i].iter().any(|other| other.name() == b.name()) {
            return Err(fail(
                ErrorKind::ApiMisuse,
                format!("backend {} was added twice", b.name()),
            ));
        }
    }
    Ok(())
}

fn start(backends: &[Arc<dyn Backend>], context: &Context) -> Result<Vec<BackendCard>> {
    let mut cards = Vec::with_capacity(backends.len());
    for backend in backends {
        let address = backend
            .start(context.clone())
            .map_err(|e| e.with_path(backend.name()))?;
        let paths = backend.paths().iter().map(|caps| PathCard {
            path: caps.path.to_owned(),
            wire_min: *caps.wire.start(),
            wire_max: *caps.wire.end(),
        });
        cards.push(BackendCard {
            backend: backend.name().to_owned(),
            address,
            paths: paths.collect(),
        });
    }
    Ok(cards)
}

fn probe_memory(table: &RegionTable, backends: &[Arc<dyn Backend>]) -> Result<ProbeMemory> {
    let make = |id: u64, owner: Box<dyn MemoryOwner>| -> Result<Region> {
        let region = Region::new(owner, RegionId(id), RegionKey(auth::random()?), true)?;
        super::memory::register_everywhere(&region, backends);
        table.insert(region.clone());
        Ok(region)
    };
    let buffer = |len: usize| OwnedBuffer::new(vec![0; len].into_boxed_slice());
    let shareable = make(
        1,
        Box::new(HostMemory::allocate(PROBED as u64, HugePages::No)?),
    )?;
    let plain = make(2, Box::new(buffer(PROBED)))?;
    let scratch = make(3, Box::new(buffer(SCRATCH)))?;
    let publish = |region: Region| -> Result<(Region, [u8; NONCE])> {
        let nonce = auth::random()?;
        region.write_at(0, &nonce)?;
        Ok((region, nonce))
    };
    Ok(ProbeMemory::new(
        [publish(shareable)?, publish(plain)?],
        scratch,
    ))
}
