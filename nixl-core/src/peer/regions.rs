//! A peer's regions, as its metadata told them.

use std::collections::HashMap;

use crate::{
    DescList, RegionCard, RegionId, Result,
    mem::SpanIndex,
    plan::{RemoteList, RemoteRegion},
};

/// Regions by address and by number, as of one metadata sequence.
#[derive(Debug, Default)]
pub(crate) struct RemoteTable {
    index: SpanIndex<RemoteRegion>,
    cards: HashMap<RegionId, RegionCard>,
    pub(crate) sequence: u64,
}

impl RemoteTable {
    pub(crate) fn insert(&mut self, card: RegionCard) {
        if self.cards.contains_key(&card.id) {
            return;
        }
        let region = RemoteRegion::from(&card);
        self.index
            .insert(card.kind, card.dev, card.addr, card.len, region);
        self.cards.insert(card.id, card);
    }

    pub(crate) fn remove(&mut self, id: RegionId) -> bool {
        self.index.remove(|r| r.id == id);
        self.cards.remove(&id).is_some()
    }

    pub(crate) fn contains(&self, id: RegionId) -> bool {
        self.cards.contains_key(&id)
    }

    pub(crate) fn card(&self, id: RegionId) -> Option<&RegionCard> {
        self.cards.get(&id)
    }

    pub(crate) fn ids(&self) -> Vec<RegionId> {
        self.cards.keys().copied().collect()
    }

    pub(crate) fn resolve(&self, list: &DescList) -> Result<RemoteList> {
        RemoteList::resolve(list, &self.index)
    }
}
