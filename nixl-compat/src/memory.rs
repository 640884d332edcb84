//! Registering memory.

use std::time::Duration;

use nixl::{MemKind, PeerAccess, Region, mem::Span};

use crate::{
    agent::{Agent, Registered},
    args::options,
    handle::Handle,
    list::{Block, DRAM, RegList},
    status::{Result, Status, call},
};

/// How long deregistering waits for peers that move the memory's bytes. C frees the memory
/// whatever it is told, so this is long.
const PATIENCE: Duration = Duration::from_secs(30);

impl Agent {
    fn register(&self, block: Block) -> Result {
        let key = (block.addr, block.len);
        if let Some(known) = self.regions.lock().get_mut(&key) {
            known.times += 1;
            return Ok(());
        }
        let span = Span {
            addr: block.addr,
            len: block.len,
            kind: MemKind::Dram,
            dev: 0,
        };
        // SAFETY: INV-8, C keeps the memory until it has deregistered it.
        let region = unsafe { self.core.register_raw(span, PeerAccess::ReadWrite) }?;
        let fresh = Registered { region, times: 0 };
        self.regions.lock().entry(key).or_insert(fresh).times += 1;
        Ok(())
    }

    /// Errors: `NotFound` for memory that was not registered in exactly these bounds.
    fn deregister(&self, block: Block) -> Result {
        let key = (block.addr, block.len);
        let region = {
            let mut regions = self.regions.lock();
            let known = regions.get_mut(&key).ok_or(Status::NotFound)?;
            if known.times > 1 {
                known.times -= 1;
                return Ok(());
            }
            known.region.clone()
        };
        self.core.deregister(&region, PATIENCE)?;
        self.regions.lock().remove(&key);
        Ok(())
    }

    /// The regions registered in exactly these bounds. Errors: `NotFound` for others.
    pub(crate) fn registered(&self, list: &RegList) -> Result<Vec<Region>> {
        let regions = self.regions.lock();
        let items = list.items.lock();
        let found = items.iter().map(|item| {
            let known = regions.get(&(item.block.addr, item.block.len));
            known.map(|r| r.region.clone()).ok_or(Status::NotFound)
        });
        found.collect()
    }
}

/// Errors: `Backend` for none and for memory that this library does not register.
fn blocks(list: &RegList) -> Result<Vec<Block>> {
    let blocks: Vec<_> = list.items.lock().iter().map(|item| item.block).collect();
    if blocks.is_empty() || list.kind != DRAM {
        tracing::warn!(
            blocks = blocks.len(),
            kind = list.kind,
            "only host memory can be registered, and not nothing"
        );
        return Err(Status::Backend);
    }
    Ok(blocks)
}

/// All of the list or nothing.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_register_mem(
    agent: Handle,
    list: Handle,
    args: Handle,
) -> Status {
    call(|| {
        let agent = agent.get::<Agent>()?;
        let list = list.get::<RegList>()?;
        options(args)?;
        agent.check_backend(Status::NotFound)?;
        let blocks = blocks(&list)?;
        for (done, block) in blocks.iter().enumerate() {
            if let Err(status) = agent.register(*block) {
                for block in &blocks[..done] {
                    // Registered a moment ago and told to nobody.
                    let _ = agent.deregister(*block);
                }
                return Err(status);
            }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_deregister_mem(
    agent: Handle,
    list: Handle,
    args: Handle,
) -> Status {
    call(|| {
        let agent = agent.get::<Agent>()?;
        let list = list.get::<RegList>()?;
        options(args)?;
        agent.registered(&list)?;
        blocks(&list)?
            .into_iter()
            .try_for_each(|block| agent.deregister(block))
    })
}
