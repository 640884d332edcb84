//! Sockets that came in: from the listener to a connection.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Weak},
    time::Instant,
};

use nixl_core::{
    Error, ErrorKind, Result,
    auth::{PeerIdentity, ServerHandshake, SessionKey, random},
    backend::Context,
    runtime::{Readiness, Watch, WatchToken},
};
use nixl_tcp_proto::GreetingKind;
use parking_lot::Mutex;
use rustix::io::Errno;

use crate::{
    NAME,
    config::TcpConfig,
    conn::{Connection, misbehaved},
    dial::Dialer,
    gate::Turn,
    greet::{CHANNEL, Greeter, Streams, is_proof, join_proof, welcome_proof},
    sock,
};

/// Sockets in the middle of a handshake; more are refused.
const MAX_GUESTS: usize = 256;
/// Connections whose data streams are still to come.
const MAX_SESSIONS: usize = 256;

/// Everything of one agent that is not a connection yet, and the list of those that are.
pub(crate) struct Lobby {
    me: Weak<Lobby>,
    pub(crate) ctx: Context,
    pub(crate) config: Arc<TcpConfig>,
    listener: OwnedFd,
    turn: Turn,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    guests: HashMap<u64, Guest>,
    sessions: HashMap<u64, Session>,
    dialers: Vec<Weak<Dialer>>,
    /// Copied on write: the tick walks it without allocating.
    conns: Arc<Vec<Weak<Connection>>>,
    listening: Option<WatchToken>,
    /// The listener has sockets that could not be accepted.
    retry: bool,
    closed: bool,
}

struct Guest {
    _watch: WatchToken,
    until: Instant,
}

/// An authenticated control stream that waits for its data streams.
struct Session {
    peer: PeerIdentity,
    key: SessionKey,
    control: OwnedFd,
    data: Vec<Option<OwnedFd>>,
    until: Instant,
}

impl Lobby {
    pub(crate) fn new(ctx: Context, config: Arc<TcpConfig>, listener: OwnedFd) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            ctx,
            config,
            listener,
            turn: Turn::default(),
            inner: Mutex::default(),
        })
    }

    /// Begins to accept.
    pub(crate) fn open(self: &Arc<Self>) -> Result<()> {
        let door = Arc::new(Door(Arc::downgrade(self)));
        let watch = self.ctx.runtime.watch(self.listener.as_fd(), door)?;
        self.inner.lock().listening = Some(watch);
        Ok(())
    }

    fn accept_all(&self) {
        while self.turn.take() {
            loop {
                match sock::accept(&self.listener) {
                    Ok(fd) => self.admit(fd),
                    // The second: the agent was shut down meanwhile, and the listener with it.
                    Err(Errno::AGAIN | Errno::INVAL) => break,
                    Err(Errno::INTR | Errno::CONNABORTED) => {}
                    Err(e) => {
                        tracing::warn!(error = %e, "cannot accept TCP connections (see ulimit -n)");
                        self.inner.lock().retry = true;
                        break;
                    }
                }
            }
            if self.turn.done() {
                return;
            }
        }
    }

    fn admit(&self, fd: OwnedFd) {
        let mut inner = self.inner.lock();
        if inner.closed || inner.guests.len() >= MAX_GUESTS {
            tracing::warn!("a TCP connection was refused: too many handshakes at once");
            return;
        }
        let id = inner.next;
        inner.next += 1;
        let until = Instant::now() + self.config.connect_timeout;
        let guest = Arc::new(Incoming {
            lobby: self.me.clone(),
            id,
            turn: Turn::default(),
            talk: Mutex::new(None),
        });
        if sock::tune(&fd).is_err() {
            return;
        }
        // Whoever finishes with the guest takes this lock first, so the entry is there by then.
        let watch = match self.ctx.runtime.watch(fd.as_fd(), guest.clone()) {
            Ok(watch) => watch,
            Err(e) => return tracing::warn!(error = %e, "cannot watch a TCP connection"),
        };
        inner.guests.insert(
            id,
            Guest {
                _watch: watch,
                until,
            },
        );
        drop(inner);
        *guest.talk.lock() = Some(Talk {
            greeter: Greeter::new(fd),
            step: Step::Begin,
        });
        guest.ready_now();
    }

    fn forget(&self, id: u64) {
        let gone = self.inner.lock().guests.remove(&id);
        drop(gone);
    }

    /// A guest proved who it is: its socket becomes the control stream of a session.
    fn begin_session(
        &self,
        mut greeter: Greeter,
        peer: PeerIdentity,
        key: SessionKey,
        streams: u8,
    ) -> Result<()> {
        let id = u64::from_le_bytes(random::<8>()?);
        let mut inner = self.inner.lock();
        if inner.closed || inner.sessions.len() >= MAX_SESSIONS {
            let why = Error::new(ErrorKind::Exhausted, "too many connections at once");
            greeter.reject(&why);
            return Err(why);
        }
        // The peer joins as soon as it knows the number: it waits for the lock then.
        greeter.say(GreetingKind::Welcome, &id.to_le_bytes())?;
        let session = Session {
            peer,
            key,
            control: greeter.into_fd(),
            data: (0..streams).map(|_| None).collect(),
            until: Instant::now() + self.config.connect_timeout,
        };
        inner.sessions.insert(id, session);
        Ok(())
    }

    /// A guest wants to be a data stream.
    fn join(&self, mut greeter: Greeter, body: &[u8]) -> Result<()> {
        let refuse = |why: &'static str| Err(Error::new(ErrorKind::Unauthenticated, why));
        let mut inner = self.inner.lock();
        let Some((id, rest)) = body.split_first_chunk::<8>() else {
            return refuse("a malformed join");
        };
        let id = u64::from_le_bytes(*id);
        let (Some((&index, proof)), Some(session)) =
            (rest.split_first(), inner.sessions.get_mut(&id))
        else {
            return refuse("no such session");
        };
        let place = session.data.get_mut(usize::from(index));
        let Some(place) = place.filter(|p| p.is_none()) else {
            return refuse("this stream is not expected");
        };
        if !is_proof(join_proof(&session.key, index), proof) {
            return refuse("the stream does not know the session's key");
        }
        let welcome = welcome_proof(&session.key, index);
        greeter.say(GreetingKind::Welcome, &welcome)?;
        *place = Some(greeter.into_fd());
        if session.data.iter().any(Option::is_none) {
            return Ok(());
        }
        let Some(session) = inner.sessions.remove(&id) else {
            return Ok(());
        };
        drop(inner);
        let streams = Streams {
            control: session.control,
            data: session.data.into_iter().flatten().collect(),
        };
        let conn = self.establish(&session.peer.name, streams)?;
        let handler = self.ctx.accepted(NAME, session.peer, conn.clone());
        conn.start(handler);
        Ok(())
    }

    /// Makes a connection of authenticated sockets and keeps an eye on it.
    pub(crate) fn establish(&self, peer: &str, streams: Streams) -> Result<Arc<Connection>> {
        sock::watch_host(&streams.control, &self.config)
            .map_err(|e| Error::os("setting options of a TCP socket", e))?;
        let config = self.config.clone();
        let conn = Connection::new(self.ctx.clone(), config, peer.to_owned(), streams);
        let mut inner = self.inner.lock();
        if inner.closed {
            drop(inner);
            return Err(Error::new(
                ErrorKind::PeerGone,
                "this agent is shutting down",
            ));
        }
        let conns = Arc::make_mut(&mut inner.conns);
        conns.retain(|c| c.strong_count() > 0);
        conns.push(Arc::downgrade(&conn));
        Ok(conn)
    }

    pub(crate) fn add_dialer(&self, dialer: &Arc<Dialer>) {
        self.inner.lock().dialers.push(Arc::downgrade(dialer));
    }

    /// Drops what takes too long, and looks after connections; when to call again.
    pub(crate) fn tick(&self, now: Instant) -> Option<Instant> {
        let (dialers, conns, expired, retry);
        {
            let mut inner = self.inner.lock();
            let late: Vec<u64> = inner
                .guests
                .iter()
                .filter_map(|(id, g)| (g.until <= now).then_some(*id))
                .collect();
            let guests: Vec<_> = late.iter().map(|id| inner.guests.remove(id)).collect();
            inner.sessions.retain(|_, s| s.until > now);
            inner.dialers.retain(|d| d.strong_count() > 0);
            if inner.conns.iter().any(|c| c.strong_count() == 0) {
                Arc::make_mut(&mut inner.conns).retain(|c| c.strong_count() > 0);
            }
            dialers = inner.dialers.clone();
            conns = inner.conns.clone();
            retry = std::mem::take(&mut inner.retry);
            expired = (guests, inner.guests.len() + inner.sessions.len());
        }
        let (guests, waiting) = expired;
        drop(guests);
        if retry {
            self.accept_all();
        }
        for dialer in dialers.iter().filter_map(Weak::upgrade) {
            dialer.tick(now);
        }
        let mut busy = false;
        for conn in conns.iter().filter_map(Weak::upgrade) {
            busy |= conn.tick(now);
        }
        let soon = waiting > 0 || !dialers.is_empty() || retry;
        let wait = match (soon, busy) {
            (true, _) => std::time::Duration::from_millis(50),
            (false, true) => self.config.heartbeat.min(self.config.cancel_grace) / 2,
            (false, false) => return None,
        };
        Some(now + wait)
    }

    /// Stops accepting and closes everything.
    pub(crate) fn close(&self) {
        let closed = {
            let mut inner = self.inner.lock();
            let taken = std::mem::take(&mut *inner);
            inner.closed = true;
            taken
        };
        // From here on the kernel refuses who knocks.
        sock::shut(&self.listener);
        for dialer in closed.dialers.iter().filter_map(Weak::upgrade) {
            dialer.give_up();
        }
        for conn in closed.conns.iter().filter_map(Weak::upgrade) {
            conn.close_with(Error::new(
                ErrorKind::PeerGone,
                "this agent is shutting down",
            ));
        }
    }
}

struct Door(Weak<Lobby>);

impl Watch for Door {
    fn ready(&self, _: Readiness) {
        if let Some(lobby) = self.0.upgrade() {
            lobby.accept_all();
        }
    }
}

/// A socket that has not proved anything yet.
struct Incoming {
    lobby: Weak<Lobby>,
    id: u64,
    turn: Turn,
    talk: Mutex<Option<Talk>>,
}

struct Talk {
    greeter: Greeter,
    step: Step,
}

enum Step {
    Begin,
    Proving(Box<ServerHandshake>),
}

impl Watch for Incoming {
    fn ready(&self, _: Readiness) {
        self.ready_now();
    }
}

impl Incoming {
    fn ready_now(&self) {
        if !self.turn.take() {
            return;
        }
        loop {
            if let Some(lobby) = self.lobby.upgrade() {
                self.advance(&lobby);
            }
            if self.turn.done() {
                return;
            }
        }
    }

    fn advance(&self, lobby: &Lobby) {
        let mut talk = self.talk.lock();
        while let Some(t) = talk.as_mut() {
            let heard = match t.greeter.hear() {
                Ok(None) => return,
                Ok(Some(heard)) => heard,
                Err(e) => {
                    tracing::debug!(error = %e, "a TCP handshake failed");
                    *talk = None;
                    return lobby.forget(self.id);
                }
            };
            let Some(t) = talk.take() else { return };
            match answer(lobby, t, heard) {
                Ok(None) => return lobby.forget(self.id),
                Ok(next) => *talk = next,
                Err(e) => {
                    tracing::warn!(error = %e, "a TCP connection was refused");
                    return lobby.forget(self.id);
                }
            }
        }
    }
}

/// Handles one frame of a guest; `None`: its socket is part of a session now.
fn answer(
    lobby: &Lobby,
    talk: Talk,
    (kind, body): (GreetingKind, Vec<u8>),
) -> Result<Option<Talk>> {
    let Talk { mut greeter, step } = talk;
    match (kind, step) {
        (GreetingKind::Hello, Step::Begin) => {
            let made = ServerHandshake::new(CHANNEL, lobby.ctx.identity.clone(), &body);
            let (handshake, reply) = made.inspect_err(|e| greeter.reject(e))?;
            greeter.say(GreetingKind::HelloReply, &reply)?;
            let step = Step::Proving(Box::new(handshake));
            Ok(Some(Talk { greeter, step }))
        }
        (GreetingKind::Finish, Step::Proving(handshake)) => {
            let proved = prove(lobby, *handshake, &body);
            let (peer, key, streams) = proved.inspect_err(|e| greeter.reject(e))?;
            lobby.begin_session(greeter, peer, key, streams)?;
            Ok(None)
        }
        (GreetingKind::Join, Step::Begin) => {
            lobby.join(greeter, &body)?;
            Ok(None)
        }
        (kind, _) => Err(misbehaved(nixl_tcp_proto::ProtocolError::BadType(
            kind as u8,
        ))),
    }
}

fn prove(
    lobby: &Lobby,
    handshake: ServerHandshake,
    body: &[u8],
) -> Result<(PeerIdentity, SessionKey, u8)> {
    let streams = body.split_last().filter(|(n, _)| (1..=16).contains(*n));
    let Some((&streams, finish)) = streams else {
        return Err(misbehaved(nixl_tcp_proto::ProtocolError::BadField(
            "streams",
        )));
    };
    let (name, generation) = handshake.claims();
    let known = lobby.ctx.known(name, generation);
    let (peer, key) = handshake.finish(finish, known)?;
    Ok((peer, key, streams))
}
