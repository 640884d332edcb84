//! TCP backend: the path that reaches anything.
//!
//! A connection is a control stream and several data streams (`docs/wire-protocol.md`). Payload is
//! received straight into registered memory and sent straight from it; whole scatter lists travel
//! in one request, and the owner of the memory pushes a READ's bytes without a round trip per
//! chunk. All work runs on core's threads: small requests on the posting thread and the reactor's,
//! others on the copy threads.

#![warn(missing_docs)]

mod address;
mod config;
mod conn;
mod control;
mod dial;
mod gate;
mod greet;
mod inbound;
mod iov;
mod lobby;
mod rx;
mod sock;
mod stream;
mod transfer;
mod tx;

pub use config::TcpConfig;

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use nixl_core::{
    BackendName, Cost, Error, ErrorKind, MemKind, Op, PathCaps, PathClass, PathName, Reach, Result,
    Revocation,
    backend::{Backend, ConnectDone, Context, PeerAddress},
};

use crate::{
    address::{Address, published},
    dial::Dialer,
    lobby::Lobby,
};

/// Name of the backend.
const NAME: BackendName = "tcp";
/// Name of its one path.
const PATH: PathName = "tcp";
const WIRE: u16 = nixl_tcp_proto::WIRE_VERSION as u16;

/// The TCP backend of one agent.
pub struct TcpBackend {
    config: Arc<TcpConfig>,
    paths: [PathCaps; 1],
    lobby: OnceLock<Arc<Lobby>>,
}

impl TcpBackend {
    /// A backend with these settings. Errors: `ApiMisuse` for a setting out of range.
    pub fn new(config: TcpConfig) -> Result<Self> {
        config.check()?;
        Ok(Self {
            config: Arc::new(config),
            paths: [caps()],
            lobby: OnceLock::new(),
        })
    }
}

fn caps() -> PathCaps {
    PathCaps {
        path: PATH,
        backend: NAME,
        class: PathClass::Tcp,
        wire: WIRE..=WIRE,
        reach: Reach::Routed,
        mem: &[
            (Op::Read, MemKind::Dram, MemKind::Dram),
            (Op::Write, MemKind::Dram, MemKind::Dram),
        ],
        needs_shareable: false,
        target_must_progress: true,
        revocation: Revocation::Fenced,
        hazard: None,
        // Four streams over loopback; measurements replace it (docs/performance.md).
        cost: Cost {
            latency_ns: 15_000,
            per_desc_ns: 100,
            bytes_per_sec: 2_500_000_000,
        },
    }
}

impl Backend for TcpBackend {
    fn name(&self) -> BackendName {
        NAME
    }

    fn paths(&self) -> &[PathCaps] {
        &self.paths
    }

    fn start(&self, ctx: Context) -> Result<Bytes> {
        let (listener, at) = sock::listen(&self.config)?;
        let hosts = published(at.ip(), &self.config.advertise)?;
        let address = Address {
            port: at.port(),
            hosts,
        };
        let lobby = Lobby::new(ctx, self.config.clone(), listener);
        lobby.open()?;
        if self.lobby.set(lobby).is_err() {
            return Err(Error::new(
                ErrorKind::ApiMisuse,
                "a TCP backend serves one agent; make another one",
            ));
        }
        Ok(Bytes::from(address.encode()))
    }

    fn connect(&self, peer: Arc<PeerAddress>, done: ConnectDone) {
        match self.lobby.get() {
            Some(lobby) => Dialer::start(lobby, peer, done),
            None => done.failed(Error::new(
                ErrorKind::ApiMisuse,
                "the TCP backend was not started",
            )),
        }
    }

    fn tick(&self, now: Instant) -> Option<Instant> {
        self.lobby.get()?.tick(now)
    }

    fn shutdown(&self) {
        if let Some(lobby) = self.lobby.get() {
            lobby.close();
        }
    }
}
