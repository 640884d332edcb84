//! Telling peers about this agent and learning about them.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::RwLock;

use super::{Agent, foreign};
use crate::{
    AgentCard, ErrorKind, Op, RegionCard, Result,
    backend::PeerAddress,
    error::fail,
    mem::Region,
    metadata::{self, Decoded, Foreign, Kind, Limits, Metadata, NixlEntries},
    peer::{Peer, PeerRegions, RemoteTable},
    runtime::deadline_after,
};

/// How long the end of a connection may take to be noticed.
const NOTICE: Duration = Duration::from_millis(200);

/// Names of loaded peers.
pub type Peers = Vec<String>;

impl Agent {
    /// Everything a peer needs: card and all regions. Holds this agent's secret: give it only to
    /// agents that may read and write the registered memory.
    pub fn metadata(&self) -> Result<Bytes> {
        let sequence = self.next_sequence();
        let regions = self.shared.regions.all();
        let cards = regions.iter().map(Region::card).collect();
        let nixl = self.nixl_entries(true, &regions);
        Ok(self.encode(Kind::Full, sequence, true, cards, Vec::new(), nixl))
    }

    /// Some regions, for a peer that may not have the others (`with_card`) or has the card
    /// already.
    ///
    /// Errors: `NotRegistered` for a region that is not, or no longer, registered here.
    pub fn partial_metadata(&self, regions: &[Region], with_card: bool) -> Result<Bytes> {
        let sequence = self.next_sequence();
        let has = |r: &&Region| self.shared.regions.has_key(&r.key());
        if let Some(gone) = regions.iter().find(|r| !has(r)) {
            return Err(fail(
                ErrorKind::NotRegistered,
                format!("the region at {:#x} is not registered here", gone.addr()),
            ));
        }
        let mut cards: Vec<_> = regions.iter().map(Region::card).collect();
        if with_card {
            let probed = self.shared.probe_memory.probed.iter();
            cards.extend(probed.map(|(region, _)| region.card()));
        }
        let nixl = self.nixl_entries(with_card, regions);
        Ok(self.encode(Kind::Partial, sequence, with_card, cards, Vec::new(), nixl))
    }

    /// Tells a peer that regions are gone; with no region, that this agent is going.
    pub fn withdrawal(&self, regions: &[Region]) -> Result<Bytes> {
        let sequence = self.next_sequence();
        let ids = regions.iter().map(Region::id).collect();
        let nothing = NixlEntries::default();
        Ok(self.encode(Kind::Withdraw, sequence, false, Vec::new(), ids, nothing))
    }

    /// What NIXL's own agents read of [`Agent::metadata`], of all regions or of some: keys for
    /// UCX, no secret of another path.
    pub fn nixl_metadata(&self, regions: Option<&[Region]>) -> Bytes {
        let regions = regions.map_or_else(|| self.shared.regions.all(), <[_]>::to_vec);
        let nixl = self.nixl_entries(true, &regions);
        let name = self.name().to_owned();
        metadata::encode_foreign(&Foreign { name, nixl })
    }

    /// The number of a blob. Taken before looking at what the blob tells: then a later number never
    /// tells of an earlier state.
    fn next_sequence(&self) -> u64 {
        self.shared.sequence.fetch_add(1, Ordering::AcqRel)
    }

    fn encode(
        &self,
        kind: Kind,
        sequence: u64,
        with_card: bool,
        mut regions: Vec<RegionCard>,
        withdrawn: Vec<crate::RegionId>,
        nixl: NixlEntries,
    ) -> Bytes {
        let shared = &self.shared;
        regions.retain(|r| !shared.probe_memory.is_scratch(r.id));
        regions.sort_by_key(|r| r.id);
        let metadata = Metadata {
            kind,
            name: shared.identity.name.clone(),
            generation: shared.identity.generation,
            sequence,
            card: with_card.then(|| shared.card.clone()),
            regions,
            withdrawn,
            nixl,
        };
        metadata::encode(&metadata)
    }

    fn nixl_entries(&self, with_card: bool, regions: &[Region]) -> NixlEntries {
        let shared = &self.shared;
        let told = |r: &&Region| !shared.probe_memory.is_internal(r.id());
        let regions: Vec<_> = regions.iter().filter(told).cloned().collect();
        foreign::entries(&shared.faces, with_card, &regions)
    }

    /// Loads or updates a peer from its metadata; returns its name. A blob that is not newer than
    /// what is loaded changes nothing.
    ///
    /// When the peer is loaded with another generation (it restarted), this connects to the new
    /// incarnation and waits for its answer.
    ///
    /// Errors: `Malformed` names what does not decode; `ApiMisuse` for this agent's own metadata;
    /// `NotFound` for a partial blob of an unknown peer; `NameConflict` when the loaded
    /// incarnation still answers; `PeerGone` when neither does; `Unsupported` without a common
    /// backend. For a NIXL agent's blob also `NotAllowed`: unless
    /// [`AgentConfig::foreign_metadata`](crate::AgentConfig::foreign_metadata) accepts it, or when
    /// it gives other keys to memory that is loaded.
    pub fn load_metadata(&self, blob: &[u8]) -> Result<String> {
        let decoded = metadata::decode(blob, &Limits::default())?;
        let name = match &decoded {
            Decoded::Ours(metadata) => &metadata.name,
            Decoded::Foreign(foreign) => &foreign.name,
        };
        if name == self.name() {
            return Err(fail(
                ErrorKind::ApiMisuse,
                "this is the agent's own metadata, or another agent's with the same name; an agent \
                 reaches itself by its name without loading anything",
            ));
        }
        let metadata = match decoded {
            Decoded::Ours(metadata) => metadata,
            Decoded::Foreign(foreign) => return self.load_foreign(foreign),
        };
        let name = metadata.name.clone();
        // Again whenever another thread loads the same peer meanwhile.
        loop {
            let loaded = self.shared.peers.read().get(&name).cloned();
            let installed = match loaded {
                Some(peer) if peer.generation() == metadata.generation => {
                    let leaves = metadata.ends_agent();
                    if update(&peer, metadata) && leaves {
                        self.forget_peer(&peer, "the peer took leave");
                    }
                    return Ok(name);
                }
                Some(old) => self.replace(&old, &self.new_peer(metadata.clone())?)?,
                None => self.install(&self.new_peer(metadata.clone())?, None),
            };
            if installed {
                return Ok(name);
            }
        }
    }

    pub(super) fn no_common_backend(&self, peer: &str, theirs: &str) -> crate::Error {
        let ours: Vec<_> = self.shared.backends.iter().map(|b| b.name()).collect();
        fail(
            ErrorKind::Unsupported,
            format!(
                "no common backend (peer: {theirs}; here: {}); give this agent one of the peer's, \
                 the log says why one did not load",
                ours.join(", ")
            ),
        )
        .with_peer(peer)
    }

    fn new_peer(&self, metadata: Metadata) -> Result<Arc<Peer>> {
        let Some(card) = metadata.card else {
            return Err(fail(
                ErrorKind::NotFound,
                format!(
                    "partial metadata without a card from {:?}, which is not loaded in this \
                     generation; load its full metadata first",
                    metadata.name
                ),
            ));
        };
        let common = self
            .shared
            .backends
            .iter()
            .any(|b| card.backend(b.name()).is_some());
        if !common {
            let theirs: Vec<_> = card.backends.iter().map(|b| b.backend.as_str()).collect();
            return Err(self.no_common_backend(&card.name, &theirs.join(", ")));
        }
        let mut table = RemoteTable::default();
        table.sequence = metadata.sequence;
        metadata.regions.into_iter().for_each(|r| table.insert(r));
        Ok(Arc::new(Peer::new(
            &self.shared,
            PeerAddress { card },
            PeerRegions::Told(RwLock::new(table)),
        )))
    }

    /// Puts a peer in the place of `old`; false if somebody else is there by now.
    pub(super) fn install(&self, peer: &Arc<Peer>, old: Option<&Arc<Peer>>) -> bool {
        let mut peers = self.shared.peers.write();
        let present = peers.get(&*peer.name);
        let free = present.map(Arc::as_ptr) == old.map(Arc::as_ptr);
        if free {
            self.shared.keep_outbox(peer);
            Arc::make_mut(&mut peers).insert(peer.name.to_string(), peer.clone());
        }
        free
    }

    /// Puts a new incarnation in the place of a loaded one, if it answers; false as
    /// [`Agent::install`].
    pub(super) fn replace(&self, old: &Arc<Peer>, new: &Arc<Peer>) -> Result<bool> {
        let limit = self.shared.config.connect_timeout;
        let new_answers = self.reach(new, limit).is_ok();
        // A peer that died a moment ago may look connected until its end is noticed.
        let cut_off = || !old.is_connected();
        let cut_off = self.shared.runtime.wait(deadline_after(NOTICE), cut_off);
        let old_answers = !cut_off || self.reach(old, limit).is_ok();
        let gone = |why| fail(ErrorKind::PeerGone, why).with_peer(&old.name);
        if new_answers && !old_answers {
            let installed = self.install(new, Some(old));
            if installed {
                old.remove(gone("the peer restarted and was loaded anew"));
            } else {
                new.remove(gone("it was loaded twice at once"));
            }
            return Ok(installed);
        }
        new.remove(gone("it was never loaded"));
        let (kind, text) = if old_answers {
            (
                ErrorKind::NameConflict,
                "another living agent has this name and is loaded already; stop one of the two, or \
                 remove the loaded one first",
            )
        } else {
            (
                ErrorKind::PeerGone,
                "neither the loaded incarnation nor the one in the metadata answers",
            )
        };
        Err(fail(kind, text).with_peer(&old.name))
    }

    /// Connects to a peer over every common backend, so that the first request need not wait.
    /// Returns as soon as one connection is up; the others follow by themselves.
    ///
    /// Errors: the first failure if nothing connected within `timeout`.
    pub fn connect(&self, peer: &str, timeout: Duration) -> Result<()> {
        let peer = self.peer(peer)?;
        self.reach(&peer, timeout)
    }

    fn reach(&self, peer: &Arc<Peer>, timeout: Duration) -> Result<()> {
        peer.connect_all();
        let mut outcome = None;
        let decided = || {
            outcome = peer.connect_outcome();
            outcome.is_some() || peer.is_connected()
        };
        self.shared.runtime.wait(deadline_after(timeout), decided);
        match outcome {
            Some(outcome) => outcome,
            None if peer.is_connected() => Ok(()),
            None => Err(fail(
                ErrorKind::Timeout,
                format!("the peer did not answer within {timeout:?}"),
            )
            .with_peer(&peer.name)),
        }
    }

    /// Probes every path to a peer in one direction, after all connections are up or failed, so
    /// that [`Agent::explain`] shows what works. Failures stand in the explanation.
    pub fn prove(&self, peer: &str, op: Op, timeout: Duration) -> Result<()> {
        let peer = self.peer(peer)?;
        let runtime = &self.shared.runtime;
        let until = deadline_after(timeout);
        runtime.wait(until, || peer.connect_outcome().is_some());
        peer.prove_all(op);
        runtime.wait(until, || !peer.is_proving());
        Ok(())
    }

    /// Forgets a peer: its requests end with `PeerGone`, connections close.
    pub fn remove_peer(&self, name: &str) -> Result<()> {
        if name == self.name() {
            return Err(fail(ErrorKind::ApiMisuse, "an agent cannot remove itself"));
        }
        self.forget_peer(&self.peer(name)?, "the peer was removed by the caller");
        Ok(())
    }

    fn forget_peer(&self, peer: &Arc<Peer>, why: &'static str) {
        let gone = fail(ErrorKind::PeerGone, why);
        {
            let mut peers = self.shared.peers.write();
            if peers.get(&*peer.name).is_some_and(|p| Arc::ptr_eq(p, peer)) {
                Arc::make_mut(&mut peers).remove(&*peer.name);
            }
        }
        for request in self.shared.active_requests() {
            if Arc::ptr_eq(&request.peer, peer) {
                request.stop(gone.clone());
            }
        }
        peer.remove(gone);
    }

    /// Names of loaded peers, sorted; this agent itself is not among them.
    pub fn peers(&self) -> Peers {
        let peers = self.shared.all_peers();
        let mut names: Vec<_> = peers
            .keys()
            .filter(|n| *n != self.name())
            .cloned()
            .collect();
        names.sort();
        names
    }

    /// What a loaded peer said about itself.
    pub fn peer_card(&self, name: &str) -> Result<AgentCard> {
        Ok(self.peer(name)?.address.card.clone())
    }

    // --- loopback ---

    pub(super) fn load_self(&self) {
        let regions = PeerRegions::Own(self.shared.regions.clone());
        let card = self.shared.card.clone();
        let peer = Peer::new(&self.shared, PeerAddress { card }, regions);
        self.install(&Arc::new(peer), None);
    }

    pub(super) fn note_self_withdrawal(&self) {
        if let Ok(me) = self.peer(self.name()) {
            me.note_withdrawal();
        }
    }
}

/// Brings a loaded peer up to date; false if the blob is not newer than what is loaded.
fn update(peer: &Peer, metadata: Metadata) -> bool {
    let Some(table) = peer.regions().told() else {
        return false;
    };
    let mut table = table.write();
    if metadata.sequence <= table.sequence {
        tracing::debug!(peer = %peer.name, "metadata is not newer than what is loaded");
        return false;
    }
    table.sequence = metadata.sequence;
    let mut gone = metadata.withdrawn;
    if metadata.kind == Kind::Full {
        let named: std::collections::HashSet<_> = metadata.regions.iter().map(|r| r.id).collect();
        gone.extend(table.ids().into_iter().filter(|id| !named.contains(id)));
    }
    let mut changed = false;
    for id in gone {
        changed |= table.remove(id);
    }
    metadata.regions.into_iter().for_each(|r| table.insert(r));
    drop(table);
    if changed {
        peer.note_withdrawal();
    }
    true
}
