//! A loaded peer: its regions, connections, proven paths and notifications.

mod conn;
mod foreign;
mod probe;
mod regions;
mod route;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use conn::LinkHandler;
pub(crate) use conn::{Incoming, IncomingHandler};
use parking_lot::{Mutex, RwLock};
pub(crate) use probe::Probe;
pub(crate) use regions::{PeerRegions, RemoteTable};
pub(crate) use route::{Route, Way};

use crate::{
    BackendName, Error, ErrorKind, Generation, Op, PathName, RegionId, Result,
    agent::Shared,
    backend::{Endpoint, PeerAddress},
    error::fail,
    negotiate::CostBook,
    notify::{Ack, Message, Outbox},
    plan::Plan,
    request,
    telemetry::{PathSnapshot, PathStats},
};

/// An authenticated connection of ours to the peer.
pub(crate) struct Link {
    id: u64,
    backend: BackendName,
    endpoint: Arc<dyn Endpoint>,
    up: AtomicBool,
    since: Instant,
}

impl Link {
    pub(crate) fn backend(&self) -> BackendName {
        self.backend
    }

    pub(crate) fn endpoint(&self) -> &Arc<dyn Endpoint> {
        &self.endpoint
    }

    /// It failed a transfer as `PeerGone`: nobody posts here again, and its end is on its way.
    pub(crate) fn give_up(&self) {
        self.up.store(false, Ordering::Release);
        self.endpoint.close();
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }
}

/// How the connection over one backend stands.
enum LinkState {
    Connecting { since: Instant },
    Up(Arc<Link>),
    Down { why: Error, until: Instant },
}

/// What is known of one path in one direction over the present connection.
#[derive(Clone, Debug)]
enum Proof {
    Running,
    Proven,
    /// Not to be tried again before then.
    Failed(Error, Instant),
}

/// What requests on one path and direction share.
#[derive(Debug, Default)]
pub(crate) struct PathRecord {
    pub(crate) stats: PathStats,
}

pub(crate) struct Peer {
    shared: Weak<Shared>,
    pub(crate) name: Arc<str>,
    pub(crate) address: Arc<PeerAddress>,
    regions: PeerRegions,
    /// Counts withdrawals: a request looks again when it changed.
    withdrawn: AtomicU64,
    state: Mutex<State>,
    /// Outlives this record: see [`Shared::outbox`].
    pub(crate) outbox: Arc<Mutex<Outbox>>,
    /// Held by the one thread that hands notifications to a connection.
    speaking: Mutex<()>,
    records: RwLock<BTreeMap<(PathName, Op), Arc<PathRecord>>>,
    costs: Mutex<CostBook>,
    /// Some region is being given back: requests that end have to look.
    giving_back: AtomicBool,
}

struct State {
    links: BTreeMap<BackendName, LinkState>,
    failures: BTreeMap<BackendName, u32>,
    proofs: BTreeMap<(PathName, Op), Proof>,
    probes: Vec<Arc<Probe>>,
    waiting: Vec<Arc<request::Inner>>,
    /// Regions the peer withdraws, each over the link it said so on.
    revoked: Vec<(RegionId, Arc<Link>)>,
    /// The link that carries notifications now.
    speaker: Option<u64>,
    gone: Option<Error>,
    /// Classes of degradation that were warned about.
    warned: Vec<(Op, PathName)>,
}

impl Peer {
    pub(crate) fn new(shared: &Arc<Shared>, address: PeerAddress, regions: PeerRegions) -> Self {
        let outbox = shared.outbox(&address.card.name, address.card.generation);
        Self {
            shared: Arc::downgrade(shared),
            name: address.card.name.as_str().into(),
            address: Arc::new(address),
            regions,
            withdrawn: AtomicU64::new(0),
            state: Mutex::new(State {
                links: BTreeMap::new(),
                failures: BTreeMap::new(),
                proofs: BTreeMap::new(),
                probes: Vec::new(),
                waiting: Vec::new(),
                revoked: Vec::new(),
                speaker: None,
                gone: None,
                warned: Vec::new(),
            }),
            outbox,
            speaking: Mutex::new(()),
            records: RwLock::new(BTreeMap::new()),
            costs: Mutex::new(CostBook::default()),
            giving_back: AtomicBool::new(false),
        }
    }

    pub(crate) fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.upgrade()
    }

    pub(crate) fn generation(&self) -> Generation {
        self.address.card.generation
    }

    pub(crate) fn regions(&self) -> &PeerRegions {
        &self.regions
    }

    pub(crate) fn withdrawn(&self) -> u64 {
        self.withdrawn.load(Ordering::Acquire)
    }

    pub(crate) fn note_withdrawal(&self) {
        self.withdrawn.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Errors with `NotRegistered` if the peer withdrew one of these regions.
    pub(crate) fn check_regions(&self, regions: &[crate::plan::RemoteRegion]) -> Result<()> {
        match self.regions.missing(regions) {
            None => Ok(()),
            Some(r) => Err(fail(
                ErrorKind::NotRegistered,
                format!("the peer withdrew its region at {:#x}", r.addr),
            )
            .with_peer(&self.name)),
        }
    }

    pub(crate) fn check_alive(&self) -> Result<()> {
        self.state.lock().gone.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn record(&self, path: PathName, op: Op) -> Arc<PathRecord> {
        if let Some(record) = self.records.read().get(&(path, op)) {
            return record.clone();
        }
        self.records.write().entry((path, op)).or_default().clone()
    }

    pub(crate) fn snapshots(&self) -> Vec<PathSnapshot> {
        let records = self.records.read();
        let mut all: Vec<_> = records
            .iter()
            .map(|((path, op), r)| r.stats.snapshot(&self.name, path, *op))
            .collect();
        all.sort_by_key(|s| (s.path, s.op));
        all
    }

    /// Ends the peer: no new posts, connections closed, waiting requests ended with `why`.
    pub(crate) fn remove(&self, why: Error) {
        let (links, waiting) = {
            let mut state = self.state.lock();
            state.gone = Some(why.clone());
            let links: Vec<_> = state.up_links().cloned().collect();
            (links, std::mem::take(&mut state.waiting))
        };
        for request in waiting {
            request.end(Err(why.clone()));
        }
        for link in links {
            link.endpoint.close();
        }
    }

    /// Takes a request off the waiting list.
    pub(crate) fn unpark(&self, request: &Arc<request::Inner>) {
        self.state
            .lock()
            .waiting
            .retain(|r| !Arc::ptr_eq(r, request));
    }

    /// Whether some connection to the peer stands.
    pub(crate) fn is_connected(&self) -> bool {
        self.state.lock().up_links().next().is_some()
    }

    // --- notifications ---

    pub(crate) fn reserve_notification(&self, len: usize) -> Result<()> {
        let unsent = if self.is_foreign() { self.unsent() } else { 0 };
        self.outbox
            .lock()
            .reserve(len, unsent)
            .map_err(|e| e.with_peer(&self.name))
    }

    pub(crate) fn release_notification(&self, len: usize) {
        self.outbox.lock().release(len);
    }

    /// A notification with reserved room is deliverable now.
    pub(crate) fn push_notification(self: &Arc<Self>, data: &[u8]) {
        self.outbox.lock().push(data);
        if let Some(shared) = self.shared.upgrade() {
            shared.counters.sent.fetch_add(1, Ordering::Relaxed);
        }
        self.speak();
    }

    /// Hands waiting notifications to a connection; starts one where there is none. No lock is
    /// held while a backend is called, and one thread at a time speaks, so the order holds.
    pub(crate) fn speak(self: &Arc<Self>) {
        loop {
            let Some(speaking) = self.speaking.try_lock() else {
                // Whoever speaks now looks again before it stops.
                return;
            };
            while let Some(link) = self.speaker() {
                let Some(message) = self.next_message() else {
                    break;
                };
                if link.endpoint.send(message).is_err() {
                    link.give_up();
                }
            }
            drop(speaking);
            if !self.outbox.lock().is_waiting() {
                return;
            }
            if self.speaker().is_none() {
                return self.connect_somehow();
            }
        }
    }

    /// The connection that carries notifications. On another one than last time everything that
    /// was not acknowledged goes again.
    fn speaker(&self) -> Option<Arc<Link>> {
        let mut state = self.state.lock();
        if state.gone.is_some() {
            return None;
        }
        let current = state.speaker;
        let best = state
            .up_links()
            .find(|l| Some(l.id) == current)
            .or_else(|| state.up_links().next())
            .cloned()?;
        if current != Some(best.id) {
            state.speaker = Some(best.id);
            self.outbox.lock().rewind();
        }
        Some(best)
    }

    /// Notifications that found no connection look for one again.
    pub(crate) fn retry_speaking(self: &Arc<Self>) {
        if self.outbox.lock().is_waiting() {
            self.speak();
        }
    }

    pub(crate) fn acked(&self, ack: Ack) -> Result<()> {
        self.outbox.lock().acked(ack)
    }

    // --- costs ---

    pub(crate) fn measured(&self, path: PathName, plan: &Plan, nanos: u64) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        if let Some(caps) = shared.path_caps(path) {
            self.costs
                .lock()
                .record(caps, plan.op(), plan.merged(), plan.bytes(), nanos);
        }
    }

    // --- regions the peer withdraws ---

    /// The peer withdraws a region: stop using it, then answer.
    fn give_back(&self, id: RegionId, link: &Arc<Link>) {
        if let Some(table) = self.regions.told() {
            table.write().remove(id);
        }
        self.note_withdrawal();
        {
            let mut state = self.state.lock();
            let known = |(r, l): &(RegionId, Arc<Link>)| *r == id && Arc::ptr_eq(l, link);
            if !state.revoked.iter().any(known) {
                state.revoked.push((id, link.clone()));
            }
            self.giving_back.store(true, Ordering::SeqCst);
        }
        if let Some(shared) = self.shared.upgrade() {
            for request in shared.active_requests() {
                if request.uses(id, link) {
                    request.stop(fail(
                        ErrorKind::NotRegistered,
                        "the peer withdrew a region while the request was active",
                    ));
                }
            }
        }
        self.request_ended();
    }

    /// A request or probe ended: regions that nothing uses any more can be given back. What is in
    /// use stays on the list, so that whoever ends its last use finds it there.
    pub(crate) fn request_ended(&self) {
        if !self.giving_back.load(Ordering::SeqCst) {
            return;
        }
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let (pending, probes) = {
            let state = self.state.lock();
            (state.revoked.clone(), state.probes.clone())
        };
        let active = shared.active_requests();
        for (id, link) in pending {
            let used = active.iter().any(|r| r.uses(id, &link))
                || probes.iter().any(|p| p.uses(id, &link));
            if !used && self.take_revoked(id, &link) {
                link.endpoint.forget(id);
                // A closed connection needs no answer: its end is one.
                let _ = link.endpoint.send(Message::Revoked(id).encode());
            }
        }
    }

    /// As [`Peer::request_ended`], for callers that may hold a request's lock.
    fn probe_ended(self: &Arc<Self>) {
        if self.giving_back.load(Ordering::SeqCst) {
            self.advance_later();
        }
    }

    /// False if another thread was faster.
    fn take_revoked(&self, id: RegionId, link: &Arc<Link>) -> bool {
        let mut state = self.state.lock();
        let before = state.revoked.len();
        state
            .revoked
            .retain(|(r, l)| *r != id || !Arc::ptr_eq(l, link));
        self.giving_back
            .store(!state.revoked.is_empty(), Ordering::SeqCst);
        state.revoked.len() < before
    }
}

impl State {
    fn up_links(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.links.values().filter_map(|l| match l {
            LinkState::Up(link) if link.is_up() => Some(link),
            _ => None,
        })
    }
}

/// Pause before a backend that failed to connect is tried again unasked.
fn backoff(failures: u32) -> Duration {
    Duration::from_millis(100 << failures.min(8)).min(Duration::from_secs(30))
}

pub(crate) fn encode_ack(ack: Ack) -> Bytes {
    Message::Ack(ack).encode()
}
