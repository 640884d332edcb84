//! Proof of a path: a nonce moved over it, in one direction, before anything else may use it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Link, Peer, Proof, foreign::ANOTHER_VERSION};
use crate::{
    DescList, Error, ErrorKind, Op, PathName, ProbeCard, RegionCard, RegionId, Result,
    agent::{NONCE, Shared},
    auth,
    backend::{Refused, Transfer},
    error::fail,
    inflight::{Completion, OpOwner},
    mem::Region,
    notify::Message,
    plan::{LocalList, Plan, RemoteList, Select},
    runtime::{Step, Task, deadline_after},
};

/// Pause before a path that failed its proof is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// One running probe.
pub(crate) struct Probe {
    peer: Arc<Peer>,
    link: Arc<Link>,
    path: PathName,
    op: Op,
    id: u64,
    deadline: Instant,
    /// What has to arrive; nothing in particular from a foreign peer, who published none.
    nonce: Option<[u8; NONCE]>,
    local: Region,
    local_offset: u64,
    remote_region: RegionId,
    remote_offset: u64,
    transfer: Arc<dyn Transfer>,
    /// Its result is known.
    over: AtomicBool,
    /// The backend has let go of its memory, here and at the peer.
    back: AtomicBool,
}

impl Probe {
    /// Readies a probe of `path` in direction `op`: READ fetches the nonce that the peer
    /// published, WRITE stores a fresh one and asks the peer whether it stands there.
    fn prepare(
        peer: &Arc<Peer>,
        shared: &Arc<Shared>,
        link: &Arc<Link>,
        path: PathName,
        op: Op,
    ) -> Result<Self> {
        let needs_shareable = shared.path_caps(path).is_some_and(|c| c.needs_shareable);
        let Target {
            region,
            op: moved,
            nonce,
            offset: remote_offset,
            len,
        } = match peer.is_foreign() {
            true => peer.foreign_target()?,
            false => peer.target(op, needs_shareable)?,
        };
        let (id, local_offset) = shared.probe_memory.slot();
        let local = shared.probe_memory.scratch.clone();
        let stand = match (moved, nonce) {
            (Op::Write, Some(nonce)) => nonce,
            _ => [0; NONCE],
        };
        local.write_at(local_offset, &stand)?;
        let here = DescList::dram([(local.addr() + local_offset, len)]);
        let plan = Plan::build(
            moved,
            Arc::new(LocalList::resolve(&here, &shared.regions)?),
            Select::All,
            Arc::new(RemoteList::whole(&region, remote_offset, len)),
            Select::All,
        )?;
        let transfer = link.endpoint.prepare(path, &Arc::new(plan))?;
        Ok(Self {
            peer: peer.clone(),
            link: link.clone(),
            path,
            op,
            id,
            deadline: deadline_after(peer.probe_timeout(&shared.config)),
            nonce,
            local,
            local_offset,
            remote_region: region.id,
            remote_offset,
            transfer,
            over: AtomicBool::new(false),
            back: AtomicBool::new(false),
        })
    }

    fn start(self: Arc<Self>) {
        let token = Completion::new(self.clone(), 0);
        if let Err(Refused { error, done }) = self.transfer.clone().post(token) {
            done.complete(Err(error));
        }
    }

    fn check(&self) -> Result<()> {
        let mut got = [0; NONCE];
        self.local.read_at(self.local_offset, &mut got)?;
        match &self.nonce {
            Some(nonce) if got != *nonce => Err(fail(
                ErrorKind::Backend,
                "a probe read other bytes than the peer published there: the path reaches the wrong \
                 memory",
            )),
            _ => Ok(()),
        }
    }

    fn end(self: &Arc<Self>, result: Result<()>) {
        if !self.over.swap(true, Ordering::SeqCst) {
            self.peer.forget_probe(self);
            self.peer
                .settle_proof(&self.link, self.path, self.op, result);
        }
    }

    /// Whether it may touch the peer's region `id` over `link`.
    pub(super) fn uses(&self, id: RegionId, link: &Link) -> bool {
        self.remote_region == id
            && std::ptr::eq(&*self.link, link)
            && !self.back.load(Ordering::SeqCst)
    }
}

impl OpOwner for Probe {
    fn finished(self: Arc<Self>, _: u32, result: Result<()>) {
        // Nobody knows what an abandoned probe still touches.
        let abandoned = matches!(&result, Err(e) if e.kind() == ErrorKind::Abandoned);
        self.back.store(!abandoned, Ordering::SeqCst);
        self.peer.forget_probe(&self);
        self.peer.probe_ended();
        match (result, self.op, &self.nonce) {
            (Err(e), ..) => self.end(Err(e)),
            (Ok(()), Op::Read, _) | (Ok(()), Op::Write, None) => {
                let checked = self.check();
                self.end(checked);
            }
            (Ok(()), Op::Write, Some(nonce)) => {
                let question = Message::Probe {
                    id: self.id,
                    region: self.remote_region,
                    offset: self.remote_offset,
                    nonce,
                };
                if let Err(e) = self.link.endpoint.send(question.encode()) {
                    self.end(Err(e));
                }
            }
        }
    }
}

/// What a probe moves.
struct Target {
    region: RegionCard,
    op: Op,
    nonce: Option<[u8; NONCE]>,
    offset: u64,
    len: u64,
}

impl Peer {
    fn target(&self, op: Op, shareable: bool) -> Result<Target> {
        let (card, region) = self.probe_region(shareable)?;
        let (nonce, offset) = match op {
            Op::Read => (card.nonce, 0),
            Op::Write => {
                let random: [u8; NONCE] = auth::random()?;
                let slots = region.len / NONCE as u64;
                let slot = 1 + u64::from(random[0]) % slots.saturating_sub(1).max(1);
                (random, slot * NONCE as u64)
            }
        };
        Ok(Target {
            region,
            op,
            nonce: Some(nonce),
            offset,
            len: NONCE as u64,
        })
    }

    /// A foreign agent set no memory aside for probes: some bytes of its memory are read, whatever
    /// they are, and none are written. That shows that the path works, not that it is right.
    fn foreign_target(&self) -> Result<Target> {
        let region = self.regions.any().ok_or_else(|| {
            let why = "the foreign agent's metadata names no memory yet; load some that does";
            fail(ErrorKind::Unsupported, why).with_peer(&self.name)
        })?;
        Ok(Target {
            op: Op::Read,
            nonce: None,
            offset: 0,
            len: region.len.min(NONCE as u64),
            region: (*region).clone(),
        })
    }

    fn probe_region(&self, shareable: bool) -> Result<(ProbeCard, RegionCard)> {
        let found = self.address.card.probes.iter().find_map(|probe| {
            let card = self.regions.card(probe.region)?;
            (card.shareable == shareable && card.len >= 2 * NONCE as u64)
                .then(|| (probe.clone(), card))
        });
        found.ok_or_else(|| {
            fail(
                ErrorKind::Unsupported,
                "the peer's metadata has no region to probe; load its full metadata",
            )
            .with_peer(&self.name)
        })
    }

    /// Starts a probe, unless one runs or ran. Called without locks held.
    pub(super) fn prove(self: &Arc<Self>, link: &Arc<Link>, path: PathName, op: Op) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        match Probe::prepare(self, &shared, link, path, op) {
            Err(e) => {
                self.settle_proof(link, path, op, Err(e));
            }
            Ok(probe) => {
                let probe = Arc::new(probe);
                self.state.lock().probes.push(probe.clone());
                shared.runtime.tick_by(probe.deadline);
                // Announced above, so a withdrawal is either seen here, or waits for the probe.
                if self.regions.card(probe.remote_region).is_some() {
                    probe.start();
                } else {
                    probe.finished(0, Err(withdrawn()));
                }
            }
        }
    }

    /// Starts probes of every path of every connection that has not been tried.
    pub(crate) fn prove_all(self: &Arc<Self>, op: Op) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let todo: Vec<_> = {
            let mut state = self.state.lock();
            let links: Vec<_> = state.up_links().cloned().collect();
            let mut todo = Vec::new();
            for caps in &shared.paths {
                let link = links.iter().find(|l| l.backend == caps.backend);
                if let (Some(link), false) = (link, state.proofs.contains_key(&(caps.path, op))) {
                    state.proofs.insert((caps.path, op), Proof::Running);
                    todo.push((link.clone(), caps.path));
                }
            }
            todo
        };
        for (link, path) in todo {
            self.prove(&link, path, op);
        }
    }

    pub(crate) fn is_proving(&self) -> bool {
        let state = self.state.lock();
        state.proofs.values().any(|p| matches!(p, Proof::Running))
    }

    /// Takes a probe off the list once its result is known and its memory is free.
    fn forget_probe(&self, probe: &Arc<Probe>) {
        if probe.over.load(Ordering::SeqCst) && probe.back.load(Ordering::SeqCst) {
            self.state.lock().probes.retain(|p| !Arc::ptr_eq(p, probe));
        }
    }

    /// What a probe found. That its connection broke says nothing about the path: whoever waits
    /// for it learns of the connection's end.
    fn settle_proof(
        self: &Arc<Self>,
        link: &Arc<Link>,
        path: PathName,
        op: Op,
        result: Result<()>,
    ) {
        let lost = matches!(&result, Err(e) if e.kind() == ErrorKind::PeerGone);
        if lost && let Some(shared) = self.shared.upgrade() {
            shared.runtime.spawn(Arc::new(GiveUp(link.clone())));
        } else if link.is_up() {
            let proof = match result {
                Ok(()) => Proof::Proven,
                Err(e) => {
                    let e = e.with_path(path).with_peer(&self.name);
                    tracing::info!(peer = %self.name, path, op = op.as_str(), error = %e, "path not usable");
                    Proof::Failed(e, Instant::now() + RETRY)
                }
            };
            self.state.lock().proofs.insert((path, op), proof);
        }
        // Whoever asked for the proof may hold its request's lock.
        self.advance_later();
    }

    /// The peer looked whether a WRITE probe's nonce stands in its memory.
    pub(super) fn probe_answered(self: &Arc<Self>, id: u64, ok: bool) {
        let probe = {
            let state = self.state.lock();
            state.probes.iter().find(|p| p.id == id).cloned()
        };
        if let Some(probe) = probe {
            let result = if ok {
                Ok(())
            } else {
                Err(fail(
                    ErrorKind::Backend,
                    "a probe's bytes did not arrive in the peer's memory: the path reaches the wrong \
                     memory",
                ))
            };
            probe.end(result);
        }
    }

    /// Ends probes that take too long. Their memory stays theirs until the backend lets go.
    pub(crate) fn expire_probes(self: &Arc<Self>, now: Instant) -> Option<Instant> {
        let (late, next) = {
            let state = self.state.lock();
            let open = || {
                let probes = state.probes.iter();
                probes.filter(|p| !p.over.load(Ordering::SeqCst))
            };
            let late: Vec<_> = open().filter(|p| p.deadline <= now).cloned().collect();
            let next = open().map(|p| p.deadline).min();
            (late, next)
        };
        for probe in late {
            probe.transfer.cancel();
            if self.is_foreign() {
                self.give_up_on(&probe.link, not_understood());
                probe.end(Err(not_understood()));
            } else {
                probe.end(Err(timed_out()));
            }
        }
        next
    }
}

/// Closes a connection on a thread that holds no lock of anybody's.
struct GiveUp(Arc<Link>);

impl Task for GiveUp {
    fn run(self: Arc<Self>, _: Instant) -> Step {
        self.0.give_up();
        Step::Done
    }
}

fn withdrawn() -> Error {
    fail(
        ErrorKind::NotRegistered,
        "the peer withdrew the memory that probes use",
    )
}

fn not_understood() -> Error {
    let why = format!("a first READ from it was not answered in time{ANOTHER_VERSION}");
    fail(ErrorKind::Timeout, why)
}

fn timed_out() -> Error {
    fail(
        ErrorKind::Timeout,
        "a probe of the path was not answered in time",
    )
}
