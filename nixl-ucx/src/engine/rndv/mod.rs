//! Two-sided rendezvous: the initiator asks for chunks, whoever has the bytes sends them, whoever
//! wants them says where to. `docs/ucx.md` has the messages and who waits for what.

mod ask;
mod flight;
mod serve;
mod wire;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use nixl_core::{Result, plan::CHUNK_BYTES};

pub(crate) use ask::Rndv;
pub(super) use flight::Flight;
use flight::{Load, Serve, bytes};
pub(super) use wire::DataHead;
use wire::{DATA_HEAD, Name};

use super::{Conn, Engine, State, conn::Stage, mailbox::Event};
use crate::{
    fault::misbehaved,
    ucp::{Bytes, Entered, Posted, Promise, Status},
    wire::Kind,
};

/// The number of the active messages that carry data.
pub(super) const DATA: u32 = 2302;
/// Buffers that are kept for the next chunks.
const MAX_POOL: usize = 32;
/// How long a buffer of a message that was cut off is kept: what is in the sockets of a peer that
/// died may still be written to it.
const QUARANTINE: Duration = Duration::from_secs(10);
/// Chunks that are gathered or sent in one step.
const JOBS: usize = 2;

/// Data that came.
pub(super) enum Came {
    /// All of it.
    Bytes(Vec<u8>),
    /// As soon as UCX is told where to.
    Promise(Promise),
}

impl Came {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Promise(promise) => promise.len(),
        }
    }
}

/// What an engine has to do for rendezvous.
#[derive(Default)]
pub(super) struct Yard {
    /// Posts with chunks to ask for.
    asking: VecDeque<Arc<Rndv>>,
    jobs: VecDeque<Job>,
    /// Each of [`CHUNK_BYTES`].
    pool: Vec<Vec<u8>>,
    /// Buffers of messages that were cut off, and until when they are kept.
    retired: Vec<(Option<Instant>, Vec<u8>)>,
}

/// Something that copies, so it is left to a thread that has the time.
enum Job {
    /// The peer's asks of a connection.
    Serve(Arc<Conn>),
    /// A chunk of our own that the target waits for.
    Send(Arc<Rndv>, u32),
}

/// What a connection has under way.
#[derive(Default)]
pub(super) struct Side {
    last: u64,
    /// Posts of our own, by their number.
    posts: HashMap<u64, Arc<Rndv>>,
    /// Chunks of them that were asked for and are not over, and their bytes.
    asked: usize,
    asked_bytes: u64,
    /// Asks of the peer that wait for their turn.
    queue: VecDeque<Serve>,
    /// WRITEs that the peer was told to send.
    ready: HashMap<Name, Serve>,
    /// Asks of the peer that have begun.
    active: usize,
    /// Messages that UCX has.
    flights: usize,
    /// Messages that were cut off: the peer may still use their memory.
    held: Vec<Arc<Flight>>,
    /// UCX said that the peer is out of reach.
    pub(super) failed: bool,
}

impl Side {
    /// UCX has nothing of this connection.
    pub(super) fn is_quiet(&self) -> bool {
        self.flights == 0
    }
}

impl Yard {
    pub(super) fn is_idle(&self) -> bool {
        self.asking.is_empty() && self.jobs.is_empty()
    }

    fn buffer(&mut self) -> Vec<u8> {
        let pooled = self.pool.pop();
        pooled.unwrap_or_else(|| vec![0; CHUNK_BYTES as usize])
    }

    fn give_back(&mut self, buffer: Option<Vec<u8>>) {
        if self.pool.len() < MAX_POOL {
            self.pool.extend(buffer);
        }
    }

    /// Keeps a buffer that UCX may still write to: a while where the peer is `dead`, else for as
    /// long as the worker lives, since a peer that is only stopped goes on where it was.
    fn retire(&mut self, buffer: Option<Vec<u8>>, dead: bool) {
        let until = dead.then(|| Instant::now() + QUARANTINE);
        self.retired.extend(buffer.map(|buffer| (until, buffer)));
    }
}

impl Engine {
    /// A bounded amount of everything; `inline`: until when, on a thread that posts.
    pub(super) fn rendezvous(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        inline: Option<Instant>,
    ) -> bool {
        let mut any = self.ask(state, inline);
        for _ in 0..JOBS {
            if inline.is_some() {
                break;
            }
            let Some(job) = state.rndv.jobs.pop_front() else {
                break;
            };
            any = true;
            match job {
                Job::Serve(conn) => self.serve_next(state, entered, &conn),
                Job::Send(rndv, chunk) => self.send_own(state, entered, &rndv, chunk),
            }
        }
        any
    }

    /// A frame of a rendezvous.
    pub(super) fn rndv_frame(
        &self,
        state: &mut State,
        conn: &Arc<Conn>,
        kind: Kind,
        body: &[u8],
    ) -> Result<()> {
        match kind {
            Kind::Ask => self.asked(state, conn, body),
            Kind::Ready => self.told_ready(state, conn, Name::decode(body)?),
            Kind::Done => self.told_done(state, conn, Name::decode(body)?),
            Kind::Fail => {
                let (name, why) = Name::decode_failure(body)?;
                self.told_failure(state, conn, name, why);
                Ok(())
            }
            _ => Err(misbehaved("a frame of no rendezvous")),
        }
    }

    /// Data, or a promise of it. What nobody waits for any more is refused.
    pub(super) fn came(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        head: DataHead,
        came: Came,
    ) {
        let conn = state.tokens.get(&head.to).and_then(|t| state.conns.get(t));
        let Some(conn) = conn.cloned() else {
            return decline(entered, came);
        };
        let outcome = match head.yours {
            true => self.own_came(state, entered, &conn, head.name, came),
            false => self.peers_came(state, entered, &conn, head.name, came),
        };
        if let Err(why) = outcome {
            tracing::warn!(peer = conn.peer, %why, "closing a UCX connection");
            self.close(state, &conn, why);
        }
    }

    /// Begins to send a chunk: from where it is, or gathered from its blocks.
    fn send_off(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        (conn, load, name): (&Arc<Conn>, Load, Name),
        whole: Option<Bytes>,
        len: u64,
    ) {
        let mut buffer = None;
        let data = whole.unwrap_or_else(|| {
            let buffer = buffer.insert(state.rndv.buffer());
            // SAFETY: INV-2, the post's token or the pins hold what was checked against regions.
            unsafe { load.gather(buffer) };
            bytes(buffer.as_mut_ptr().expose_provenance() as u64, len)
        });
        let mut inner = conn.inner.lock();
        let head = DataHead {
            to: inner.to,
            name,
            yours: matches!(load, Load::Peers(_)),
        };
        let flight = Flight::new(conn, load, head.encode(), (len, buffer));
        self.took_off(&mut inner.rndv, &flight);
        let begun = match &inner.endpoint {
            None => Err(Status::CANCELED),
            // SAFETY: INV-1, the flight holds its header, its buffer, and the request or the pins.
            Some(endpoint) => unsafe {
                entered.send_data(endpoint, DATA, &flight.head, data, &flight)
            },
        };
        self.note(flight, begun);
    }

    /// Begins to take in what was promised: into `whole`, or into a buffer.
    fn take_in(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        (conn, load): (&Arc<Conn>, Load),
        whole: Option<Bytes>,
        promise: Promise,
    ) {
        let len = promise.len() as u64;
        let mut buffer = None;
        let into = whole.unwrap_or_else(|| {
            let buffer = buffer.insert(state.rndv.buffer());
            bytes(buffer.as_mut_ptr().expose_provenance() as u64, len)
        });
        let flight = Flight::new(conn, load, [0; DATA_HEAD], (len, buffer));
        self.took_off(&mut conn.inner.lock().rndv, &flight);
        // SAFETY: INV-1, the flight holds its buffer, or the pins of the region.
        let begun = unsafe { entered.receive(promise, into, &flight) };
        self.note(flight, begun);
    }

    fn took_off(&self, side: &mut Side, flight: &Flight) {
        side.flights += 1;
        self.flying.ops.fetch_add(1, Ordering::Relaxed);
        let bytes = flight.len as u64;
        self.flying.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn note(&self, flight: Arc<Flight>, begun: std::result::Result<Posted, Status>) {
        match begun {
            Ok(Posted::Later) => {}
            Ok(Posted::Now) => self.mailbox.push(Event::Flown(flight, Ok(()))),
            Err(status) => self.mailbox.push(Event::Flown(flight, Err(status))),
        }
    }

    /// UCX is through with a message.
    pub(super) fn flown(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        flight: &Arc<Flight>,
        result: std::result::Result<(), Status>,
    ) {
        let bytes = flight.len as u64;
        self.flying.ops.fetch_sub(1, Ordering::Relaxed);
        self.flying.bytes.fetch_sub(bytes, Ordering::Relaxed);
        let conn = &flight.conn;
        conn.inner.lock().rndv.flights -= 1;
        let why = result.map_err(|s| s.error(entered.api(), "moving a chunk by rendezvous"));
        let failed = why.clone().err();
        match &flight.load {
            Load::Own(rndv, chunk) => self.own_flown(state, rndv, *chunk, flight, why),
            Load::Peers(serve) => self.peers_flown(state, serve, flight, why.is_ok()),
        }
        match failed {
            None => {
                let buffer = flight.buffer.lock().take();
                state.rndv.give_back(buffer);
            }
            Some(why) => {
                self.hold(state, flight);
                self.close(state, conn, why);
            }
        }
        self.bid_farewell(state, conn);
    }

    /// Keeps what a message that was cut off uses until the peer cannot touch it any more.
    fn hold(&self, state: &mut State, flight: &Arc<Flight>) {
        let mut inner = flight.conn.inner.lock();
        if matches!(inner.stage, Stage::Closed) {
            let buffer = flight.buffer.lock().take();
            state.rndv.retire(buffer, inner.rndv.failed);
        } else {
            inner.rndv.held.push(flight.clone());
        }
    }

    /// The connection takes no more posts, and serves no more asks.
    pub(super) fn rndv_closing(&self, state: &mut State, conn: &Arc<Conn>) {
        {
            let side = &mut conn.inner.lock().rndv;
            side.queue.clear();
            side.active -= side.ready.drain().count();
        }
        self.rndv_look(state, conn);
    }

    /// Posts of a connection may have to end.
    pub(super) fn rndv_look(&self, state: &mut State, conn: &Arc<Conn>) {
        let posts: Vec<_> = conn.inner.lock().rndv.posts.values().cloned().collect();
        for rndv in posts {
            self.settle_rndv(state, &rndv);
        }
    }

    /// The connection is over: the peer touches nothing any more.
    pub(super) fn rndv_cut(&self, state: &mut State, conn: &Conn) {
        let (held, gone, dead) = {
            let mut inner = conn.inner.lock();
            let held = std::mem::take(&mut inner.rndv.held);
            (held, inner.heard_gone, inner.rndv.failed)
        };
        for flight in held.into_iter().filter(|_| !gone) {
            state.rndv.retire(flight.buffer.lock().take(), dead);
        }
    }

    /// Frees what was kept for long enough.
    pub(super) fn rndv_tick(&self, state: &mut State, now: Instant) {
        let due = |until: &Option<Instant>| until.is_some_and(|at| at <= now);
        state.rndv.retired.retain(|(until, _)| !due(until));
    }
}

/// Nobody wants it.
fn decline(entered: &Entered<'_>, came: Came) {
    if let Came::Promise(promise) = came {
        entered.refuse(promise);
    }
}
