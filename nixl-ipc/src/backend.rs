//! The backend as core sees it.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use nixl_core::{
    BackendName, Cost, ErrorKind, MemKind, Op, PathCaps, PathClass, PathName, Reach, Result,
    Revocation,
    backend::{Backend, ConnectDone, Context, PeerAddress},
    error::fail,
    plan::Plan,
};

use crate::{
    dir,
    local::{self, LocalDial},
    node::{Node, Settings},
};

pub(crate) const IPC: BackendName = "ipc";
/// Path between agents of one process.
pub const LOCAL: PathName = "local";
/// Path over mapped memory.
pub const SHM: PathName = "shm";
/// Path over process_vm_readv(2) and process_vm_writev(2).
pub const CMA: PathName = "cma";

const HOST_MEMORY: &[(Op, MemKind, MemKind)] = &[
    (Op::Read, MemKind::Dram, MemKind::Dram),
    (Op::Write, MemKind::Dram, MemKind::Dram),
];

/// Settings of an [`IpcBackend`].
#[derive(Clone, Debug)]
pub struct IpcConfig {
    /// Directory of the agents' sockets: ours, mode 0700, made if missing (its parent must exist).
    /// Agents reach each other only if theirs is the same one. `None`: `$XDG_RUNTIME_DIR/nixl-rs`,
    /// or `/tmp/nixl-rs-<uid>` where that variable names no directory.
    pub dir: Option<PathBuf>,
    /// A request whose estimated copy takes no longer is copied by the thread that posts it.
    pub inline: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// Whether agents of this process are reached directly; if not, over the socket like others.
    pub local: bool,
}

impl Default for IpcConfig {
    fn default() -> Self {
        Self {
            dir: None,
            inline: Duration::from_micros(20),
            connect_timeout: Duration::from_secs(5),
            local: true,
        }
    }
}

/// Same-host backend: the paths [`LOCAL`], [`SHM`] and [`CMA`].
pub struct IpcBackend {
    config: IpcConfig,
    paths: Vec<PathCaps>,
    node: OnceLock<Arc<Node>>,
}

impl IpcBackend {
    /// A backend that begins to work when its agent starts.
    pub fn new(config: IpcConfig) -> Self {
        let mut paths = vec![shm(), cma()];
        if config.local {
            paths.insert(0, same_process());
        }
        Self {
            config,
            paths,
            node: OnceLock::new(),
        }
    }
}

fn path(path: PathName, class: PathClass, reach: Reach, cost: Cost) -> PathCaps {
    PathCaps {
        path,
        backend: IPC,
        class,
        wire: 1..=1,
        reach,
        mem: HOST_MEMORY,
        needs_shareable: false,
        target_must_progress: false,
        revocation: Revocation::Cooperative,
        hazard: None,
        cost,
    }
}

/// Advertised until measured: a first-touch memcpy of scattered blocks on one core.
const MEMORY_COPY: Cost = Cost {
    latency_ns: 1_000,
    per_desc_ns: 100,
    bytes_per_sec: 8_000_000_000,
};

fn same_process() -> PathCaps {
    PathCaps {
        revocation: Revocation::Fenced,
        ..path(LOCAL, PathClass::SameProcess, Reach::Process, MEMORY_COPY)
    }
}

fn shm() -> PathCaps {
    PathCaps {
        needs_shareable: true,
        ..path(SHM, PathClass::SharedMemory, Reach::Host, MEMORY_COPY)
    }
}

fn cma() -> PathCaps {
    let cost = Cost {
        latency_ns: 2_000,
        per_desc_ns: 300,
        bytes_per_sec: 6_000_000_000,
    };
    path(CMA, PathClass::CrossMemory, Reach::Host, cost)
}

/// Errors with `Unsupported` unless both sides of `plan` are host memory.
pub(crate) fn check_plan(plan: &Plan) -> Result<()> {
    let (ours, theirs) = (plan.local().kind(), plan.remote().kind());
    if (ours, theirs) == (MemKind::Dram, MemKind::Dram) {
        return Ok(());
    }
    Err(fail(
        ErrorKind::Unsupported,
        format!("the ipc backend moves host memory, not {ours:?} to or from {theirs:?}"),
    ))
}

impl Backend for IpcBackend {
    fn name(&self) -> BackendName {
        IPC
    }

    fn paths(&self) -> &[PathCaps] {
        &self.paths
    }

    /// Errors: `NotAllowed` or `Unsupported` for an unfit socket directory, `Exhausted` without a
    /// file descriptor left.
    fn start(&self, ctx: Context) -> Result<Bytes> {
        let settings = Settings {
            dir: self.config.dir.clone().unwrap_or_else(dir::default_path),
            paths: self.paths.clone(),
            inline: self.config.inline,
            handshake: self.config.connect_timeout,
        };
        let node = Node::start(ctx, settings)?;
        if self.config.local {
            local::publish(&node);
        }
        let name = node.socket_name();
        self.node.set(node).map_err(|_| {
            fail(
                ErrorKind::ApiMisuse,
                "an ipc backend belongs to one agent and starts once",
            )
        })?;
        Ok(Bytes::from(name))
    }

    fn connect(&self, peer: Arc<PeerAddress>, done: ConnectDone) {
        let Some(node) = self.node.get() else {
            return done.failed(fail(
                ErrorKind::ApiMisuse,
                "the ipc backend has not started",
            ));
        };
        let here = self.config.local.then(|| local::find(peer.card.generation));
        match here.flatten() {
            Some(target) => LocalDial::ring(node, target, peer, done),
            None => node.dial(peer, done),
        }
    }

    fn tick(&self, now: Instant) -> Option<Instant> {
        self.node.get()?.tick(now)
    }

    fn shutdown(&self) {
        if let Some(node) = self.node.get() {
            node.shutdown();
        }
    }
}

impl Drop for IpcBackend {
    fn drop(&mut self) {
        self.shutdown();
    }
}
