//! This agent's regions as UCX knows them.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use nixl_core::{
    MemKind, Region, RegionId, Result,
    mem::{Registration, Span},
};
use parking_lot::RwLock;

use crate::{
    fault::unsupported,
    ucp::{Context, MemHandle},
};

/// One region's registration and what peers need to use it.
pub(crate) struct Key {
    pub(crate) memory: MemHandle,
    pub(crate) packed: Bytes,
}

/// All registered regions of one agent.
#[derive(Default)]
pub(crate) struct Keys(RwLock<HashMap<RegionId, Arc<Key>>>);

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
        let memory = unsafe { context.register(addr, len)? };
        let packed = memory.pack()?;
        let key = Arc::new(Key { memory, packed });
        self.0.write().insert(region.id(), key.clone());
        Ok(Box::new(Registered {
            id: region.id(),
            keys: self.clone(),
            packed: key.packed.clone(),
        }))
    }

    /// The registration of a region, if UCX has one.
    pub(crate) fn get(&self, id: RegionId) -> Result<Arc<Key>> {
        let found = self.0.read().get(&id).cloned();
        found.ok_or_else(|| {
            unsupported("UCX could not register the region (see the log), or it was deregistered")
        })
    }
}

/// What the region holds.
struct Registered {
    id: RegionId,
    keys: Arc<Keys>,
    packed: Bytes,
}

impl Registration for Registered {
    fn extra(&self) -> Bytes {
        self.packed.clone()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let key = self.keys.0.write().remove(&self.id);
        drop(key);
    }
}
