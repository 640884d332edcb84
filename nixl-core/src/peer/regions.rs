//! The regions of a peer that requests may name.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::RwLock;

use crate::{
    BackendName, DescList, Error, ErrorKind, MemKind, RegionCard, RegionId, RegionKey, Result,
    backend::NixlFace,
    error::fail,
    mem::{RegionTable, SpanIndex},
    metadata::NixlSection,
    plan::{RemoteList, RemoteRegion},
};

/// Where a peer's regions stand.
pub(crate) enum PeerRegions {
    /// As its metadata told them.
    Told(RwLock<RemoteTable>),
    /// The peer is this agent itself.
    Own(Arc<RegionTable>),
}

impl PeerRegions {
    pub(crate) fn resolve(&self, list: &DescList) -> Result<RemoteList> {
        match self {
            Self::Told(table) => table.read().resolve(list),
            Self::Own(table) => RemoteList::resolve_own(list, table),
        }
    }

    /// The first of `regions` that the peer does not have any more.
    pub(super) fn missing<'a>(&self, regions: &'a [RemoteRegion]) -> Option<&'a RemoteRegion> {
        match self {
            Self::Told(table) => {
                let table = table.read();
                regions.iter().find(|r| !table.cards.contains_key(&r.id))
            }
            Self::Own(table) => regions.iter().find(|r| !table.has_key(&r.key)),
        }
    }

    /// A region to read from where none is set aside for probes: host memory first.
    pub(super) fn any(&self) -> Option<Arc<RegionCard>> {
        let table = self.told()?.read();
        table
            .cards
            .values()
            .min_by_key(|card| (card.kind, card.id))
            .cloned()
    }

    pub(super) fn card(&self, id: RegionId) -> Option<RegionCard> {
        match self {
            Self::Told(table) => table.read().cards.get(&id).map(|card| (**card).clone()),
            Self::Own(table) => table.by_id(id).map(|region| region.card()),
        }
    }

    /// What metadata told; `None` for this agent itself.
    pub(crate) fn told(&self) -> Option<&RwLock<RemoteTable>> {
        match self {
            Self::Told(table) => Some(table),
            Self::Own(_) => None,
        }
    }
}

/// Regions by address and by number, as of one metadata sequence.
#[derive(Debug, Default)]
pub(crate) struct RemoteTable {
    index: SpanIndex<Arc<RegionCard>>,
    cards: HashMap<RegionId, Arc<RegionCard>>,
    pub(crate) sequence: u64,
}

impl RemoteTable {
    pub(crate) fn insert(&mut self, card: RegionCard) {
        if self.cards.contains_key(&card.id) {
            return;
        }
        let card = Arc::new(card);
        self.index
            .insert(card.kind, card.dev, card.addr, card.len, card.clone());
        self.cards.insert(card.id, card);
    }

    pub(crate) fn remove(&mut self, id: RegionId) -> bool {
        let Some(card) = self.cards.remove(&id) else {
            return false;
        };
        self.index
            .remove(card.kind, card.dev, card.addr, |found| found.id == id);
        true
    }

    /// Adds what a NIXL agent says of its memory, all or nothing; true if anything was new.
    ///
    /// Errors: `NotAllowed` when a span is known with another key, `Exhausted` above `most` regions.
    pub(crate) fn add_foreign(
        &mut self,
        faces: &[(BackendName, NixlFace)],
        sections: &[NixlSection],
        most: usize,
    ) -> Result<bool> {
        let span = |card: &RegionCard| (card.kind, card.dev, card.addr, card.len);
        let known = self.cards.values().map(|card| (span(card), card.clone()));
        let known: HashMap<_, _> = known.collect();
        let mut new: BTreeMap<_, RegionCard> = BTreeMap::new();
        for section in sections {
            let face = faces.iter().find(|(_, face)| face.name == section.backend);
            let Some((backend, _)) = face else { continue };
            for (addr, len, dev, bytes) in &section.descs {
                let card = foreign_card(section.kind, *addr, *len, *dev);
                let at = span(&card);
                match known.get(&at).map(|card| extra(card, backend)) {
                    Some(Some(old)) if old == bytes => continue,
                    Some(_) => return Err(another_key(*addr, *len)),
                    None => {}
                }
                let card = new.entry(at).or_insert(card);
                match extra(card, backend) {
                    Some(old) if old == bytes => {}
                    Some(_) => return Err(another_key(*addr, *len)),
                    None => card.extras.push(((*backend).to_owned(), bytes.clone())),
                }
            }
        }
        if self.cards.len() + new.len() > most {
            let why = format!("more than {most} regions of one agent");
            return Err(fail(ErrorKind::Exhausted, why));
        }
        let any = !new.is_empty();
        for card in new.into_values() {
            // Nothing is ever removed from a foreign agent's table.
            let id = RegionId(self.cards.len() as u64 + 1);
            self.insert(RegionCard { id, ..card });
        }
        Ok(any)
    }

    pub(crate) fn ids(&self) -> Vec<RegionId> {
        self.cards.keys().copied().collect()
    }

    pub(crate) fn resolve(&self, list: &DescList) -> Result<RemoteList> {
        let find = |dev, addr, len| {
            let card = self.index.find(list.kind(), dev, addr, len)?;
            Some(RemoteRegion::from(card))
        };
        RemoteList::resolve_with(list, find, |addr, len| self.index.find_elsewhere(addr, len))
    }
}

fn foreign_card(kind: MemKind, addr: u64, len: u64, dev: u64) -> RegionCard {
    RegionCard {
        id: RegionId(0),
        addr,
        len,
        kind,
        dev,
        // No backend that speaks to a foreign agent asks for it.
        key: RegionKey([0; 16]),
        shareable: false,
        writable: true,
        extras: Vec::new(),
    }
}

fn extra<'a>(card: &'a RegionCard, backend: &str) -> Option<&'a Bytes> {
    let (_, bytes) = card.extras.iter().find(|(name, _)| name == backend)?;
    Some(bytes)
}

fn another_key(addr: u64, len: u64) -> Error {
    let why = format!(
        "the blob has another key for {len} bytes at {addr:#x} than the one that is loaded: the agent \
         registered them anew, or the blob is older; remove the peer and load its full metadata"
    );
    fail(ErrorKind::NotAllowed, why)
}
