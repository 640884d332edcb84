//! NIXL's metadata calls from agent to agent: a listener, and calls to those of others.
//!
//! Between two agents of this library on one machine they carry everything, over our own protocol
//! on the same port. Everybody else gets what NIXL's agents read: keys for UCX, no secret of
//! another path. Whoever can connect to the listener can read and write memory that is registered
//! with UCX; so it binds loopback only, unless `NIXL_RS_ALLOW_UNAUTHENTICATED=1`.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use nixl_core::{
    Agent, Error, ErrorKind, Region, Result,
    metadata::{self, Decoded, Limits},
};
use nixl_meta::{
    DEFAULT_LABEL,
    tcp::{self, Access, ClientConfig, MetaHandler, MetaServer, Origin, ServerConfig, nixl},
};
use parking_lot::Mutex;

/// Set to `1`, it opens the listener to every address.
const ALLOW: &str = "NIXL_RS_ALLOW_UNAUTHENTICATED";

/// NIXL's agents keep their connections, so there may be many.
const CONNECTIONS: usize = 256;

/// How long one call may take. NIXL's own listeners look every 100 ms.
const PATIENCE: Duration = Duration::from_secs(5);

/// A listener for NIXL's protocol; it ends when it is dropped. Keeps the agent only weakly.
pub struct NixlListener(MetaServer);

impl NixlListener {
    /// Listens on `port`; 0: the kernel picks one.
    ///
    /// Errors: `Backend` when the port is in use.
    pub fn start(agent: &Arc<Agent>, port: u16) -> Result<Self> {
        let open = std::env::var(ALLOW).is_ok_and(|value| value == "1");
        let (host, access) = match open {
            true => ("0.0.0.0", Access::AllowUnauthenticated),
            false => ("127.0.0.1", Access::LoopbackOnly),
        };
        let config = ServerConfig {
            listen: format!("{host}:{port}"),
            access,
            max_connections: CONNECTIONS,
            ..ServerConfig::default()
        };
        let ours = Handler {
            agent: Arc::downgrade(agent),
            loaded: Arc::default(),
            tells_all: true,
        };
        let nixl = Handler {
            tells_all: false,
            ..ours.clone()
        };
        let server = MetaServer::start_for_nixl(config, Arc::new(ours), Arc::new(nixl))?;
        tracing::info!(
            address = %server.local_addr(),
            "listening for NIXL's metadata calls; {ALLOW}=1 opens the listener to other machines"
        );
        Ok(Self(server))
    }

    /// The address bound, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr()
    }
}

/// What others may do.
#[derive(Clone)]
struct Handler {
    agent: Weak<Agent>,
    /// Who told us of which agent: nobody else may replace or remove it.
    loaded: Arc<Mutex<HashMap<String, IpAddr>>>,
    /// To agents of this library on this machine.
    tells_all: bool,
}

impl Handler {
    fn agent(&self) -> Result<Arc<Agent>> {
        let gone = || Error::new(ErrorKind::PeerGone, "this agent was shut down");
        self.agent.upgrade().ok_or_else(gone)
    }

    /// Errors: `NotAllowed` if `name` is loaded, and not by `from`.
    fn check_owner(&self, agent: &Agent, name: &str, from: &Origin) -> Result<()> {
        let owner = self.loaded.lock().get(name).copied();
        if owner == Some(from.addr.ip()) || agent.peer_card(name).is_err() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NotAllowed,
            format!(
                "{} may not touch agent {name:?}, which it did not load",
                from.addr
            ),
        ))
    }
}

impl MetaHandler for Handler {
    fn local_blob(&self, _: &str, _: &Origin) -> Result<Bytes> {
        match self.tells_all {
            true => self.agent()?.metadata(),
            false => Ok(self.agent()?.nixl_metadata(None)),
        }
    }

    fn remote_blob(&self, blob: Bytes, from: &Origin) -> Result<String> {
        let agent = self.agent()?;
        let name = match metadata::decode(&blob, &Limits::default())? {
            Decoded::Ours(metadata) => metadata.name,
            Decoded::Foreign(foreign) => foreign.name,
        };
        self.check_owner(&agent, &name, from)?;
        agent.load_metadata(&blob)?;
        self.loaded.lock().insert(name.clone(), from.addr.ip());
        Ok(name)
    }

    fn invalidate(&self, name: &str, from: &Origin) -> Result<()> {
        let agent = self.agent()?;
        self.check_owner(&agent, name, from)?;
        agent.remove_peer(name)?;
        self.loaded.lock().remove(name);
        Ok(())
    }
}

fn client() -> ClientConfig {
    ClientConfig {
        timeout: PATIENCE,
        ..ClientConfig::default()
    }
}

/// Whether an agent of this library may be told everything there.
fn is_loopback(address: &str) -> bool {
    let found = address.to_socket_addrs();
    found.is_ok_and(|mut all| all.all(|a| a.ip().to_canonical().is_loopback()))
}

/// Tells the agent that listens at `address` (`host:port`) of `agent`: all of it, or the regions
/// given and how to reach it.
///
/// Errors: as of [`tcp::send`]. A NIXL agent does not say whether it took the blob.
pub fn send(agent: &Agent, address: &str, regions: Option<&[Region]>) -> Result<()> {
    if is_loopback(address) {
        let blob = match regions {
            None => agent.metadata()?,
            Some(some) => agent.partial_metadata(some, true)?,
        };
        match tcp::send(address, &blob, &client()) {
            Err(e) if speaks_otherwise(&e) => {}
            other => return other.map(drop),
        }
    }
    nixl::send(address, &agent.nixl_metadata(regions), &client())
}

/// Asks the agent that listens at `address` for its metadata and loads it; returns its name.
///
/// Errors: as of [`tcp::fetch`] and [`Agent::load_metadata`].
pub fn fetch(agent: &Agent, address: &str) -> Result<String> {
    if is_loopback(address) {
        match tcp::fetch(address, DEFAULT_LABEL, &client()) {
            Err(e) if speaks_otherwise(&e) => {}
            other => return agent.load_metadata(&other?),
        }
    }
    agent.load_metadata(&nixl::fetch(address, &client())?)
}

/// Tells the agent that listens at `address` to forget `agent`.
pub fn invalidate(agent: &Agent, address: &str) -> Result<()> {
    nixl::invalidate(address, agent.name(), &client())
}

/// The listener does not know our protocol: NIXL's closes the connection.
fn speaks_otherwise(e: &Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::PeerGone | ErrorKind::PeerMisbehaved | ErrorKind::Backend
    )
}
