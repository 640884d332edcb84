//! Metadata: what a peer must have of this agent, and this agent of a peer.

use std::ffi::{c_int, c_void};

use nixl::Region;

use crate::{
    agent::{agent, nixl_rs_agent},
    blob::{give, nixl_rs_blob},
    ffi::{array, check_out, with},
    memory::{Memory, nixl_rs_region},
    status::{Result, call, nixl_rs_status},
};

fn regions(list: *const *const nixl_rs_region, count: usize) -> Result<Vec<Region>> {
    let handles = array(list, count, "regions")?.iter();
    let region =
        |handle: &*const nixl_rs_region| with(*handle, |memory: &Memory| Ok(memory.region.clone()));
    handles.map(region).collect()
}

/// Everything a peer needs: how to reach this agent, and all its memory. It holds the agent's
/// secret: give it only to agents that may read and write that memory.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_metadata(
    agent: *const nixl_rs_agent,
    out: *mut *mut nixl_rs_blob,
) -> nixl_rs_status {
    call(|| {
        check_out(out)?;
        self::agent(agent, |core| give(out, &core.metadata()?))
    })
}

/// Some regions, for a peer that may not have the others; with how to reach this agent unless
/// `with_card` is 0.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_partial_metadata(
    agent: *const nixl_rs_agent,
    regions: *const *const nixl_rs_region,
    count: usize,
    with_card: c_int,
    out: *mut *mut nixl_rs_blob,
) -> nixl_rs_status {
    call(|| {
        check_out(out)?;
        let regions = self::regions(regions, count)?;
        self::agent(agent, |core| {
            give(out, &core.partial_metadata(&regions, with_card != 0)?)
        })
    })
}

/// Tells a peer that regions are gone; with none, that this agent is going.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_withdrawal(
    agent: *const nixl_rs_agent,
    regions: *const *const nixl_rs_region,
    count: usize,
    out: *mut *mut nixl_rs_blob,
) -> nixl_rs_status {
    call(|| {
        check_out(out)?;
        let regions = self::regions(regions, count)?;
        self::agent(agent, |core| give(out, &core.withdrawal(&regions)?))
    })
}

/// Loads or updates a peer from its metadata. `name` (may be NULL) receives the peer's name.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_load_metadata(
    agent: *const nixl_rs_agent,
    data: *const c_void,
    len: usize,
    name: *mut *mut nixl_rs_blob,
) -> nixl_rs_status {
    call(|| {
        let blob = array(data.cast::<u8>(), len, "metadata")?;
        let peer = self::agent(agent, |core| Ok(core.load_metadata(blob)?))?;
        match name.is_null() {
            true => Ok(()),
            false => give(name, peer.as_bytes()),
        }
    })
}
