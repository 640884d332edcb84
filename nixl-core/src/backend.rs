//! The contract between core and a backend.
//!
//! A *backend* connects to peers and owns one or more *paths*: ways to move bytes. It is handed a
//! [`Context`] when the agent starts and from then on works on core's threads. All calls are
//! non-blocking; what takes time is reported later through [`ConnectDone`], [`Conn`] and
//! [`Completion`]. [`ConnectDone`], [`Conn::closed`] and tokens may be called from inside of a call
//! of core's, [`Conn::message`] may not.
//!
//! The contract, each line with the test of `nixl-conformance` that holds a backend to it
//! (`docs/backend-guide.md` says how to run them):
//!
//! *Bytes*
//! - A transfer moves exactly the bytes of its plan and no other: `every_byte_in_place`.
//! - A completed token means that neither code nor device touches the plan's local memory again,
//!   and for a WRITE that the bytes are visible to the target: `write_is_visible_at_completion`.
//! - A prepared transfer can be posted many times: `repost`; any number of transfers may be
//!   active, posted from any thread: `concurrent_transfers`, `several_peers`, `loopback`.
//!
//! *Tokens and ends*
//! - A token is completed exactly once, whatever happens; where the peer is gone, as `PeerGone`:
//!   `peer_dies`, `closed_midway`.
//! - [`Conn::closed`] is called exactly once for every connection, whoever ended it, after its last
//!   token and message; then it pins no region of the peer: `peer_dies`, `closed_midway`.
//! - A refused post gives the token back: `refused_posts_return_the_token`.
//! - `cancel` makes the token complete soon, as `Cancelled` or as done; the transfer and its
//!   connection can be used again: `cancel_midway`.
//! - What a path cannot do is `Unsupported` at `prepare`: `unsupported_operations`.
//!
//! *Messages*
//! - Messages arrive in order, whole, once, from the moment of connecting on, up to 16 MiB and
//!   64 KiB each, and never wait behind payload: `messages_in_order`, `messages_pass_payload`.
//!
//! *Access*
//! - The target checks key, bounds and access before memory is touched; nothing is written
//!   where the answer is no: `wrong_key`, `out_of_bounds`, `read_only_region`.
//! - A withdrawn region is out of reach: at once where revocation is `Fenced`, after
//!   [`Endpoint::forget`] where it is `Cooperative`; then nothing pins it: `revoked_region`.
//!
//! *Connecting*
//! - Both sides prove their secrets, and [`Context::accepted`] is called for nobody who did not:
//!   `connect_wrong_secret`, `connect_as_somebody_else`, `connect_as_a_stranger`.
//! - An attempt that cannot succeed fails within the connect timeout, as `PeerGone` where nobody or
//!   another generation answers: `connect_dead_address`, `connect_garbage_address`,
//!   `connect_wrong_generation`.
//! - Two agents may connect to each other at once, and again after an end: `connect_crossing`,
//!   `closed_midway`.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    AgentCard, BackendName, Error, Generation, PathCaps, PathName, RegionId, RegionKey, Result,
    auth::{Identity, Known, PeerIdentity},
    inflight::Completion,
    mem::{Access, Pin, Region, RegionTable, Registration},
    plan::Plan,
    runtime::Runtime,
};

/// One backend of one agent.
pub trait Backend: Send + Sync + 'static {
    /// Its name.
    fn name(&self) -> BackendName;

    /// Its paths, as data. Constant after `start`.
    fn paths(&self) -> &[PathCaps];

    /// Begins to accept peers; returns the address bytes for the agent card. Called once.
    fn start(&self, ctx: Context) -> Result<Bytes>;

    /// What NIXL's agents are told of it and can do with it, where they have it too. Called once,
    /// after [`Backend::start`].
    fn nixl(&self) -> Option<NixlFace> {
        None
    }

    /// Registers a region, where the backend needs that. The registration is dropped before the
    /// memory is freed.
    fn register(&self, _region: &Region) -> Result<Option<Box<dyn Registration>>> {
        Ok(None)
    }

    /// Connects to `peer`: network, authentication, everything up to being usable. Reports
    /// through `done` within its own connect timeout.
    ///
    /// To a foreign peer ([`AgentCard::foreign`]) there is no handshake: the address is what
    /// NIXL's agent said, and connected means that it could be reached at all.
    fn connect(&self, peer: Arc<PeerAddress>, done: ConnectDone);

    /// Called now and then from the progress thread; returns when it wants the next call.
    fn tick(&self, _now: Instant) -> Option<Instant> {
        None
    }

    /// Stops accepting and closes every connection. Tokens complete, soon after if not at once.
    /// May be called again, and before `start`.
    fn shutdown(&self);
}

/// A backend as NIXL's agents know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NixlFace {
    /// NIXL's name for it (`"UCX"`).
    pub name: &'static str,
    /// Connection info for NIXL's agents (UCX: the worker address). Constant: to NIXL another one
    /// is another agent. `None`: they would not understand us, so they are told nothing.
    pub conn: Option<Bytes>,
    /// The paths that a NIXL agent can be the target of.
    pub paths: Vec<PathName>,
}

/// Where and who a peer is, as its metadata said.
#[derive(Clone, Debug)]
pub struct PeerAddress {
    /// The peer's card; `card.backend(name)` has the backend's own address bytes.
    pub card: AgentCard,
}

impl PeerAddress {
    /// The peer's identity for a handshake with it.
    pub fn identity(&self) -> Identity {
        Identity {
            name: self.card.name.clone(),
            generation: self.card.generation,
            secret: self.card.secret.clone(),
        }
    }
}

/// An authenticated connection to one peer.
///
/// # Safety
///
/// The implementor keeps INV-1: a transfer made here touches its plan's local memory only between
/// a successful `post` and the completion of that post's token.
pub unsafe trait Endpoint: Send + Sync + 'static {
    /// Readies `plan` for `path`: everything that can be done once per request.
    fn prepare(&self, path: PathName, plan: &Arc<Plan>) -> Result<Arc<dyn Transfer>>;

    /// Sends a message to the peer's [`Conn`]: in order, whole, at most once; may be queued.
    /// Errors only when the connection is closed. To a foreign peer the message is a notification
    /// as NIXL puts it on the wire, at most 16 MiB and 64 KiB.
    fn send(&self, message: Bytes) -> Result<()>;

    /// Bytes of messages that wait here to leave. Asked of connections to foreign peers, who give
    /// no credit.
    fn unsent(&self) -> u64 {
        0
    }

    /// The peer withdrew a region, or no request names it any more: unmap it as soon as no
    /// transfer uses it.
    fn forget(&self, _region: RegionId) {}

    /// The lanes in use, for receipts: `"tcp/4"`, `"cma"`.
    fn describe(&self, path: PathName) -> String;

    /// Closes the connection. Every token completes once nothing touches its memory any more.
    fn close(&self);
}

/// One prepared request on one path of one endpoint.
///
/// # Safety
///
/// As [`Endpoint`].
pub unsafe trait Transfer: Send + Sync + 'static {
    /// Starts moving the bytes and returns at once (a few microseconds; a copy that takes ≤ 20 µs
    /// may run inline). Never called again before the token of the last post was completed.
    fn post(self: Arc<Self>, done: Completion) -> Result<(), Refused>;

    /// Asks for an early end. The token completes with `Cancelled` (or as it would have) as soon
    /// as no late access can land.
    fn cancel(&self);

    /// Bytes moved since the last post, for telling a stalled transfer from a slow one.
    fn moved(&self) -> u64;

    /// After a failed WRITE: whether none of its bytes can land at the target any more, so that
    /// another path may start over.
    fn fenced(&self) -> bool {
        self.moved() == 0
    }
}

/// A post that did not start: the token comes back with the reason.
pub struct Refused {
    /// Why.
    pub error: Error,
    /// The token.
    pub done: Completion,
}

/// What core gives a backend: identity, memory, threads, and a place to report to.
#[derive(Clone)]
pub struct Context {
    /// This agent.
    pub identity: Identity,
    /// Threads and reactor.
    pub runtime: Runtime,
    /// This agent's regions.
    pub regions: Arc<RegionTable>,
    pub(crate) upcalls: Arc<dyn Upcalls>,
}

/// Core's side of the calls that backends make. Tests and benches may stand in for the agent.
pub trait Upcalls: Send + Sync + 'static {
    /// What is known of `name`, for a server's handshake. `generation` is what the client claims.
    fn known(&self, name: &str, generation: Generation) -> Known;
    /// A peer connected to us.
    fn accepted(
        &self,
        backend: BackendName,
        peer: PeerIdentity,
        endpoint: Arc<dyn Endpoint>,
    ) -> Conn;
    /// A notification of a NIXL agent arrived, as NIXL puts it on the wire. Nothing proves who
    /// sent it.
    fn foreign_message(&self, _backend: BackendName, _message: &[u8]) {}
}

impl Context {
    /// A context that reports to `upcalls`.
    pub fn new(
        identity: Identity,
        runtime: Runtime,
        regions: Arc<RegionTable>,
        upcalls: Arc<dyn Upcalls>,
    ) -> Self {
        Self {
            identity,
            runtime,
            regions,
            upcalls,
        }
    }

    /// The region that a peer named, checked for key, bounds and access, and pinned.
    pub fn resolve(&self, key: &RegionKey, addr: u64, len: u64, access: Access) -> Result<Pin> {
        self.regions.resolve(key, addr, len, access)
    }

    /// What is known of a connecting agent's name.
    pub fn known(&self, name: &str, generation: Generation) -> Known {
        self.upcalls.known(name, generation)
    }

    /// Reports a peer that connected and authenticated.
    pub fn accepted(
        &self,
        backend: BackendName,
        peer: PeerIdentity,
        endpoint: Arc<dyn Endpoint>,
    ) -> Conn {
        self.upcalls.accepted(backend, peer, endpoint)
    }

    /// Reports a notification that a NIXL agent sent. In the order of arrival. Must not block.
    pub fn foreign_message(&self, backend: BackendName, message: &[u8]) {
        self.upcalls.foreign_message(backend, message);
    }
}

/// Receives what happens on one connection.
pub trait ConnHandler: Send + Sync + 'static {
    /// One whole message, in order. Must not block.
    fn message(&self, message: &[u8]);
    /// The connection ended; nothing follows.
    fn closed(&self, why: Error);
}

/// A connection as core sees it: where a backend delivers messages and the end.
#[derive(Clone)]
pub struct Conn(Arc<dyn ConnHandler>);

impl Conn {
    /// Wraps a handler.
    pub fn new(handler: Arc<dyn ConnHandler>) -> Self {
        Self(handler)
    }

    /// Delivers one message. In order: at most one thread at a time per connection.
    pub fn message(&self, message: &[u8]) {
        self.0.message(message);
    }

    /// Reports the end, once, after every token of the connection completed.
    pub fn closed(&self, why: Error) {
        self.0.closed(why);
    }
}

/// How a `connect` reports; exactly once.
#[must_use]
pub struct ConnectDone(Option<Report>);

type Report = Box<dyn FnOnce(Result<Arc<dyn Endpoint>>) -> Option<Conn> + Send>;

impl ConnectDone {
    /// Calls `report` with the result; it returns the connection's handler on success.
    pub fn new(
        report: impl FnOnce(Result<Arc<dyn Endpoint>>) -> Option<Conn> + Send + 'static,
    ) -> Self {
        Self(Some(Box::new(report)))
    }

    /// It worked. `None`: core no longer wants it; close the endpoint.
    pub fn connected(mut self, endpoint: Arc<dyn Endpoint>) -> Option<Conn> {
        self.0.take().and_then(|report| report(Ok(endpoint)))
    }

    /// It failed.
    pub fn failed(mut self, why: Error) {
        if let Some(report) = self.0.take() {
            report(Err(why));
        }
    }
}

impl Drop for ConnectDone {
    fn drop(&mut self) {
        if let Some(report) = self.0.take() {
            report(Err(crate::error::fail(
                crate::ErrorKind::Backend,
                "the backend gave up connecting without saying why",
            )));
        }
    }
}
