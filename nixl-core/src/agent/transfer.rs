//! Preparing lists and requests.

use std::sync::Arc;

use super::{Agent, builder::FIRST_REGION};
use crate::{
    DescList, ErrorKind, Op, Result,
    error::fail,
    negotiate::{Demand, Negotiation},
    peer::Peer,
    plan::{LocalList, Plan, RemoteList, Select},
    request::Request,
};

/// A peer's blocks, resolved once, usable in many requests.
#[derive(Clone)]
pub struct PreparedRemote {
    peer: Arc<Peer>,
    list: Arc<RemoteList>,
}

impl PreparedRemote {
    /// The blocks.
    pub fn list(&self) -> &RemoteList {
        &self.list
    }

    /// The peer's name.
    pub fn peer(&self) -> &str {
        &self.peer.name
    }
}

/// This agent's blocks, resolved once, usable in many requests.
#[derive(Clone, Debug)]
pub struct PreparedLocal(Arc<LocalList>);

impl PreparedLocal {
    /// The blocks.
    pub fn list(&self) -> &LocalList {
        &self.0
    }
}

impl Agent {
    /// Resolves blocks of this agent's memory.
    ///
    /// Errors: `NotRegistered` for a block in no region, `ApiMisuse` for an empty or wrapping one.
    pub fn prepare_local(&self, list: &DescList) -> Result<PreparedLocal> {
        LocalList::resolve(list, &self.shared.regions).map(|l| PreparedLocal(Arc::new(l)))
    }

    /// Resolves blocks of a loaded peer's memory (or of this agent's own, by its name).
    ///
    /// Errors: as [`Agent::prepare_local`], `NotFound` for an unknown peer.
    pub fn prepare_remote(&self, peer: &str, list: &DescList) -> Result<PreparedRemote> {
        let peer = self.peer(peer)?;
        let list = peer
            .regions()
            .resolve(list)
            .map_err(|e| e.with_peer(&peer.name))?;
        Ok(PreparedRemote {
            peer,
            list: Arc::new(list),
        })
    }

    /// Prepares a transfer between blocks of two prepared lists, paired in the order selected;
    /// blocks adjacent on both sides are merged.
    ///
    /// Errors: `Mismatch` for different counts or lengths, `ApiMisuse` for an index out of range,
    /// `NotAllowed` for writing to read-only memory, `NotRegistered` for a withdrawn region.
    pub fn request(
        &self,
        op: Op,
        local: &PreparedLocal,
        local_select: Select<'_>,
        remote: &PreparedRemote,
        remote_select: Select<'_>,
    ) -> Result<Request> {
        remote.peer.check_alive()?;
        remote.peer.check_regions(remote.list.regions())?;
        let plan = Plan::build(
            op,
            local.0.clone(),
            local_select,
            remote.list.clone(),
            remote_select,
        )
        .map_err(|e| e.with_peer(&remote.peer.name))?;
        Ok(Request::new(self.shared.clone(), remote.peer.clone(), plan))
    }

    /// Prepares a transfer of all blocks of two lists, in order.
    pub fn create_request(
        &self,
        op: Op,
        local: &DescList,
        peer: &str,
        remote: &DescList,
    ) -> Result<Request> {
        let local = self.prepare_local(local)?;
        let remote = self.prepare_remote(peer, remote)?;
        self.request(op, &local, Select::All, &remote, Select::All)
    }

    /// Ranks the paths to a peer for a demand, with the reason for each one rejected.
    pub fn explain(&self, peer: &str, demand: &Demand) -> Result<Negotiation> {
        let mut found = self.peer(peer)?.explain(&self.shared, demand);
        found.allocated = self.shared.regions.allocated(FIRST_REGION);
        Ok(found)
    }

    pub(crate) fn peer(&self, name: &str) -> Result<Arc<Peer>> {
        let found = self.shared.peers.read().get(name).cloned();
        found.ok_or_else(|| {
            fail(
                ErrorKind::NotFound,
                format!("no peer named {name:?} is loaded; load its metadata first"),
            )
        })
    }
}
