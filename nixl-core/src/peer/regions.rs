//! The regions of a peer that requests may name.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;

use crate::{
    DescList, RegionCard, RegionId, Result,
    mem::{RegionTable, SpanIndex},
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

    pub(crate) fn ids(&self) -> Vec<RegionId> {
        self.cards.keys().copied().collect()
    }

    pub(crate) fn resolve(&self, list: &DescList) -> Result<RemoteList> {
        let find = |dev, addr, len| {
            let card = self.index.find(list.kind(), dev, addr, len)?;
            Some(RemoteRegion::from(&**card))
        };
        RemoteList::resolve_with(list, find, |addr, len| self.index.find_elsewhere(addr, len))
    }
}
