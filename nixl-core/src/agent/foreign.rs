//! NIXL's own agents as peers: what they are told, what is made of what they say.
//!
//! Their metadata has no version, sequence, secret or checksum. It is loaded only where the
//! caller vouches for it (`AgentConfig::foreign_metadata`), and it only ever adds.

use std::{collections::HashSet, sync::Arc};

use parking_lot::RwLock;
use sha2::{Digest, Sha256};

use super::{Agent, ForeignMetadata, Shared};
use crate::{
    AgentCard, BackendCard, BackendName, ErrorKind, Generation, HostId, MemKind, PathCard, Result,
    Secret, auth,
    auth::PeerIdentity,
    backend::{NixlFace, PeerAddress},
    error::fail,
    mem::Region,
    metadata::{self, Foreign, Limits, NixlEntries, NixlSection},
    peer::{Peer, PeerRegions, RemoteTable},
};

/// The backends that NIXL's agents have too.
pub(crate) type Faces = Vec<(BackendName, NixlFace)>;

/// What NIXL's agents are told: connection info where `with_card`, and `regions`. Those that peers
/// may only read are left out, for NIXL has no word for that; its agents would write.
pub(super) fn entries(faces: &Faces, with_card: bool, regions: &[Region]) -> NixlEntries {
    let mut entries = NixlEntries::default();
    for (backend, face) in faces {
        let Some(conn) = &face.conn else { continue };
        if with_card {
            entries.conns.push((face.name.to_owned(), conn.clone()));
        }
        for kind in [MemKind::Dram, MemKind::Vram] {
            let section = section(backend, face, kind, regions);
            entries.sections.extend(section);
        }
    }
    entries
}

/// NIXL's loader takes no empty section and no second key for a span.
fn section(
    backend: BackendName,
    face: &NixlFace,
    kind: MemKind,
    regions: &[Region],
) -> Option<NixlSection> {
    let ours = regions.iter().filter(|r| r.span().kind == kind);
    let mut descs: Vec<_> = ours
        .filter(|r| r.is_writable())
        .filter_map(|r| Some((r.addr(), r.len(), r.span().dev, r.nixl(backend)?)))
        .collect();
    descs.sort_by_key(|(addr, len, dev, _)| (*dev, *addr, *len));
    descs.dedup_by_key(|(addr, len, dev, _)| (*dev, *addr, *len));
    (!descs.is_empty()).then(|| NixlSection {
        backend: face.name.to_owned(),
        kind,
        descs,
    })
}

impl Agent {
    /// Loads what a NIXL agent said, or adds to what is loaded of it.
    pub(super) fn load_foreign(&self, foreign: Foreign) -> Result<String> {
        self.check_welcome(&foreign)?;
        let generation = generation(&self.shared.faces, &foreign);
        loop {
            let loaded = self.shared.peers.read().get(&foreign.name).cloned();
            let installed = match (loaded, generation) {
                (Some(peer), _) if !peer.is_foreign() => return Err(name_is_ours(&foreign.name)),
                (Some(peer), None) => return self.add_foreign(&peer, &foreign),
                (Some(peer), Some(g)) if peer.generation() == g => {
                    return self.add_foreign(&peer, &foreign);
                }
                (None, None) => return Err(no_conns(&foreign.name)),
                (Some(old), Some(g)) => self.replace(&old, &self.foreign_peer(&foreign, g)?)?,
                (None, Some(g)) => self.install(&self.foreign_peer(&foreign, g)?, None),
            };
            if installed {
                return Ok(foreign.name);
            }
        }
    }

    fn check_welcome(&self, foreign: &Foreign) -> Result<()> {
        if self.shared.config.foreign_metadata == ForeignMetadata::Refuse {
            return Err(fail(
                ErrorKind::NotAllowed,
                "this is metadata of a NIXL agent, which proves nothing about its sender; set \
                 foreign_metadata to accept if you vouch for where it comes from",
            )
            .with_peer(&foreign.name));
        }
        let faces = &self.shared.faces;
        let has = |name: &str| faces.iter().any(|(_, face)| face.name == name);
        let theirs: Vec<_> = names(&foreign.nixl).collect();
        if !faces.is_empty() && (theirs.is_empty() || theirs.iter().any(|name| has(name))) {
            return Ok(());
        }
        let theirs = match &theirs[..] {
            [] => "none named".to_owned(),
            names => names.join(", "),
        };
        Err(self.no_common_backend(&foreign.name, &theirs))
    }

    fn foreign_peer(&self, foreign: &Foreign, generation: Generation) -> Result<Arc<Peer>> {
        let faces = &self.shared.faces;
        let mut table = RemoteTable::default();
        table.add_foreign(faces, &foreign.nixl.sections, Limits::default().max_regions)?;
        let card = AgentCard {
            name: foreign.name.clone(),
            generation,
            // Nobody has it, so nobody connects to us under this name.
            secret: Secret(auth::random()?),
            host: HostId::default(),
            // It does not say; the proof shows whether somebody serves us.
            progresses: true,
            backends: backend_cards(&self.shared, &foreign.nixl),
            probes: Vec::new(),
            foreign: true,
        };
        tracing::info!(peer = %card.name, generation = %generation, "loaded the metadata of a foreign (NIXL) agent");
        Ok(Arc::new(Peer::new(
            &self.shared,
            PeerAddress { card },
            PeerRegions::Told(RwLock::new(table)),
        )))
    }

    fn add_foreign(&self, peer: &Arc<Peer>, foreign: &Foreign) -> Result<String> {
        let (faces, sections) = (&self.shared.faces, &foreign.nixl.sections);
        if let Some(table) = peer.regions().told() {
            let most = Limits::default().max_regions;
            let added = table.write().add_foreign(faces, sections, most);
            if added.map_err(|e| e.with_peer(&peer.name))? {
                // What had nothing to be proven with may have now.
                peer.retry_proofs();
            }
        }
        Ok(foreign.name.clone())
    }
}

/// Every backend that the entries name, once.
fn names(entries: &NixlEntries) -> impl Iterator<Item = &str> {
    let conns = entries.conns.iter().map(|(name, _)| name.as_str());
    let sections = entries.sections.iter().map(|s| s.backend.as_str());
    let mut seen = HashSet::new();
    conns.chain(sections).filter(move |name| seen.insert(*name))
}

/// The incarnation: NIXL has no number for it, but another connection info is another agent.
fn generation(faces: &Faces, foreign: &Foreign) -> Option<Generation> {
    let mut hash = Sha256::new();
    let mut any = false;
    for (_, face) in faces {
        let mut conns = foreign.nixl.conns.iter();
        if let Some((name, info)) = conns.find(|(name, _)| name == face.name) {
            any = true;
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update((info.len() as u64).to_le_bytes());
            hash.update(info);
        }
    }
    let first = hash.finalize().first_chunk::<8>().copied()?;
    any.then(|| Generation(u64::from_le_bytes(first)))
}

/// The common backends as if the agent had told us of them in our way.
fn backend_cards(shared: &Shared, entries: &NixlEntries) -> Vec<BackendCard> {
    let card = |(backend, face): &(BackendName, NixlFace)| {
        let mut conns = entries.conns.iter();
        let (_, info) = conns.find(|(name, _)| name == face.name)?;
        let caps = face.paths.iter().filter_map(|path| shared.path_caps(path));
        let paths = caps.map(|caps| PathCard {
            path: caps.path.to_owned(),
            wire_min: *caps.wire.start(),
            wire_max: *caps.wire.end(),
        });
        Some(BackendCard {
            backend: (*backend).to_owned(),
            address: info.clone(),
            paths: paths.collect(),
        })
    };
    shared.faces.iter().filter_map(card).collect()
}

fn name_is_ours(name: &str) -> crate::Error {
    fail(
        ErrorKind::NameConflict,
        "an agent of this library is loaded under this name, and metadata of a NIXL agent proves \
         nothing; remove the loaded peer first",
    )
    .with_peer(name)
}

fn no_conns(name: &str) -> crate::Error {
    fail(
        ErrorKind::NotFound,
        "partial metadata without connection info of a NIXL agent that is not loaded; load its full \
         metadata, or partial metadata that includes the connection info",
    )
    .with_peer(name)
}

impl Shared {
    /// A notification of a NIXL agent arrived. Its name is a claim: it may not be that of a peer who
    /// proves it.
    pub(super) fn foreign_notified(&self, backend: BackendName, message: &[u8]) {
        match self.take_foreign(message) {
            Ok(()) => self.notifications_arrived(1),
            Err(error) => {
                tracing::warn!(backend, %error, "dropped a notification of a NIXL agent");
            }
        }
    }

    fn take_foreign(&self, message: &[u8]) -> Result<()> {
        if self.config.foreign_metadata == ForeignMetadata::Refuse {
            return Err(fail(
                ErrorKind::NotAllowed,
                "foreign_metadata is refuse; accept to deliver it",
            ));
        }
        let (from, data) = metadata::decode_notification(message)?;
        let loaded = self.peers.read().get(from).cloned();
        let (name, generation) = match &loaded {
            Some(peer) if peer.is_foreign() => (peer.name.clone(), peer.generation()),
            Some(_) => {
                let why = "it came under the name of a peer that proves who it is";
                return Err(fail(ErrorKind::Unauthenticated, why).with_peer(from));
            }
            None if self.config.accept_unverified => (from.into(), Generation(0)),
            None => {
                let why = "notifications of senders that are not loaded are refused here";
                return Err(fail(ErrorKind::Unauthenticated, why).with_peer(from));
            }
        };
        let identity = PeerIdentity {
            name: from.to_owned(),
            generation,
            verified: false,
        };
        // Senders that are not loaded share one window: names cost them nothing.
        let account = loaded.map_or_else(|| "".into(), |peer| peer.name.clone());
        self.inbox
            .lock()
            .accept_foreign(&name, &account, &identity, data)
    }
}
