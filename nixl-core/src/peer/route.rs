//! Finds a proven path for a request, connecting and probing as needed. Never blocks.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use super::{Link, LinkHandler, LinkState, PathRecord, Peer, Proof, State, backoff};
use crate::{
    BackendName, Error, ErrorKind, Op, PathName, Result,
    agent::Shared,
    backend::{Conn, ConnectDone, Endpoint},
    error::fail,
    negotiate::{self, Demand, Health, Mode, Negotiation},
    request,
    runtime::{deadline_after, later},
};

/// A connection that lived this long was a good one: the next failure counts as the first.
const STEADY: Duration = Duration::from_secs(5);

/// A path that is ready for a request.
pub(crate) struct Way {
    pub(crate) link: Arc<Link>,
    pub(crate) path: PathName,
    pub(crate) record: Arc<PathRecord>,
    /// The peer does the opposite operation for us.
    pub(crate) flipped: bool,
}

/// Where a request can go now.
pub(crate) enum Route {
    /// Over this path.
    Ready(Way),
    /// Nowhere yet: the peer calls `go` on the request when there is news.
    Wait,
    /// Nowhere at all.
    Fail(Error),
}

/// What has to happen before the best candidate can be used.
enum Need {
    Nothing(Arc<Link>),
    Connect,
    Prove(Arc<Link>),
    Patience,
}

impl Peer {
    /// The best path for `request` that has not failed it.
    ///
    /// With `insisted` (the backends that were reconnected for this post already), the request is
    /// put on the waiting list where the answer is `Wait`, and where nothing else is left a
    /// backend is connected again though it failed a moment ago.
    pub(crate) fn route(
        self: &Arc<Self>,
        request: &Arc<request::Inner>,
        failed: &[(PathName, Error)],
        mut insisted: Option<&mut Vec<BackendName>>,
    ) -> Route {
        let Some(shared) = self.shared.upgrade() else {
            return Route::Fail(fail(ErrorKind::PeerGone, "the agent was shut down"));
        };
        let demand = request.plan.demand();
        let (need, path, backend, flipped) = {
            let mut state = self.state.lock();
            if let Some(why) = &state.gone {
                return Route::Fail(why.clone());
            }
            let found = self.negotiate(&shared, &state, &demand);
            let best = found
                .ranked
                .iter()
                .find(|c| request.may_use(c) && !request::has_failed(failed, c.path));
            let park = insisted.is_some();
            let chosen = match best {
                Some(best) => Some((best.path, best.backend, best.flipped)),
                None => insisted
                    .as_deref_mut()
                    .and_then(|list| shared.insist(&found, failed, list)),
            };
            let Some((path, backend, flipped)) = chosen else {
                return Route::Fail(self.no_path(&found, failed));
            };
            let need = state.need(path, backend, demand.op, flipped);
            match &need {
                Need::Nothing(_) => {
                    self.warn_once(&shared, &mut state, &found, failed, path, demand.op)
                }
                Need::Connect => state.set_connecting(backend),
                Need::Prove(_) => {
                    state.proofs.insert((path, demand.op), Proof::Running);
                }
                Need::Patience => {}
            }
            if park && !matches!(need, Need::Nothing(_)) {
                state.waiting.push(request.clone());
            }
            if let (Need::Connect | Need::Patience, Some(list), true) =
                (&need, insisted, self.is_foreign())
            {
                // One that does not answer is not asked twice: whoever posts shall know soon.
                list.push(backend);
            }
            (need, path, backend, flipped)
        };
        match need {
            Need::Nothing(link) => {
                return Route::Ready(Way {
                    link,
                    path,
                    record: self.record(path, demand.op),
                    flipped,
                });
            }
            Need::Connect => self.connect_over(&shared, backend),
            Need::Prove(link) => self.prove(&link, path, demand.op),
            Need::Patience => {}
        }
        Route::Wait
    }

    /// Ranks the paths for `demand` as things stand now.
    pub(crate) fn explain(&self, shared: &Arc<Shared>, demand: &Demand) -> Negotiation {
        let state = self.state.lock();
        self.negotiate(shared, &state, demand)
    }

    fn negotiate(&self, shared: &Arc<Shared>, state: &State, demand: &Demand) -> Negotiation {
        let costs = self.costs.lock();
        let now = Instant::now();
        negotiate::negotiate(
            &shared.card,
            &shared.paths,
            &self.address.card,
            demand,
            &|caps, demand| costs.cost(caps, demand),
            &shared.config.policy,
            &|caps| state.health(caps.path, caps.backend, demand.op, now),
        )
    }

    fn no_path(&self, found: &Negotiation, failed: &[(PathName, Error)]) -> Error {
        let mut text = String::from("no path to the peer is left");
        for (path, why) in failed {
            text.push_str(&format!("; {path}: {}", why.message()));
        }
        for (path, _, why) in &found.rejected {
            text.push_str(&format!("; {path}: {why}"));
        }
        // The first thing that went wrong is the cause; what followed are attempts to mend it.
        let kind = failed.first().map(|f| f.1.kind()).unwrap_or_else(|| {
            let unreachable = found.rejected.iter().any(|r| r.2.is_unreachable());
            if unreachable {
                ErrorKind::PeerGone
            } else {
                ErrorKind::Unsupported
            }
        });
        fail(kind, text).with_peer(&self.name)
    }

    /// Says, once per path and direction, that a slower class is used than both sides have.
    fn warn_once(
        &self,
        shared: &Shared,
        state: &mut State,
        found: &Negotiation,
        failed: &[(PathName, Error)],
        path: PathName,
        op: Op,
    ) {
        if state.warned.contains(&(op, path)) {
            return;
        }
        let class = |path: PathName| shared.path_caps(path).map(|c| c.class);
        let better = failed.iter().filter(|(p, _)| class(p) < class(path));
        let mut reasons: Vec<_> = better.map(|(p, why)| format!("{p}: {why}")).collect();
        reasons.extend(negotiate::degradation(found).map(ToString::to_string));
        if reasons.is_empty() {
            return;
        }
        state.warned.push((op, path));
        shared.degraded();
        if shared.config.policy.mode != Mode::Any {
            let reasons = reasons.join("; ");
            tracing::warn!(peer = %self.name, op = op.as_str(), path, reasons, "using a slower class of path than both sides have");
        }
    }

    /// Connects over the best backend that both sides have, for a notification that must go out.
    pub(super) fn connect_somehow(self: &Arc<Self>) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let (next, again) = {
            let mut state = self.state.lock();
            let busy = state
                .links
                .values()
                .any(|l| matches!(l, LinkState::Connecting { .. }));
            let now = Instant::now();
            let next = shared.backends.iter().map(|b| b.name()).find(|name| {
                self.address.card.backend(name).is_some()
                    && match state.links.get(name) {
                        None => true,
                        Some(LinkState::Down { until, .. }) => now >= *until,
                        _ => false,
                    }
            });
            if let (false, Some(name)) = (busy, next) {
                state.set_connecting(name);
            }
            let pauses = state.links.values().filter_map(|link| match link {
                LinkState::Down { until, .. } => Some(*until),
                _ => None,
            });
            (next.filter(|_| !busy), pauses.min().filter(|_| !busy))
        };
        if let Some(backend) = next {
            self.connect_over(&shared, backend);
        } else if let Some(at) = again {
            shared.runtime.tick_by(at);
        }
    }

    /// Connects over every backend that has a path, so that the first request need not wait.
    pub(crate) fn connect_all(self: &Arc<Self>) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let todo: Vec<_> = {
            let mut state = self.state.lock();
            let names = shared.backends.iter().map(|b| b.name());
            let idle = |name: &BackendName| {
                self.address.card.backend(name).is_some()
                    && !matches!(
                        state.links.get(name),
                        Some(LinkState::Connecting { .. } | LinkState::Up(_))
                    )
            };
            let todo: Vec<_> = names.filter(idle).collect();
            todo.iter().for_each(|name| state.set_connecting(name));
            todo
        };
        for backend in todo {
            self.connect_over(&shared, backend);
        }
    }

    /// Whether every backend has connected or failed; the first failure if all failed.
    pub(crate) fn connect_outcome(&self) -> Option<Result<()>> {
        let state = self.state.lock();
        if let Some(why) = &state.gone {
            return Some(Err(why.clone()));
        }
        let mut first = None;
        for link in state.links.values() {
            match link {
                LinkState::Connecting { .. } => return None,
                LinkState::Up(_) => first = Some(Ok(())),
                LinkState::Down { why, .. } => {
                    first.get_or_insert_with(|| Err(why.clone()));
                }
            }
        }
        first.or_else(|| {
            Some(Err(fail(
                ErrorKind::Unsupported,
                "no backend in common with the peer",
            )
            .with_peer(&self.name)))
        })
    }

    /// The state says `Connecting` already.
    fn connect_over(self: &Arc<Self>, shared: &Arc<Shared>, backend: BackendName) {
        let Some(found) = shared.backends.iter().find(|b| b.name() == backend) else {
            return;
        };
        let begun = match self.state.lock().links.get(backend) {
            Some(LinkState::Connecting { since }) => *since,
            _ => return,
        };
        let peer = self.clone();
        let done = ConnectDone::new(move |result| peer.connected(backend, begun, result));
        shared
            .runtime
            .tick_by(deadline_after(self.connect_timeout(&shared.config)));
        found.connect(self.address.clone(), done);
    }

    fn connected(
        self: &Arc<Self>,
        backend: BackendName,
        begun: Instant,
        result: Result<Arc<dyn Endpoint>>,
    ) -> Option<Conn> {
        let conn = {
            let mut state = self.state.lock();
            // An attempt that took too long may end while the next one runs.
            let of_this = |link: &LinkState| matches!(link, LinkState::Connecting { since } if *since == begun);
            let wanted = state.gone.is_none() && state.links.get(backend).is_some_and(of_this);
            match result {
                Ok(endpoint) if wanted => {
                    let link = Arc::new(Link {
                        id: crate::agent::next_id(),
                        backend,
                        endpoint,
                        up: AtomicBool::new(true),
                        since: Instant::now(),
                    });
                    state.links.insert(backend, LinkState::Up(link.clone()));
                    Some(Conn::new(Arc::new(LinkHandler {
                        peer: self.clone(),
                        link,
                    })))
                }
                Ok(_) => None,
                Err(why) => {
                    if wanted {
                        state.set_down(backend, why.with_peer(&self.name));
                    }
                    None
                }
            }
        };
        self.advance_later();
        conn
    }

    /// [`Peer::advance`] on a thread that holds no lock of anybody's.
    pub(super) fn advance_later(self: &Arc<Self>) {
        if let Some(shared) = self.shared.upgrade() {
            shared.later(self.clone());
        }
    }

    /// Ends connects that take too long; a late success is closed by the backend.
    pub(crate) fn expire_connects(
        self: &Arc<Self>,
        now: Instant,
        limit: Duration,
    ) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut expired = false;
        {
            let mut state = self.state.lock();
            let late: Vec<BackendName> = state
                .links
                .iter()
                .filter_map(|(name, link)| match link {
                    LinkState::Connecting { since } if now >= later(*since, limit) => Some(*name),
                    LinkState::Connecting { since } => {
                        let at = later(*since, limit);
                        next = Some(next.map_or(at, |n| n.min(at)));
                        None
                    }
                    _ => None,
                })
                .collect();
            for name in late {
                expired = true;
                state.set_down(name, self.unanswered(name, limit));
            }
        }
        if expired {
            self.advance();
        }
        next
    }

    pub(super) fn link_closed(self: &Arc<Self>, link: &Arc<Link>, why: Error) {
        link.up.store(false, std::sync::atomic::Ordering::Release);
        {
            let mut state = self.state.lock();
            if link.since.elapsed() >= STEADY {
                state.failures.remove(link.backend);
            }
            if matches!(state.links.get(link.backend), Some(LinkState::Up(l)) if Arc::ptr_eq(l, link))
            {
                state.set_down(link.backend, why.with_peer(&self.name));
            }
            if let Some(shared) = self.shared.upgrade() {
                let mine = |path: PathName| {
                    shared
                        .path_caps(path)
                        .is_some_and(|c| c.backend == link.backend)
                };
                state.proofs.retain(|(path, _), _| !mine(path));
            }
            if state.speaker == Some(link.id) {
                state.speaker = None;
                self.outbox.lock().rewind();
            }
            state.revoked.retain(|(_, l)| !Arc::ptr_eq(l, link));
        }
        if let Some(shared) = self.shared.upgrade() {
            shared.flips.link_closed(link);
        }
        self.advance_later();
    }

    /// Something changed: whoever waits for this peer looks again.
    pub(crate) fn advance(self: &Arc<Self>) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        for request in waiting {
            request.go();
        }
        self.request_ended();
        if self.outbox.lock().is_waiting() {
            self.speak();
        }
    }
}

impl State {
    fn set_connecting(&mut self, backend: BackendName) {
        let since = Instant::now();
        self.links.insert(backend, LinkState::Connecting { since });
    }

    pub(super) fn set_down(&mut self, backend: BackendName, why: Error) {
        let failures = self.failures.entry(backend).or_insert(0);
        let until = Instant::now() + backoff(*failures);
        *failures += 1;
        tracing::debug!(backend, error = %why, "connection is down");
        self.links.insert(backend, LinkState::Down { why, until });
    }

    fn need(&self, path: PathName, backend: BackendName, op: Op, flipped: bool) -> Need {
        match self.links.get(backend) {
            // The peer proves the path before it uses it.
            Some(LinkState::Up(link)) if link.is_up() && flipped => Need::Nothing(link.clone()),
            Some(LinkState::Up(link)) if link.is_up() => match self.proofs.get(&(path, op)) {
                Some(Proof::Proven) => Need::Nothing(link.clone()),
                Some(Proof::Running) => Need::Patience,
                Some(Proof::Failed(..)) | None => Need::Prove(link.clone()),
            },
            Some(LinkState::Connecting { .. } | LinkState::Up(_)) => Need::Patience,
            Some(LinkState::Down { .. }) | None => Need::Connect,
        }
    }

    fn health(&self, path: PathName, backend: BackendName, op: Op, now: Instant) -> Health {
        if let Some(LinkState::Down { why, until }) = self.links.get(backend)
            && now < *until
        {
            return Health::ConnectFailed {
                why: why.clone(),
                retry_in: *until - now,
            };
        }
        match self.proofs.get(&(path, op)) {
            Some(Proof::Proven) => Health::Proven,
            Some(Proof::Failed(why, until)) if now < *until => Health::ProbeFailed {
                why: why.clone(),
                retry_in: *until - now,
            },
            Some(Proof::Running | Proof::Failed(..)) | None => Health::Unknown,
        }
    }
}

impl Shared {
    /// A path whose backend failed to connect a moment ago, and that was not insisted on yet.
    fn insist(
        &self,
        found: &Negotiation,
        failed: &[(PathName, Error)],
        insisted: &mut Vec<BackendName>,
    ) -> Option<(PathName, BackendName, bool)> {
        let refused = found.rejected.iter().filter(|r| r.2.is_unreachable());
        let mut paths = refused.filter_map(|r| self.path_caps(r.0));
        let caps = paths
            .find(|c| !insisted.contains(&c.backend) && !request::has_failed(failed, c.path))?;
        insisted.push(caps.backend);
        Some((caps.path, caps.backend, false))
    }
}
