//! This agent's regions as UCX knows them.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use nixl_core::{
    Error, MemKind, Region, RegionId, Result,
    error::fail,
    mem::{Registration, Span},
};
use parking_lot::{Mutex, RwLock};

use crate::{
    fault::unsupported,
    ucp::{Context, MemHandle},
};

/// One region's registration and what peers need to use it.
pub(crate) struct Key {
    pub(crate) memory: MemHandle,
    pub(crate) packed: Bytes,
}

/// Reasons kept for regions that UCX did not register.
const REASONS: usize = 64;

/// All registered regions of one agent.
#[derive(Default)]
pub(crate) struct Keys {
    known: RwLock<HashMap<RegionId, Arc<Key>>>,
    /// The last regions that could not be registered.
    refused: Mutex<VecDeque<(RegionId, Error)>>,
}

impl Keys {
    /// Registers a region with `context`.
    ///
    /// Errors: `Unsupported` for memory other than the host's; what UCX says otherwise.
    pub(crate) fn register(
        self: &Arc<Self>,
        context: &Context,
        region: &Region,
    ) -> Result<Box<dyn Registration>> {
        let Span {
            addr, len, kind, ..
        } = region.span();
        if kind != MemKind::Dram {
            return Err(unsupported(format!(
                "the ucx backend moves host memory so far, not {kind:?}"
            )));
        }
        // SAFETY: INV-1, the region drops its registrations before its memory, operations under
        // way hold the region besides the handle, and nothing else keeps the handle longer.
        let made = unsafe { context.register(addr, len) };
        let made = made.and_then(|memory| Ok((memory.pack()?, memory)));
        let (packed, memory) = made.inspect_err(|why| self.refuse(region.id(), why))?;
        let key = Arc::new(Key { memory, packed });
        self.known.write().insert(region.id(), key.clone());
        Ok(Box::new(Registered {
            id: region.id(),
            keys: self.clone(),
            packed: key.packed.clone(),
        }))
    }

    /// Keeps why UCX did not register a region, for whoever wants to use it.
    fn refuse(&self, id: RegionId, why: &Error) {
        let mut refused = self.refused.lock();
        if refused.len() >= REASONS {
            refused.pop_front();
        }
        refused.push_back((id, why.clone()));
    }

    /// The registration of a region.
    ///
    /// Errors: why UCX has none.
    pub(crate) fn get(&self, id: RegionId) -> Result<Arc<Key>> {
        if let Some(key) = self.known.read().get(&id) {
            return Ok(key.clone());
        }
        let refused = self.refused.lock();
        let why = refused.iter().find(|(region, _)| *region == id);
        Err(why.map_or_else(
            || {
                unsupported(
                    "UCX could not register the region (see the log), or it was deregistered",
                )
            },
            |(_, why)| fail(why.kind(), why.message().to_owned()),
        ))
    }
}

/// What the region holds.
struct Registered {
    id: RegionId,
    keys: Arc<Keys>,
    packed: Bytes,
}

/// Peers of ours ask for the key; NIXL's agents find it in the metadata.
impl Registration for Registered {
    fn extra(&self) -> Bytes {
        Bytes::new()
    }

    fn nixl(&self) -> Option<Bytes> {
        Some(self.packed.clone())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let key = self.keys.known.write().remove(&self.id);
        drop(key);
    }
}
