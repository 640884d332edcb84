//! One authenticated connection: a control stream, data streams, and the requests on them.

use std::{
    collections::VecDeque,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{AcqRel, Acquire},
        },
    },
    time::Instant,
};

use bytes::Bytes;
use nixl_core::{
    Error, ErrorKind, PathName, Result,
    backend::{Conn, Context, Endpoint, Transfer},
    plan::Plan,
    runtime::{Readiness, Watch, WatchToken},
};
use nixl_tcp_proto::{
    InitiatorSlots, ProtocolError, Settings, TargetSlots, Xfer, put_message, put_ping,
};
use parking_lot::Mutex;

use crate::{
    config::TcpConfig,
    control::ControlStream,
    greet::Streams,
    inbound::{Inbound, Spares},
    sock,
    stream::DataStream,
    transfer::{Active, Outbound},
};

/// Bytes up to which a request is sent from the posting thread and served on the reactor's.
pub(crate) const INLINE: u64 = 64 << 10;

mod ours;
mod theirs;

pub(crate) struct Connection {
    me: Weak<Connection>,
    ctx: Context,
    config: Arc<TcpConfig>,
    peer: String,
    control: ControlStream,
    streams: Vec<Arc<DataStream>>,
    work: Mutex<Work>,
    targets: Mutex<TargetSlots<Arc<Inbound>>>,
    spares: Mutex<Spares>,
    /// Core's side, which holds this connection: let go of once it was told of the end.
    handler: Mutex<Option<Arc<Conn>>>,
    watches: Mutex<Vec<WatchToken>>,
    /// Why it was closed.
    why: OnceLock<Error>,
    closed: AtomicBool,
    /// Tokens that core waits for.
    tokens: AtomicUsize,
    next_stream: AtomicUsize,
    pinged: Mutex<Instant>,
}

/// What the data streams have to send.
struct Work {
    /// Open requests of ours; there once the peer said how many it takes.
    slots: Option<InitiatorSlots<Active>>,
    /// Posts that wait for a stream or for credit.
    pending: VecDeque<Active>,
    /// Requests with chunks to send, taken by turns.
    pushes: VecDeque<Push>,
    closed: bool,
}

enum Push {
    Write(Xfer, Active),
    Read(Arc<Inbound>),
}

/// What one stream sends next.
pub(crate) enum Job {
    /// An open frame, with the first chunk behind it if it is a WRITE.
    Open(Xfer, Active, Option<u32>),
    /// A chunk of a WRITE of ours.
    Write(Xfer, Active, u32),
    /// A chunk of a READ of the peer's.
    Read(Arc<Inbound>, u32),
}

/// What a stream does with a chunk that begins.
pub(crate) enum Receiver {
    Mine(Active),
    Theirs(Arc<Inbound>),
    Nobody,
    Wait,
}

impl Connection {
    pub(crate) fn new(
        ctx: Context,
        config: Arc<TcpConfig>,
        peer: String,
        streams: Streams,
    ) -> Arc<Self> {
        let ours = settings(&config, streams.data.len());
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            control: ControlStream::new(streams.control, ours),
            streams: streams
                .data
                .into_iter()
                .map(|fd| DataStream::new(me.clone(), ctx.runtime.clone(), fd, ours.list_bytes))
                .collect(),
            ctx,
            config,
            peer,
            work: Mutex::new(Work {
                slots: None,
                pending: VecDeque::new(),
                pushes: VecDeque::new(),
                closed: false,
            }),
            targets: Mutex::new(TargetSlots::new(ours)),
            spares: Mutex::default(),
            handler: Mutex::default(),
            watches: Mutex::default(),
            why: OnceLock::new(),
            closed: AtomicBool::new(false),
            tokens: AtomicUsize::new(0),
            next_stream: AtomicUsize::new(0),
            pinged: Mutex::new(Instant::now()),
        })
    }

    /// Begins to read, now that core has said where messages go.
    pub(crate) fn start(&self, handler: Conn) {
        *self.handler.lock() = Some(Arc::new(handler));
        let begun = self.control.start().and_then(|()| self.watch_all());
        if let Err(e) = begun {
            self.close_with(e);
        }
        self.report();
    }

    fn watch_all(&self) -> Result<()> {
        let Some(me) = self.me.upgrade() else {
            return Ok(());
        };
        let runtime = &self.ctx.runtime;
        let mut watches = self.watches.lock();
        for stream in &self.streams {
            watches.push(runtime.watch(stream.fd(), stream.clone())?);
        }
        let control: Arc<dyn Watch> = Arc::new(ControlWatch(Arc::downgrade(&me)));
        watches.push(runtime.watch(std::os::fd::AsFd::as_fd(&self.control.fd), control)?);
        if self.is_closed() {
            watches.clear();
        }
        Ok(())
    }

    pub(crate) fn context(&self) -> &Context {
        &self.ctx
    }

    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    pub(crate) fn handler(&self) -> Option<Arc<Conn>> {
        self.handler.lock().clone()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Acquire)
    }

    /// List bytes that one request may take at the peer.
    pub(crate) fn list_limit(&self) -> u32 {
        let work = self.work.lock();
        work.slots
            .as_ref()
            .map_or(nixl_tcp_proto::MAX_OPEN, InitiatorSlots::limit)
    }
}

/// The peer never has room for a request's list.
pub(crate) fn too_many_descriptors(cost: u32) -> Error {
    Error::new(
        ErrorKind::Exhausted,
        format!("the request's descriptors take {cost} bytes, more than the peer takes; split it"),
    )
}

fn settings(config: &TcpConfig, streams: usize) -> Settings {
    Settings {
        slots: config.slots,
        list_bytes: config.list_bytes,
        streams: streams as u16,
    }
}

struct ControlWatch(Weak<Connection>);

impl Watch for ControlWatch {
    fn ready(&self, readiness: Readiness) {
        if let Some(conn) = self.0.upgrade() {
            conn.control.ready(&conn, readiness);
        }
    }
}

/// Liveness and the end.
impl Connection {
    fn tell(&self, put: impl FnOnce(&mut Vec<u8>)) {
        if let Err(e) = self.control.send(put) {
            self.close_with(e);
        }
    }

    fn gone(&self) -> Error {
        self.why.get().cloned().unwrap_or_else(|| {
            Error::new(ErrorKind::PeerGone, "the connection is closed").with_peer(&self.peer)
        })
    }

    /// Sends a heartbeat and closes over cancelled WRITEs that the target does not let go of.
    /// True while there is something to look after.
    pub(crate) fn tick(&self, now: Instant) -> bool {
        if self.is_closed() {
            return false;
        }
        let busy = self.tokens.load(Acquire) > 0 || self.targets.lock().iter().next().is_some();
        if !busy {
            return false;
        }
        let mut pinged = self.pinged.lock();
        if now.saturating_duration_since(*pinged) >= self.config.heartbeat {
            *pinged = now;
            drop(pinged);
            self.tell(put_ping);
        }
        let overdue = now.checked_sub(self.config.cancel_grace).is_some_and(|t| {
            let work = self.work.lock();
            work.slots
                .as_ref()
                .is_some_and(|s| s.iter().any(|(_, a)| a.overdue(t)))
        });
        if overdue {
            self.close_with(Error::new(
                ErrorKind::PeerGone,
                "the peer did not let go of a cancelled WRITE in time; the connection was closed",
            ));
        }
        true
    }

    /// Closes the connection, once.
    pub(crate) fn close_with(&self, why: Error) {
        let why = why.with_peer(&self.peer).with_path(crate::PATH);
        let _ = self.why.set(why.clone());
        if self.closed.swap(true, AcqRel) {
            return;
        }
        tracing::debug!(peer = %self.peer, error = %why, "TCP connection closed");
        sock::shut(&self.control.fd);
        for stream in &self.streams {
            sock::shut(stream.fd());
        }
        drop(std::mem::take(&mut *self.watches.lock()));
        let (slots, pending, pushes) = {
            let mut work = self.work.lock();
            work.closed = true;
            let pending = std::mem::take(&mut work.pending);
            (work.slots.take(), pending, std::mem::take(&mut work.pushes))
        };
        drop(pushes);
        let opened = slots.iter().flat_map(|s| s.iter().map(|(_, a)| a));
        for active in opened.chain(&pending) {
            active.abandon(&why);
        }
        let empty = TargetSlots::new(settings(&self.config, self.streams.len()));
        drop(std::mem::replace(&mut *self.targets.lock(), empty));
        self.report();
    }

    /// Tells core of the end, once every token is back.
    fn report(&self) {
        if !self.is_closed() || self.tokens.load(Acquire) > 0 {
            return;
        }
        let handler = self.handler.lock().take();
        if let Some(handler) = handler {
            handler.closed(self.gone());
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        sock::shut(&self.control.fd);
        for stream in &self.streams {
            sock::shut(stream.fd());
        }
    }
}

// SAFETY: INV-1, see `Outbound`: a token completes only once its gate is closed and quiet.
unsafe impl Endpoint for Connection {
    fn prepare(&self, path: PathName, plan: &Arc<Plan>) -> Result<Arc<dyn Transfer>> {
        if path != crate::PATH {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the TCP backend has no path {path:?}"),
            ));
        }
        let me = self.me.upgrade().ok_or_else(|| self.gone())?;
        Ok(Arc::new(Outbound::new(me, plan.clone())?))
    }

    fn send(&self, message: Bytes) -> Result<()> {
        if self.is_closed() {
            return Err(self.gone());
        }
        if message.len() > nixl_tcp_proto::MAX_MESSAGE as usize {
            return Err(Error::new(
                ErrorKind::ApiMisuse,
                format!("a message of {} bytes is too long", message.len()),
            ));
        }
        // The length was checked above, so nothing is left to fail.
        self.tell(|out| put_message(out, &message).unwrap_or(()));
        Ok(())
    }

    fn describe(&self, _path: PathName) -> String {
        format!("tcp/{}", self.streams.len())
    }

    fn close(&self) {
        self.close_with(Error::new(
            ErrorKind::PeerGone,
            "the connection was closed on this side",
        ));
    }
}

/// The peer broke the protocol.
pub(crate) fn misbehaved(e: ProtocolError) -> Error {
    Error::new(ErrorKind::PeerMisbehaved, format!("TCP protocol: {e}"))
}
