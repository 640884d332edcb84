//! One connection: its frames in order, its transfers, its end.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use nixl_core::{
    Error, ErrorKind, Result, auth::ClientHandshake, backend::ConnectDone, error::fail, gate::Gate,
    notify::MAX_NOTIFICATION,
};
use parking_lot::Mutex;
use ucx_sys::Version;

use super::{Engine, rma::Rma, rndv};
use crate::{
    fault::misbehaved,
    imports::Imports,
    ucp::{Endpoint, Lanes, Tally},
    wire::{Kind, Token},
    witness::{Watch, Witness},
};

/// Longest message: core's longest notification and its envelope.
const MAX_MESSAGE: usize = MAX_NOTIFICATION + (64 << 10);
/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// An agent of this library.
    Ours,
    /// An agent of NIXL's, which knows nothing of the connection.
    Nixl,
}

/// Frames that came before their turn, at most.
const MAX_EARLY: usize = 4096;

/// A connection as both core's threads and the engine's turns see it.
pub(crate) struct Conn {
    pub(crate) engine: Arc<Engine>,
    /// Its number in the engine.
    pub(super) tag: u64,
    /// The peer's name.
    pub(crate) peer: String,
    pub(super) whose: Whose,
    pub(crate) gate: Gate,
    pub(crate) imports: Imports,
    lanes: Mutex<Lanes>,
    /// Frames to be sent, in order.
    outbox: Mutex<VecDeque<(Kind, Bytes)>>,
    /// Bytes in them.
    queued: AtomicU64,
    /// The engine has it on its list of those with frames to send.
    pub(super) listed: AtomicBool,
    /// What of it is on its way.
    pub(super) tally: Arc<Tally>,
    /// Only the turn looks here.
    pub(super) inner: Mutex<Inner>,
}

/// What only the turn changes.
pub(super) struct Inner {
    pub(super) endpoint: Option<Endpoint>,
    pub(super) stage: Stage,
    /// The peer, or UCX for it, has given a sign.
    pub(super) answered: bool,
    /// The peer's name for the connection, once both are known.
    pub(super) to: Token,
    /// Ours: frames that name one of these are for this connection.
    pub(super) mine: Vec<Token>,
    /// Frames numbered so far.
    pub(super) sent: u64,
    next: u64,
    early: BTreeMap<u64, (Kind, Vec<u8>)>,
    /// Transfers that wait for remote keys.
    pub(super) waiting: Vec<Arc<Rma>>,
    pub(super) rndv: rndv::Side,
    /// Posts whose token is out.
    pub(super) posts: usize,
    /// The peer got a key to memory of ours, so it may have operations on it in flight.
    pub(super) granted: bool,
    /// Says that we may touch its memory by CMA.
    pub(super) witness: Option<Witness>,
    /// Sees whether it may touch ours; from the first grant on, where it says so.
    pub(super) watch: Option<Watch>,
    /// It was told that nothing of ours is in flight any more.
    pub(super) said_gone: bool,
    /// It said so.
    pub(super) heard_gone: bool,
}

/// How far a connection is.
pub(super) enum Stage {
    /// Client: the server's `Reply` is due.
    Hello(Box<ClientHandshake>, Dialling),
    /// Client: the server's `Welcome` is due.
    Finish(Dialling),
    /// NIXL's agent has to be reached by then.
    Reach(ConnectDone, Instant),
    /// Messages and transfers flow.
    Open,
    /// No more posts. Over when nothing of either side is in flight; own operations are ended by
    /// force at the time.
    Closing(Instant),
    /// The endpoint is gone; posts are waited for.
    Closed,
}

/// A client in the handshake.
pub(super) struct Dialling {
    pub(super) done: ConnectDone,
    pub(super) until: Instant,
    /// The peer's UCX.
    pub(super) theirs: Version,
    /// The address of its worker.
    pub(super) worker: Bytes,
}

impl Conn {
    pub(super) fn new(
        engine: Arc<Engine>,
        tag: u64,
        peer: String,
        whose: Whose,
        endpoint: Endpoint,
        stage: Stage,
    ) -> Self {
        Self {
            engine,
            tag,
            peer,
            whose,
            gate: Gate::default(),
            imports: Imports::default(),
            lanes: Mutex::default(),
            outbox: Mutex::default(),
            queued: AtomicU64::new(0),
            listed: AtomicBool::new(false),
            tally: Arc::default(),
            inner: Mutex::new(Inner {
                endpoint: Some(endpoint),
                answered: matches!(stage, Stage::Open),
                stage,
                to: Token::default(),
                mine: Vec::new(),
                sent: 0,
                next: 0,
                early: BTreeMap::new(),
                waiting: Vec::new(),
                rndv: rndv::Side::default(),
                posts: 0,
                granted: false,
                witness: None,
                watch: None,
                said_gone: false,
                heard_gone: false,
            }),
        }
    }

    /// The peer is an agent of NIXL's.
    pub(crate) fn is_foreign(&self) -> bool {
        self.whose == Whose::Nixl
    }

    /// The lanes, as they were when last looked at.
    pub(crate) fn lanes(&self) -> Lanes {
        self.lanes.lock().clone()
    }

    pub(super) fn set_lanes(&self, lanes: Lanes) {
        *self.lanes.lock() = lanes;
    }

    /// Queues a frame; the engine has to be told.
    pub(super) fn enqueue(&self, kind: Kind, body: Bytes) {
        self.queued.fetch_add(body.len() as u64, Ordering::Relaxed);
        self.outbox.lock().push_back((kind, body));
    }

    pub(super) fn next_frame(&self) -> Option<(Kind, Bytes)> {
        let frame = self.outbox.lock().pop_front()?;
        let len = frame.1.len() as u64;
        self.queued.fetch_sub(len, Ordering::Relaxed);
        Some(frame)
    }

    /// Bytes of messages that UCX has not got rid of yet.
    pub(crate) fn unsent(&self) -> u64 {
        self.queued.load(Ordering::Relaxed) + self.tally.bytes() as u64
    }

    pub(super) fn has_frames(&self) -> bool {
        !self.outbox.lock().is_empty()
    }

    /// Queues a message for core at the peer.
    pub(crate) fn send(self: &Arc<Self>, message: Bytes) -> Result<()> {
        self.gate.check()?;
        if message.len() > MAX_MESSAGE {
            return Err(fail(
                ErrorKind::ApiMisuse,
                format!(
                    "a message of {} bytes; {MAX_MESSAGE} are allowed",
                    message.len()
                ),
            ));
        }
        self.enqueue(Kind::Message, message);
        self.engine.order(super::Order::Send(self.clone()));
        Ok(())
    }

    /// Nothing of ours is under way or waits to be.
    pub(super) fn is_quiet(&self) -> bool {
        self.inner.lock().posts == 0 && !self.has_frames() && self.tally.parcels() == 0
    }

    /// Ends the connection from this side.
    pub(crate) fn close(self: &Arc<Self>, why: Error) {
        self.engine.order(super::Order::Close(self.clone(), why));
    }
}

impl Inner {
    /// The peer may still touch memory of ours by CMA, with or without a connection.
    pub(super) fn is_touched(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::is_held)
    }

    /// Takes a frame in; [`Inner::due`] gives out what is in order.
    ///
    /// Errors: `PeerMisbehaved` for a number that was there, and for too many out of order.
    pub(super) fn arrive(&mut self, number: u64, kind: Kind, body: Vec<u8>) -> Result<()> {
        if number < self.next || self.early.len() >= MAX_EARLY {
            return Err(misbehaved("frames of a connection come out of order"));
        }
        match self.early.insert(number, (kind, body)) {
            None => Ok(()),
            Some(_) => Err(misbehaved("two frames with one number")),
        }
    }

    /// The next frame in order.
    pub(super) fn due(&mut self) -> Option<(Kind, Vec<u8>)> {
        let frame = self.early.remove(&self.next)?;
        self.next += 1;
        Some(frame)
    }
}
