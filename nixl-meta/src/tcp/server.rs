//! The listener.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use nixl_core::{Error, ErrorKind, Result};
use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::{
    key::SharedKey,
    nixl,
    session::{FAILED, FETCH, INVALIDATE, MAGIC, OK, SEND, Session},
    wire::{Wire, resolve},
};
use crate::{DEFAULT_MAX_BLOB, MAX_NAME, deadline_after};

/// Longest error body in bytes.
pub(super) const MAX_ERROR: usize = 2048;

/// Pause after a failed accept (no descriptors left), so that the listener never spins.
const PAUSE: Duration = Duration::from_millis(100);

/// What an agent does for others. Called from a thread for each connection.
///
/// A handler that owns its [`MetaServer`] keeps itself alive for ever: give it a `Weak`.
pub trait MetaHandler: Send + Sync {
    /// This agent's blob under `label`; `NotFound` for a label it does not have.
    fn local_blob(&self, label: &str, from: &Origin) -> Result<Bytes>;

    /// Loads another agent's blob; returns that agent's name. The bytes are as they came.
    fn remote_blob(&self, blob: Bytes, from: &Origin) -> Result<String>;

    /// Forgets `agent`. Never called for a stranger (see [`Access`]).
    fn invalidate(&self, agent: &str, from: &Origin) -> Result<()>;
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Where the connection came from.
    pub addr: SocketAddr,
    /// It proved that it knows the shared key, and nobody changed the request on its way.
    pub authenticated: bool,
}

/// Who may use a listener.
#[derive(Clone, Debug)]
pub enum Access {
    /// Any process on this machine may fetch and send, nobody may invalidate. The listener
    /// refuses to bind anything but a loopback address.
    LoopbackOnly,
    /// Who knows the key may do everything, others nothing, on any address.
    Key(SharedKey),
    /// Whoever can connect may do everything, on any address.
    AllowUnauthenticated,
}

/// How to listen.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// `host:port`; port 0 takes a free one. Default: `127.0.0.1:0`.
    pub listen: String,
    /// Who may use it. Default: [`Access::LoopbackOnly`].
    pub access: Access,
    /// Largest blob in bytes, in and out. Default: 64 MiB.
    pub max_blob: usize,
    /// Connections served at once; further ones wait in the kernel's queue. Default: 16.
    pub max_connections: usize,
    /// Longest time until a client has proved itself. Default: 5 s.
    pub handshake_timeout: Duration,
    /// Longest time of a whole connection, handshake included. Default: 30 s.
    pub timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0".into(),
            access: Access::LoopbackOnly,
            max_blob: DEFAULT_MAX_BLOB,
            max_connections: 16,
            handshake_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
        }
    }
}

/// A listener and its threads: one that accepts, one for each connection. Dropping it cuts what
/// runs; [`MetaServer::stop`] lets it end.
pub struct MetaServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    config: ServerConfig,
    handler: Arc<dyn MetaHandler>,
    /// Serves those who speak NIXL's protocol.
    nixl: Option<Arc<dyn MetaHandler>>,
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes the acceptor out of poll(2).
    wake: OwnedFd,
}

#[derive(Default)]
struct State {
    stopping: bool,
    next_id: u64,
    live: HashMap<u64, Arc<TcpStream>>,
}

impl MetaServer {
    /// Binds and starts to serve.
    ///
    /// Errors: `NotAllowed` for an address beyond loopback with [`Access::LoopbackOnly`],
    /// `Backend` when the port is in use or the address is not of this machine, `NotFound` when
    /// the host name is unknown.
    pub fn start(config: ServerConfig, handler: Arc<dyn MetaHandler>) -> Result<Self> {
        Self::start_serving(config, handler, None)
    }

    /// [`MetaServer::start`], with `nixl` for connections that speak NIXL's protocol
    /// ([`super::nixl`]), which proves nothing of anybody. So whoever is served without a key on an
    /// address beyond loopback is served by `nixl` only, and gets none of what `handler` knows.
    pub fn start_for_nixl(
        config: ServerConfig,
        handler: Arc<dyn MetaHandler>,
        nixl: Arc<dyn MetaHandler>,
    ) -> Result<Self> {
        Self::start_serving(config, handler, Some(nixl))
    }

    fn start_serving(
        config: ServerConfig,
        handler: Arc<dyn MetaHandler>,
        nixl: Option<Arc<dyn MetaHandler>>,
    ) -> Result<Self> {
        let listener = bind(&config)?;
        let addr = listener
            .local_addr()
            .map_err(|e| Error::os("getsockname", e))?;
        listener
            .set_nonblocking(true)
            .map_err(|e| Error::os("make the listener non-blocking", e))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::os("eventfd", e))?;
        let shared = Arc::new(Shared {
            config,
            handler,
            nixl,
            state: Mutex::default(),
            changed: Condvar::new(),
            wake,
        });
        let acceptor = thread::Builder::new()
            .name("nixl-meta".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || accept_loop(&shared, &listener)
            })
            .map_err(|e| Error::os("start the metadata listener's thread", e))?;
        Ok(Self {
            addr,
            shared,
            acceptor: Some(acceptor),
        })
    }

    /// The address bound, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes the listener, lets running connections end for up to `grace`, then cuts them.
    /// `Timeout` when it had to cut some.
    pub fn stop(mut self, grace: Duration) -> Result<()> {
        self.close();
        let deadline = deadline_after(grace);
        let mut state = self.shared.state.lock();
        while !state.live.is_empty() {
            if self
                .shared
                .changed
                .wait_until(&mut state, deadline)
                .timed_out()
            {
                break;
            }
        }
        match state.live.len() {
            0 => Ok(()),
            n => Err(Error::new(
                ErrorKind::Timeout,
                format!("{n} metadata connections did not end in time and were cut"),
            )),
        }
    }

    fn close(&mut self) {
        self.shared.state.lock().stopping = true;
        self.shared.changed.notify_all();
        // A full counter would still wake the acceptor.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        if let Some(acceptor) = self.acceptor.take() {
            // A panic there has been printed; nothing is left to stop.
            let _ = acceptor.join();
        }
    }
}

impl Drop for MetaServer {
    fn drop(&mut self) {
        self.close();
        for stream in self.shared.state.lock().live.values() {
            // It may have closed by itself.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn bind(config: &ServerConfig) -> Result<TcpListener> {
    let listen = &config.listen;
    let found = resolve(listen, deadline_after(config.timeout))?;
    let outside = |a: &&SocketAddr| !a.ip().to_canonical().is_loopback();
    if let (Access::LoopbackOnly, Some(addr)) = (&config.access, found.iter().find(outside)) {
        return Err(Error::new(
            ErrorKind::NotAllowed,
            format!(
                "refusing to listen on {addr} without authentication: give a shared key, listen on \
                 127.0.0.1 or [::1], or allow unauthenticated access explicitly"
            ),
        ));
    }
    TcpListener::bind(&found[..]).map_err(|e| {
        let what = match e.kind() {
            io::ErrorKind::AddrInUse => {
                format!("{listen} is in use by another listener: choose another port, or 0")
            }
            _ => format!("cannot listen on {listen}: {e}"),
        };
        Error::new(ErrorKind::Backend, what)
    })
}

fn accept_loop(shared: &Arc<Shared>, listener: &TcpListener) {
    while shared.wait_for_slot() {
        match shared.accept(listener) {
            Ok(Some((stream, addr))) => shared.spawn(stream, addr),
            Ok(None) => {}
            Err(e) => {
                tracing::warn!("metadata listener: {e}");
                shared.pause();
            }
        }
    }
}

impl Shared {
    /// False once the server stops.
    fn wait_for_slot(&self) -> bool {
        let mut state = self.state.lock();
        while !state.stopping && state.live.len() >= self.config.max_connections.max(1) {
            self.changed.wait(&mut state);
        }
        !state.stopping
    }

    /// Blocks until there is a connection (`Some`) or the server stops.
    fn accept(&self, listener: &TcpListener) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        let mut fds = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(&self.wake, PollFlags::IN),
        ];
        let accepted = poll(&mut fds, None)
            .map_err(io::Error::from)
            .and_then(|_| listener.accept());
        match accepted {
            Ok(accepted) => Ok(Some(accepted)),
            // The client went away again, or a signal came.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// After a failure that may last; a connection that ends may give back what was missing.
    fn pause(&self) {
        let mut state = self.state.lock();
        if !state.stopping {
            self.changed.wait_for(&mut state, PAUSE);
        }
    }

    fn spawn(self: &Arc<Self>, stream: TcpStream, addr: SocketAddr) {
        let stream = Arc::new(stream);
        let id = {
            let mut state = self.state.lock();
            state.next_id += 1;
            let id = state.next_id;
            state.live.insert(id, Arc::clone(&stream));
            id
        };
        let slot = Slot(Arc::clone(self), id);
        let spawned = thread::Builder::new()
            .name("nixl-meta-conn".into())
            .spawn(move || {
                let shared = &slot.0;
                match serve(shared, &stream, addr) {
                    Err(e) if e.kind() == ErrorKind::Unauthenticated => tracing::warn!("{e}"),
                    Err(e) => tracing::debug!("{e}"),
                    Ok(()) => {}
                }
            });
        if let Err(e) = spawned {
            tracing::warn!("metadata listener: no thread for {addr}: {e}");
            self.pause();
        }
    }
}

/// A place among the live connections; freed however the connection ends.
struct Slot(Arc<Shared>, u64);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.state.lock().live.remove(&self.1);
        self.0.changed.notify_all();
    }
}

fn serve(shared: &Shared, stream: &TcpStream, addr: SocketAddr) -> Result<()> {
    let config = &shared.config;
    if let Some(handler) = &shared.nixl {
        let proved = deadline_after(config.handshake_timeout);
        let mut wire = Wire::new(stream, addr, proved);
        let ours = wire.peek::<1>()? == [MAGIC[0]] && wire.peek::<7>()? == MAGIC;
        if !ours || matches!(config.access, Access::AllowUnauthenticated) {
            return nixl::serve(wire, handler.as_ref(), addr, config.max_blob);
        }
    }
    serve_ours(shared, stream, addr)
}

/// Serves the one request of a connection.
fn serve_ours(shared: &Shared, stream: &TcpStream, addr: SocketAddr) -> Result<()> {
    let config = &shared.config;
    let end = deadline_after(config.timeout);
    let proved = deadline_after(config.handshake_timeout).min(end);
    let key = match &config.access {
        Access::Key(key) => Some(key),
        Access::LoopbackOnly | Access::AllowUnauthenticated => None,
    };
    let mut session = Session::accept(Wire::new(stream, addr, proved), key, config.max_blob)?;
    session.wire.deadline = end;
    let (op, body) = session.receive(|op| match op {
        FETCH | INVALIDATE => Some(MAX_NAME),
        SEND => Some(config.max_blob),
        _ => None,
    })?;
    let from = Origin {
        addr,
        authenticated: session.authenticated(),
    };
    match answer(shared, op, body, &from) {
        Ok(reply) => session.send(OK, &reply),
        Err(e) => session.send(FAILED, &error_body(&e)),
    }
}

fn answer(shared: &Shared, op: u8, body: Vec<u8>, from: &Origin) -> Result<Bytes> {
    let handler = &shared.handler;
    match op {
        FETCH => {
            let blob = handler.local_blob(text(&body)?, from)?;
            if blob.len() > shared.config.max_blob {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!(
                        "the blob has {} bytes, more than max_blob ({}) here; raise it",
                        blob.len(),
                        shared.config.max_blob
                    ),
                ));
            }
            Ok(blob)
        }
        SEND => handler.remote_blob(body.into(), from).map(Bytes::from),
        _ => {
            if matches!(shared.config.access, Access::LoopbackOnly) {
                return Err(Error::new(
                    ErrorKind::NotAllowed,
                    "invalidation needs a listener with a shared key",
                ));
            }
            handler
                .invalidate(text(&body)?, from)
                .map(|()| Bytes::new())
        }
    }
}

fn text(body: &[u8]) -> Result<&str> {
    match std::str::from_utf8(body) {
        Ok(text) if !text.is_empty() => Ok(text),
        _ => Err(Error::new(
            ErrorKind::PeerMisbehaved,
            "a name or label is empty or not UTF-8",
        )),
    }
}

fn error_body(e: &Error) -> Vec<u8> {
    let mut body = e.kind().status().to_le_bytes().to_vec();
    let text = e.message();
    body.extend(&text.as_bytes()[..text.len().min(MAX_ERROR - body.len())]);
    body
}

/// The kind that an error body begins with; `Backend` for one that has no business here.
pub(super) fn kind_of(number: &[u8]) -> ErrorKind {
    use ErrorKind as K;
    [
        K::NotFound,
        K::Malformed,
        K::NotAllowed,
        K::Unsupported,
        K::Stale,
        K::NameConflict,
        K::Unauthenticated,
        K::PeerMisbehaved,
        K::PeerGone,
        K::StillMapped,
        K::Exhausted,
        K::Timeout,
        K::ApiMisuse,
    ]
    .into_iter()
    .find(|kind| kind.status().to_le_bytes() == number)
    .unwrap_or(K::Backend)
}
