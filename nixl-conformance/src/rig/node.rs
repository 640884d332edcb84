//! One agent's worth of context around a backend under test.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use nixl_core::{
    AgentCard, BackendCard, BackendName, Generation, HostId, HostMemory, HugePages, MemoryOwner,
    PathCard, Region, RegionId, RegionKey, RegionTable, Secret,
    auth::{Identity, Known, PeerIdentity, random},
    backend::{Backend, Conn, Context, Endpoint, Upcalls},
    mem::OwnedBuffer,
    runtime::{Progress, Runtime, Tick},
};
use parking_lot::Mutex;

use super::{journal::Journal, side::Side};

/// Which memory a region lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Allocated by the agent: a memfd that peers can map.
    Agent,
    /// Plain heap memory.
    Heap,
}

/// One agent: its own identity, threads, regions, and the backend under test.
pub struct Node {
    pub(crate) identity: Identity,
    pub(crate) runtime: Runtime,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) hooks: Arc<Hooks>,
    regions: Arc<RegionTable>,
    address: Bytes,
    next_region: AtomicU64,
    progress: Progress,
    _ticker: Arc<dyn Tick>,
}

impl Node {
    pub(crate) fn start(
        name: &str,
        backend: Arc<dyn Backend>,
        progress: Progress,
        journal: &Arc<Journal>,
    ) -> Self {
        let generation = Generation(u64::from_le_bytes(random().expect("getrandom works")));
        let identity = Identity {
            name: format!("{name}-{generation}"),
            generation,
            secret: Secret(random().expect("getrandom works")),
        };
        let runtime =
            Runtime::start(progress, Duration::from_micros(20)).expect("threads can be started");
        let regions = Arc::new(RegionTable::default());
        let hooks = Arc::new(Hooks {
            journal: journal.clone(),
            loaded: Mutex::default(),
            accepted: Mutex::default(),
        });
        let ctx = Context::new(
            identity.clone(),
            runtime.clone(),
            regions.clone(),
            hooks.clone(),
        );
        let address = backend.start(ctx).expect("the backend starts");
        let ticker: Arc<dyn Tick> = Arc::new(Ticker(backend.clone()));
        runtime.add_ticker(Arc::downgrade(&ticker) as Weak<dyn Tick>);
        Self {
            identity,
            runtime,
            backend,
            hooks,
            regions,
            address,
            next_region: AtomicU64::new(1),
            progress,
            _ticker: ticker,
        }
    }

    /// What peers are told about this agent.
    pub fn card(&self) -> AgentCard {
        let paths = self.backend.paths().iter().map(|p| PathCard {
            path: p.path.to_owned(),
            wire_min: *p.wire.start(),
            wire_max: *p.wire.end(),
        });
        AgentCard {
            name: self.identity.name.clone(),
            generation: self.identity.generation,
            secret: self.identity.secret.clone(),
            host: host(),
            progresses: self.progress != Progress::Caller,
            backends: vec![BackendCard {
                backend: self.backend.name().to_owned(),
                address: self.address.clone(),
                paths: paths.collect(),
            }],
            probes: Vec::new(),
            foreign: false,
        }
    }

    /// Loads `peer`: from here on it has to prove its secret when it connects.
    pub fn load(&self, peer: &Identity) {
        self.hooks
            .loaded
            .lock()
            .insert(peer.name.clone(), (peer.generation, peer.secret.clone()));
    }

    /// Registers `len` bytes that peers may read and write.
    pub fn region(&self, memory: Memory, len: usize) -> Region {
        self.region_with(memory, len, true)
    }

    /// Registers `len` bytes.
    pub fn region_with(&self, memory: Memory, len: usize, writable: bool) -> Region {
        let owner: Box<dyn MemoryOwner> = match memory {
            Memory::Agent => Box::new(
                HostMemory::allocate(len as u64, HugePages::No).expect("memory can be had"),
            ),
            Memory::Heap => Box::new(OwnedBuffer::new(vec![0; len].into_boxed_slice())),
        };
        let id = RegionId(self.next_region.fetch_add(1, Ordering::Relaxed));
        let key = RegionKey(random().expect("getrandom works"));
        let region = Region::new(owner, id, key, writable).expect("the span is sound");
        let registered = self
            .backend
            .register(&region)
            .expect("it can be registered");
        if let Some(registration) = registered {
            region.add_registration(self.backend.name(), registration);
        }
        self.regions.insert(region.clone());
        region
    }

    /// The region with number `id`. Panics if there is none.
    pub fn region_by_id(&self, id: RegionId) -> Region {
        self.regions.by_id(id).expect("it is registered")
    }

    /// Withdraws a region as the agent does: from here on no access begins.
    pub fn withdraw(&self, region: &Region) {
        assert!(self.regions.withdraw(region), "it was registered");
    }

    pub(crate) fn regions(&self) -> &RegionTable {
        &self.regions
    }

    /// The connections that peers made to this agent, oldest first.
    pub fn accepted(&self) -> Vec<Arc<Side>> {
        self.hooks.accepted.lock().clone()
    }
}

struct Ticker(Arc<dyn Backend>);

impl Tick for Ticker {
    fn tick(&self, now: Instant) -> Option<Instant> {
        self.0.tick(now)
    }
}

/// The rig's stand-in for an agent.
pub(crate) struct Hooks {
    journal: Arc<Journal>,
    loaded: Mutex<HashMap<String, (Generation, Secret)>>,
    accepted: Mutex<Vec<Arc<Side>>>,
}

impl Upcalls for Hooks {
    fn known(&self, name: &str, _generation: Generation) -> Known {
        match self.loaded.lock().get(name) {
            Some((generation, secret)) => Known::Loaded(*generation, secret.clone()),
            None => Known::No,
        }
    }

    fn accepted(
        &self,
        _backend: BackendName,
        peer: PeerIdentity,
        endpoint: Arc<dyn Endpoint>,
    ) -> Conn {
        let side = Side::new(self.journal.clone(), endpoint, Some(peer));
        self.accepted.lock().push(side.clone());
        self.journal.ring();
        Conn::new(side)
    }
}

/// Where this process runs, as an agent would say it (proc(5)).
fn host() -> HostId {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let inode = |path: &str| fs::metadata(path).map(|m| m.ino()).unwrap_or_default();
    let mut boot = [0; 16];
    let hex: Vec<u8> = text("/proc/sys/kernel/random/boot_id")
        .bytes()
        .filter(u8::is_ascii_hexdigit)
        .collect();
    for (byte, digits) in boot.iter_mut().zip(hex.chunks(2)) {
        let digits = str::from_utf8(digits).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).unwrap_or_default();
    }
    HostId {
        boot,
        pid_ns: inode("/proc/self/ns/pid"),
        net_ns: inode("/proc/self/ns/net"),
        pid: std::process::id(),
        uid: fs::metadata("/proc/self")
            .map(|m| m.uid())
            .unwrap_or_default(),
        name: text("/proc/sys/kernel/hostname").trim().to_owned(),
    }
}
