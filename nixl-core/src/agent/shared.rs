//! What the agent, its peers, requests and connections share.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, RwLock};

use super::{AgentConfig, foreign::Faces, probe_memory::ProbeMemory};
use crate::{
    AgentCard, BackendName, ErrorKind, Generation, PathCaps, PathName, Result,
    auth::{Identity, Known, PeerIdentity},
    backend::{Backend, Conn, Endpoint, Upcalls},
    error::fail,
    flip::Flips,
    mem::RegionTable,
    notify::{Inbox, Outbox},
    peer::{Incoming, IncomingHandler, Peer},
    request::{self, Ending},
    runtime::{Runtime, Step, Task, Tick},
};

/// Longest pause between two looks at active requests: bounds how late a stall is seen.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long an acknowledgement may wait for company.
const ACK_AFTER: Duration = Duration::from_millis(10);

/// A process-wide number for connections.
pub(crate) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) degraded: AtomicU64,
}

type KeptOutbox = (Generation, Arc<Mutex<Outbox>>);

pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) config: AgentConfig,
    pub(crate) runtime: Runtime,
    pub(crate) regions: Arc<RegionTable>,
    pub(crate) backends: Vec<Arc<dyn Backend>>,
    pub(crate) paths: Vec<PathCaps>,
    pub(crate) card: AgentCard,
    pub(super) faces: Faces,
    pub(crate) probe_memory: ProbeMemory,
    pub(crate) inbox: Mutex<Inbox>,
    arrived: Condvar,
    pub(crate) counters: Counters,
    /// Copied on write: the tick walks it without allocating.
    pub(crate) peers: RwLock<Arc<HashMap<String, Arc<Peer>>>>,
    /// Of each name that was ever loaded, the last incarnation's.
    outboxes: Mutex<HashMap<String, KeptOutbox>>,
    pub(crate) incoming: Mutex<Vec<Arc<Incoming>>>,
    requests: Mutex<Vec<Weak<request::Inner>>>,
    active: AtomicUsize,
    ack_due: AtomicBool,
    pub(crate) flips: Flips,
    event: OnceLock<OwnedFd>,
    pub(crate) closed: AtomicBool,
    pub(super) sequence: AtomicU64,
    pub(crate) next_region: AtomicU64,
}

impl Shared {
    #[allow(clippy::too_many_arguments)] // assembled once, by the builder
    pub(super) fn new(
        identity: Identity,
        config: AgentConfig,
        runtime: Runtime,
        regions: Arc<RegionTable>,
        backends: Vec<Arc<dyn Backend>>,
        card: AgentCard,
        probe_memory: ProbeMemory,
        next_region: u64,
    ) -> Self {
        let paths = backends
            .iter()
            .flat_map(|b| b.paths().iter().cloned())
            .collect();
        let faces = backends
            .iter()
            .filter_map(|b| Some((b.name(), b.nixl()?)))
            .collect();
        let window = config.notification_window;
        Self {
            identity,
            config,
            runtime,
            regions,
            backends,
            paths,
            card,
            faces,
            probe_memory,
            inbox: Mutex::new(Inbox::new(window)),
            arrived: Condvar::new(),
            counters: Counters::default(),
            peers: RwLock::default(),
            outboxes: Mutex::default(),
            incoming: Mutex::new(Vec::new()),
            requests: Mutex::new(Vec::new()),
            active: AtomicUsize::new(0),
            ack_due: AtomicBool::new(false),
            flips: Flips::default(),
            event: OnceLock::new(),
            closed: AtomicBool::new(false),
            sequence: AtomicU64::new(1),
            next_region: AtomicU64::new(next_region),
        }
    }

    pub(crate) fn path_caps(&self, path: PathName) -> Option<&PathCaps> {
        self.paths.iter().find(|c| c.path == path)
    }

    pub(crate) fn all_peers(&self) -> Arc<HashMap<String, Arc<Peer>>> {
        self.peers.read().clone()
    }

    // --- requests ---

    pub(crate) fn track(&self, request: &Arc<request::Inner>) {
        let mut requests = self.requests.lock();
        if requests.len() == requests.capacity() {
            requests.retain(|r| r.strong_count() > 0);
        }
        requests.push(Arc::downgrade(request));
    }

    /// A request is being posted; make sure that its deadline, if any, is looked at.
    pub(crate) fn activated(&self, deadline: Option<Instant>) {
        self.active.fetch_add(1, Ordering::SeqCst);
        if let Some(at) = deadline {
            self.runtime.tick_by(at);
        }
    }

    pub(crate) fn deactivated(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn active_requests(&self) -> Vec<Arc<request::Inner>> {
        let requests = self.requests.lock();
        let alive = requests.iter().filter_map(Weak::upgrade);
        alive.filter(|r| r.is_active()).collect()
    }

    pub(crate) fn active_count(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    fn look_at_requests(&self, now: Instant) -> Option<Instant> {
        if self.active_count() == 0 {
            return None;
        }
        let mut next = now + LOOK_EVERY;
        let (mut i, mut dead) = (0, 0);
        loop {
            let request = match self.requests.lock().get(i) {
                None => break,
                Some(weak) => weak.upgrade(),
            };
            dead += usize::from(request.is_none());
            if let Some(Ending::Later(at)) = request.map(|r| r.look(now)) {
                next = next.min(at);
            }
            i += 1;
        }
        if dead > i / 2 {
            self.requests.lock().retain(|r| r.strong_count() > 0);
        }
        Some(next)
    }

    // --- events ---

    /// The event fd, made at the first call.
    pub(super) fn event_fd(&self) -> Result<&OwnedFd> {
        if let Some(fd) = self.event.get() {
            return Ok(fd);
        }
        let flags = rustix::event::EventfdFlags::NONBLOCK | rustix::event::EventfdFlags::CLOEXEC;
        let fd = rustix::event::eventfd(0, flags)
            .map_err(|e| crate::Error::os("eventfd (see ulimit -n)", e))?;
        Ok(self.event.get_or_init(|| fd))
    }

    /// A request ended or a notification can be taken.
    pub(crate) fn event(&self) {
        if let Some(fd) = self.event.get() {
            // Full means that it is readable already.
            let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
        }
    }

    pub(crate) fn degraded(&self) {
        self.counters.degraded.fetch_add(1, Ordering::Relaxed);
    }

    // --- notifications ---

    /// Notifications to one incarnation of a peer. The peer counts them for as long as this agent
    /// lives, so they go on where they were when it is removed and loaded again.
    pub(crate) fn outbox(&self, name: &str, generation: Generation) -> Arc<Mutex<Outbox>> {
        match self.outboxes.lock().get(name) {
            Some((known, outbox)) if *known == generation => outbox.clone(),
            _ => Arc::new(Mutex::new(Outbox::new(self.config.notification_window))),
        }
    }

    /// `peer` is loaded now, in the place of any other incarnation.
    pub(super) fn keep_outbox(&self, peer: &Peer) {
        let kept = (peer.generation(), peer.outbox.clone());
        self.outboxes.lock().insert(peer.name.to_string(), kept);
    }

    /// A notification arrived.
    pub(crate) fn notified(&self, from: &Arc<Incoming>, seq: u64, data: &[u8]) -> Result<()> {
        if !from.identity.verified && !self.config.accept_unverified {
            return Err(fail(
                ErrorKind::Unauthenticated,
                "notifications of senders that are not loaded are refused here",
            ));
        }
        let accepted = self
            .inbox
            .lock()
            .accept(&from.from, &from.identity, seq, data)?;
        if accepted.ack_now {
            from.acknowledge(self);
        } else {
            self.ack_soon();
        }
        if accepted.deliverable > 0 {
            self.notifications_arrived(accepted.deliverable as u64);
        }
        Ok(())
    }

    pub(super) fn notifications_arrived(&self, count: u64) {
        self.counters.received.fetch_add(count, Ordering::Relaxed);
        self.arrived.notify_all();
        self.event();
    }

    /// Blocks until a notification can be taken, or until `deadline`.
    pub(super) fn await_arrival(&self, deadline: Instant) {
        let mut inbox = self.inbox.lock();
        while inbox.is_empty() {
            if self.arrived.wait_until(&mut inbox, deadline).timed_out() {
                return;
            }
        }
    }

    pub(super) fn ack_soon(&self) {
        if !self.ack_due.swap(true, Ordering::AcqRel) {
            self.runtime.tick_by(Instant::now() + ACK_AFTER);
        }
    }

    pub(super) fn acknowledge_all(&self) {
        self.ack_due.store(false, Ordering::Release);
        let incoming = self.incoming.lock().clone();
        for conn in incoming {
            conn.acknowledge(self);
        }
    }

    // --- connections ---

    pub(crate) fn incoming_closed(&self, conn: &Arc<Incoming>) {
        self.incoming.lock().retain(|c| !Arc::ptr_eq(c, conn));
        // What was said over it may be lost; another connection of the peer has to say it again.
        self.inbox
            .lock()
            .reconnected(&conn.from, conn.identity.generation);
        self.ack_soon();
    }

    /// Lets `peer` look around on a thread that holds no lock of anybody's.
    pub(crate) fn later(&self, peer: Arc<Peer>) {
        self.runtime.spawn(Arc::new(Advance(peer)));
    }
}

struct Advance(Arc<Peer>);

impl Task for Advance {
    fn run(self: Arc<Self>, _: Instant) -> Step {
        self.0.advance();
        Step::Done
    }
}

impl Tick for Shared {
    fn tick(&self, now: Instant) -> Option<Instant> {
        let ending = self.flips.settle(now);
        if self.closed.load(Ordering::Acquire) {
            return ending;
        }
        let mut next = self.look_at_requests(now);
        let mut earlier = |at: Option<Instant>| {
            next = match (next, at) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        };
        earlier(ending);
        for peer in self.all_peers().values() {
            earlier(peer.expire_connects(now, peer.connect_timeout(&self.config)));
            earlier(peer.expire_probes(now));
            peer.retry_speaking();
        }
        for backend in &self.backends {
            earlier(backend.tick(now));
        }
        if self.ack_due.load(Ordering::Acquire) {
            self.acknowledge_all();
        }
        next
    }
}

/// Core's side of the backends' calls. Filled once the agent stands; peers that connect before
/// that are unknown.
pub(super) struct Hub(pub(super) OnceLock<Weak<Shared>>);

impl Hub {
    fn shared(&self) -> Option<Arc<Shared>> {
        self.0.get().and_then(Weak::upgrade)
    }
}

impl Upcalls for Hub {
    fn known(&self, name: &str, generation: Generation) -> Known {
        let Some(shared) = self.shared() else {
            return Known::No;
        };
        let peer = shared.peers.read().get(name).cloned();
        match peer {
            // A dead incarnation does not block its successor, which arrives unverified until
            // its metadata is loaded.
            Some(p) if p.generation() != generation && !p.is_connected() => Known::No,
            Some(p) => Known::Loaded(p.generation(), p.address.card.secret.clone()),
            None => Known::No,
        }
    }

    fn accepted(
        &self,
        backend: BackendName,
        peer: PeerIdentity,
        endpoint: Arc<dyn Endpoint>,
    ) -> Conn {
        let open = |shared: &Arc<Shared>| !shared.closed.load(Ordering::Acquire);
        let Some(shared) = self.shared().filter(open) else {
            endpoint.close();
            return Conn::new(Arc::new(Deaf));
        };
        let conn = Arc::new(Incoming::new(&shared, backend, peer, endpoint));
        {
            let mut inbox = shared.inbox.lock();
            if conn.identity.verified {
                inbox.replaced(&conn.from, conn.identity.generation);
            }
            inbox.reconnected(&conn.from, conn.identity.generation);
        }
        shared.incoming.lock().push(conn.clone());
        // Regions that are being withdrawn just now may be in use over this connection already.
        for id in shared.regions.withdrawn_ids() {
            conn.revoke(id);
        }
        shared.ack_soon();
        Conn::new(Arc::new(IncomingHandler(conn)))
    }

    fn foreign_message(&self, backend: BackendName, message: &[u8]) {
        if let Some(shared) = self.shared() {
            shared.foreign_notified(backend, message);
        }
    }
}

/// Handler of a connection to an agent that is gone.
struct Deaf;

impl crate::backend::ConnHandler for Deaf {
    fn message(&self, _: &[u8]) {}
    fn closed(&self, _: crate::Error) {}
}
