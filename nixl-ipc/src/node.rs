//! One agent's presence on this host: its listener, its connections, those being made.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nixl_core::{
    Error, ErrorKind, PathCaps, PathName, Result,
    backend::{ConnectDone, Context, PeerAddress},
    error::fail,
    plan::Plan,
    runtime::{Readiness, Watch, WatchToken},
};
use parking_lot::Mutex;
use rustix::{
    io::Errno,
    net::{SocketFlags, accept_with},
};

use crate::{
    backend::IPC,
    dir::{Listener, SocketDir, check_name},
    doorbell::{Doorbell, Pump},
    fault,
    greeting::Greeting,
    link::Link,
    local::{End, LocalEndpoint},
    process::{Process, pid_namespace},
    sock,
    wire::Frame,
};

/// Connections that may be in the handshake at once.
const MAX_GREETING: usize = 64;
/// Pause before a full queue or a lack of descriptors is looked at again.
const RETRY: Duration = Duration::from_millis(20);

pub(crate) struct Node {
    pub(crate) ctx: Context,
    pub(crate) bell: Arc<Doorbell>,
    /// Inode of our PID namespace.
    pub(crate) pid_ns: u64,
    dir: PathBuf,
    paths: Vec<PathCaps>,
    inline_ns: u64,
    handshake: Duration,
    /// Watches before the socket they watch: dropped in this order.
    listening: Mutex<Option<(WatchToken, Arc<Listener>)>>,
    ringing: OnceLock<WatchToken>,
    shut: AtomicBool,
    links: Mutex<Vec<Arc<Link>>>,
    ends: Mutex<Vec<LocalEndpoint>>,
    dials: Mutex<Vec<Dial>>,
    /// The listener has to be looked at again without being told.
    accept_again: AtomicBool,
}

/// A connection whose socket is not connected yet.
struct Dial {
    peer: Arc<PeerAddress>,
    done: ConnectDone,
    deadline: Instant,
}

/// Settings that the backend passes on.
pub(crate) struct Settings {
    pub(crate) dir: PathBuf,
    pub(crate) paths: Vec<PathCaps>,
    pub(crate) inline: Duration,
    pub(crate) handshake: Duration,
}

impl Node {
    /// Begins to listen.
    pub(crate) fn start(ctx: Context, settings: Settings) -> Result<Arc<Self>> {
        let dir = SocketDir::open(&settings.dir, true)?;
        dir.sweep();
        let listener = Arc::new(dir.listen()?);
        let node = Arc::new(Self {
            bell: Arc::new(Doorbell::new()?),
            pid_ns: pid_namespace(),
            dir: settings.dir,
            paths: settings.paths,
            inline_ns: u64::try_from(settings.inline.as_nanos()).unwrap_or(u64::MAX),
            handshake: settings.handshake,
            listening: Mutex::new(None),
            ringing: OnceLock::new(),
            shut: AtomicBool::new(false),
            links: Mutex::default(),
            ends: Mutex::default(),
            dials: Mutex::default(),
            accept_again: AtomicBool::new(false),
            ctx,
        });
        let runtime = &node.ctx.runtime;
        let ringing = runtime.watch(node.bell.fd(), node.bell.clone())?;
        // Set once, here.
        let _ = node.ringing.set(ringing);
        let accept = Arc::new(Accept(Arc::downgrade(&node)));
        // In place before the first call of `Accept` can look for it.
        let mut listening = node.listening.lock();
        let token = runtime.watch(listener.socket().as_fd(), accept)?;
        *listening = Some((token, listener));
        drop(listening);
        Ok(node)
    }

    /// The listener's file name; empty after [`Node::shutdown`].
    pub(crate) fn socket_name(&self) -> String {
        self.listener()
            .map_or_else(String::new, |l| l.name().to_owned())
    }

    fn listener(&self) -> Option<Arc<Listener>> {
        self.listening.lock().as_ref().map(|(_, l)| l.clone())
    }

    /// Errors once shut down.
    pub(crate) fn check(&self) -> Result<()> {
        if self.shut.load(Ordering::Acquire) {
            return Err(shut_down());
        }
        Ok(())
    }

    /// Whether a request is small enough to be copied by whoever posts it.
    pub(crate) fn is_inline(&self, path: PathName, plan: &Plan) -> bool {
        let caps = self.paths.iter().find(|caps| caps.path == path);
        caps.is_some_and(|c| c.cost.estimate_ns(plan.merged(), plan.bytes()) <= self.inline_ns)
    }

    pub(crate) fn remove(&self, link: &Arc<Link>) {
        self.links.lock().retain(|l| !Arc::ptr_eq(l, link));
    }

    /// Keeps one end of a connection inside this process, until it closes.
    pub(crate) fn adopt_end(&self, end: LocalEndpoint) {
        self.ends.lock().push(end);
    }

    pub(crate) fn remove_end(&self, end: &End) {
        self.ends.lock().retain(|e| !e.is(end));
    }

    // --- connecting ---

    /// Connects over the Unix socket.
    pub(crate) fn dial(self: &Arc<Self>, peer: Arc<PeerAddress>, done: ConnectDone) {
        let deadline = Instant::now() + self.handshake;
        self.dials.lock().push(Dial {
            peer,
            done,
            deadline,
        });
        self.bell.ring(self.clone());
    }

    fn redial(self: &Arc<Self>) {
        let dials = std::mem::take(&mut *self.dials.lock());
        for dial in dials {
            match self.check().and_then(|()| self.connect(&dial.peer)) {
                Ok(Some(socket)) => self.greet(socket, dial),
                Ok(None) if Instant::now() < dial.deadline => self.dials.lock().push(dial),
                Ok(None) => dial.done.failed(too_slow()),
                Err(why) => dial.done.failed(why),
            }
        }
    }

    /// `None`: the peer's queue is full.
    fn connect(&self, peer: &PeerAddress) -> Result<Option<OwnedFd>> {
        let name = named_socket(peer)?;
        let dir = SocketDir::open(&self.dir, false)?;
        let socket = sock::open()?;
        Ok(dir.connect(&socket, name)?.then_some(socket))
    }

    fn greet(self: &Arc<Self>, socket: OwnedFd, dial: Dial) {
        let Dial {
            peer,
            done,
            deadline,
        } = dial;
        let me = self.ctx.identity.clone();
        let (greeting, hello) = match Greeting::client(me, peer.identity(), done) {
            Ok(both) => both,
            Err((why, done)) => return done.failed(why),
        };
        if let Some(link) = self.adopt(socket, greeting, deadline) {
            link.control(&Frame::Hello(&hello));
        }
    }

    fn adopt(
        self: &Arc<Self>,
        socket: OwnedFd,
        mut greeting: Greeting,
        deadline: Instant,
    ) -> Option<Arc<Link>> {
        let process = match Process::behind(&socket) {
            Ok(process) => process,
            Err(why) => {
                tracing::warn!(%why, "refusing a connection");
                greeting.abandon(&why);
                return None;
            }
        };
        let link = Link::new(self.clone(), socket, process, greeting, deadline);
        let link = Arc::new(link);
        self.links.lock().push(link.clone());
        link.watch();
        self.ctx.runtime.tick_by(deadline);
        Some(link)
    }

    fn accept(self: &Arc<Self>) {
        let Some(listener) = self.listener() else {
            return;
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            match accept_with(listener.socket(), flags) {
                Ok(socket) => self.take_in(socket),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(e) => {
                    if !self.accept_again.swap(true, Ordering::Relaxed) {
                        tracing::warn!(error = %fault::os("accept", e), "cannot take in a peer yet");
                    }
                    self.ctx.runtime.tick_by(Instant::now() + RETRY);
                    return;
                }
            }
        }
    }

    fn take_in(self: &Arc<Self>, socket: OwnedFd) {
        let greeting = self.links.lock().iter().filter(|l| !l.is_met()).count();
        if greeting >= MAX_GREETING {
            tracing::warn!("refusing a connection: {greeting} others are in the handshake");
            return;
        }
        self.adopt(socket, Greeting::Hello, Instant::now() + self.handshake);
    }

    // --- time ---

    /// Does what is due; returns when to be called next.
    pub(crate) fn tick(self: &Arc<Self>, now: Instant) -> Option<Instant> {
        let mut next = None;
        let mut earlier = |at: Instant| next = Some(next.map_or(at, |n: Instant| n.min(at)));
        if self.accept_again.swap(false, Ordering::Relaxed) {
            self.accept();
            if self.accept_again.load(Ordering::Relaxed) {
                earlier(now + RETRY);
            }
        }
        if !self.dials.lock().is_empty() {
            self.redial();
            earlier(now + RETRY);
        }
        for link in self.links.lock().iter().filter(|l| !l.is_met()) {
            if now >= link.deadline {
                link.shut(too_slow());
            } else {
                earlier(link.deadline);
            }
        }
        next
    }

    // --- the end ---

    /// Stops listening and closes every connection; the reactor cleans up.
    pub(crate) fn shutdown(&self) {
        self.shut.store(true, Ordering::Release);
        drop(self.listening.lock().take());
        for link in self.links.lock().clone() {
            link.shut(shut_down());
        }
        for end in self.ends.lock().clone() {
            end.shut(shut_down());
        }
    }
}

/// The socket file that a peer's card names.
pub(crate) fn named_socket(peer: &PeerAddress) -> Result<&str> {
    let card = peer.card.backend(IPC).ok_or_else(|| {
        fail(
            ErrorKind::Unsupported,
            "the peer has no ipc backend for this host",
        )
    })?;
    check_name(std::str::from_utf8(&card.address).unwrap_or(""))
}

fn shut_down() -> Error {
    fail(ErrorKind::PeerGone, "this agent shut down")
}

fn too_slow() -> Error {
    fail(
        ErrorKind::Timeout,
        "the peer did not answer on its Unix socket in time; it is stopped or overloaded",
    )
}

/// The reactor's hold on the listener.
struct Accept(Weak<Node>);

impl Watch for Accept {
    fn ready(&self, _: Readiness) {
        if let Some(node) = self.0.upgrade() {
            node.accept();
        }
    }
}

impl Pump for Node {
    fn pump(self: Arc<Self>) {
        self.redial();
    }
}
