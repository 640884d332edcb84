//! The backend as core sees it.

use std::{
    fmt::Write as _,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use nixl_core::{
    BackendName, Cost, ErrorKind, MemKind, Op, PathCaps, PathClass, PathName, Reach, Region,
    Result, Revocation,
    backend::{Backend, ConnectDone, Context, NixlFace, PeerAddress},
    error::fail,
    mem::Registration,
};
use ucx_sys::{Library, Search, Version};

use crate::{
    address::{Address, MAX_WORKERS},
    engine::{Dial, Engine, Foreign, GOOD, OLDEST, Order, Settings},
    fault::unsupported,
    keys::Keys,
    shape, ucp,
};

pub(crate) const UCX: BackendName = "ucx";
/// Path over lanes of RDMA devices.
pub const RDMA: PathName = "ucx";
/// Path over lanes that copy between processes of one host.
pub const CMA: PathName = "ucx_cma";
/// Path over anything else, which is emulated by messages.
pub const TCP: PathName = "ucx_tcp";

const HOST_MEMORY: &[(Op, MemKind, MemKind)] = &[
    (Op::Read, MemKind::Dram, MemKind::Dram),
    (Op::Write, MemKind::Dram, MemKind::Dram),
];

/// How long the last operations may take when the backend is dropped.
const LAST: Duration = Duration::from_secs(2);

/// Settings of a [`UcxBackend`].
#[derive(Clone, Debug)]
pub struct UcxConfig {
    /// The libucp to load; `None`: the one that is found (see `ucx-sys`).
    pub library: Option<PathBuf>,
    /// Names without `UCX_`, and values, for `ucp_config_modify`.
    pub settings: Vec<(String, String)>,
    /// Workers, 1 to 64: connections are spread over them.
    pub workers: usize,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

impl Default for UcxConfig {
    fn default() -> Self {
        Self {
            library: None,
            settings: Vec::new(),
            workers: 1,
            connect_timeout: Duration::from_secs(5),
        }
    }
}

/// RDMA, and whatever else libucp offers: the paths [`RDMA`], [`CMA`] and [`TCP`].
pub struct UcxBackend {
    config: UcxConfig,
    context: ucp::Context,
    version: Version,
    paths: Vec<PathCaps>,
    keys: Arc<Keys>,
    node: OnceLock<Node>,
}

struct Node {
    engines: Vec<Arc<Engine>>,
    next: AtomicUsize,
}

/// The class of lanes that a path stands for.
pub(crate) fn class_of_path(path: PathName) -> Option<PathClass> {
    match path {
        RDMA => Some(PathClass::Rdma),
        CMA => Some(PathClass::CrossMemory),
        TCP => Some(PathClass::Tcp),
        _ => None,
    }
}

fn path(path: PathName, class: PathClass, reach: Reach, cost: Cost) -> PathCaps {
    PathCaps {
        path,
        backend: UCX,
        class,
        wire: 1..=1,
        reach,
        mem: HOST_MEMORY,
        needs_shareable: false,
        // Connecting needs it on every path, and emulated operations do on most.
        target_must_progress: true,
        revocation: Revocation::Cooperative,
        cost,
    }
}

/// Advertised until measured. One system call a block makes CMA through UCX slower than ours,
/// and so does the copying at the peer with TCP.
fn path_of(class: PathClass) -> PathCaps {
    let cost = |latency_ns, per_desc_ns, bytes_per_sec| Cost {
        latency_ns,
        per_desc_ns,
        bytes_per_sec,
    };
    match class {
        PathClass::Rdma => path(RDMA, class, Reach::Fabric, cost(5_000, 150, 12_000_000_000)),
        PathClass::CrossMemory => path(CMA, class, Reach::Host, cost(6_000, 900, 5_000_000_000)),
        _ => path(TCP, class, Reach::Routed, cost(80_000, 5_000, 600_000_000)),
    }
}

impl UcxBackend {
    /// Loads libucp and sees what it offers on this machine.
    ///
    /// Errors: `Unsupported` without a libucp that will do, and why; `ApiMisuse` for bad settings.
    pub fn open(config: UcxConfig) -> Result<Self> {
        let library = Library::find(&Search::new(config.library.as_deref()))
            .map_err(|e| unsupported(e.to_string()))?;
        Self::over(library, config)
    }

    /// A backend over a libucp that is loaded already.
    ///
    /// Errors: as [`UcxBackend::open`].
    pub fn over(library: Library, config: UcxConfig) -> Result<Self> {
        if config.workers == 0 || config.workers > MAX_WORKERS {
            return Err(fail(
                ErrorKind::ApiMisuse,
                format!(
                    "{} UCX workers; 1 to {MAX_WORKERS} are allowed",
                    config.workers
                ),
            ));
        }
        let version = library.version();
        let api = ucp::Api::new(library);
        let (context, ignored) = ucp::Context::new(&api, &config.settings)?;
        for name in ignored {
            tracing::warn!(
                setting = name,
                "this UCX {version} does not take UCX_{name}"
            );
        }
        let paths = paths(&context)?;
        Ok(Self {
            config,
            context,
            version,
            paths,
            keys: Arc::default(),
            node: OnceLock::new(),
        })
    }

    /// The version of the libucp that was loaded.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The address of the worker that NIXL's agents connect to; `None` before the agent started.
    pub fn worker_address(&self) -> Option<Bytes> {
        Some(self.node.get()?.engines.first()?.address().clone())
    }

    fn make_node(&self, ctx: &Context) -> Result<Node> {
        let engine = |_| {
            let settings = Settings {
                context: self.context.clone(),
                keys: self.keys.clone(),
                version: self.version,
                connect_timeout: self.config.connect_timeout,
            };
            Engine::start(ctx.clone(), settings)
        };
        let engines = (0..self.config.workers)
            .map(engine)
            .collect::<Result<_>>()?;
        let next = AtomicUsize::new(0);
        Ok(Node { engines, next })
    }

    fn dial(&self, peer: Arc<PeerAddress>, done: ConnectDone) {
        let Some(node) = self.node.get() else {
            let why = fail(ErrorKind::ApiMisuse, "the ucx backend has not started");
            return done.failed(why);
        };
        let card = peer.card.backend(UCX);
        if peer.card.foreign {
            return self.reach(node, &peer, done);
        }
        let address = card
            .ok_or_else(|| unsupported("the peer has no ucx backend"))
            .and_then(|card| Address::decode(&card.address));
        let address = match address {
            Ok(address) => address,
            Err(why) => return done.failed(why.with_peer(&peer.card.name)),
        };
        let worker = node.next.fetch_add(1, Ordering::Relaxed);
        let engine = &node.engines[worker % node.engines.len()];
        engine.order(Order::Dial(Dial {
            peer,
            address,
            worker,
            done,
        }));
    }
}

impl UcxBackend {
    /// Connects to a NIXL agent, always from the worker that it was told of.
    fn reach(&self, node: &Node, peer: &PeerAddress, done: ConnectDone) {
        let check = || {
            if self.version < OLDEST {
                return Err(unsupported(format!(
                    "UCX {} here and the one of NIXL do not understand each other; {OLDEST} or newer \
                     is needed, better 1.22",
                    self.version
                )));
            }
            let card = peer.card.backend(UCX);
            let card = card.ok_or_else(|| unsupported("the NIXL agent has no UCX"))?;
            shape::check_worker_address(&card.address)?;
            Ok(card.address.clone())
        };
        let address = match check() {
            Ok(address) => address,
            Err(why) => return done.failed(why.with_peer(&peer.card.name)),
        };
        let peer = peer.card.name.clone();
        if let Some(engine) = node.engines.first() {
            engine.order(Order::Reach(Foreign {
                peer,
                address,
                done,
            }));
        }
    }
}

/// One path for each class of transport that the context has.
fn paths(context: &ucp::Context) -> Result<Vec<PathCaps>> {
    let resources = context.resources();
    let has = |class| {
        let mut classes = resources.iter().map(|(tl, _)| ucp::class_of(tl));
        classes.any(|c| c == class)
    };
    let all = [PathClass::Rdma, PathClass::CrossMemory, PathClass::Tcp];
    let paths: Vec<_> = all.into_iter().filter(|c| has(*c)).map(path_of).collect();
    let mut names = String::new();
    for (transport, device) in &resources {
        // Writing to a string does not fail.
        let _ = write!(names, " {transport}/{device}");
    }
    tracing::info!("UCX transports:{names}");
    if !has(PathClass::Rdma) {
        tracing::warn!(
            "no RDMA transports available to UCX{}",
            if has(PathClass::Tcp) {
                ", falling back to TCP between hosts"
            } else {
                ""
            }
        );
    }
    if paths.is_empty() {
        return Err(unsupported(format!(
            "UCX has no transport for this agent (it has:{names}); see UCX_TLS"
        )));
    }
    Ok(paths)
}

impl Backend for UcxBackend {
    fn name(&self) -> BackendName {
        UCX
    }

    fn paths(&self) -> &[PathCaps] {
        &self.paths
    }

    /// Errors: what UCX says when it cannot make a worker.
    fn start(&self, ctx: Context) -> Result<Bytes> {
        let node = self.make_node(&ctx)?;
        let address = Address {
            version: self.version,
            workers: node.engines.iter().map(|e| e.address().clone()).collect(),
        };
        self.node.set(node).map_err(|_| {
            fail(
                ErrorKind::ApiMisuse,
                "a ucx backend belongs to one agent and starts once",
            )
        })?;
        Ok(address.encode())
    }

    fn nixl(&self) -> Option<NixlFace> {
        let spoken = self.version >= GOOD;
        Some(NixlFace {
            name: "UCX",
            conn: self.worker_address().filter(|_| spoken),
            paths: self.paths.iter().map(|caps| caps.path).collect(),
        })
    }

    fn register(&self, region: &Region) -> Result<Option<Box<dyn Registration>>> {
        self.keys.register(&self.context, region).map(Some)
    }

    fn connect(&self, peer: Arc<PeerAddress>, done: ConnectDone) {
        self.dial(peer, done);
    }

    fn tick(&self, now: Instant) -> Option<Instant> {
        let engines = self.node.get()?.engines.iter();
        engines.map(|engine| engine.tick(now)).min()
    }

    fn shutdown(&self) {
        if let Some(node) = self.node.get() {
            node.engines.iter().for_each(|engine| engine.shutdown());
        }
    }
}

impl Drop for UcxBackend {
    fn drop(&mut self) {
        self.shutdown();
        if let Some(node) = self.node.get() {
            node.engines.iter().for_each(|engine| engine.finish(LAST));
        }
    }
}
