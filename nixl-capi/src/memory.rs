//! Registered memory.

use std::{
    ffi::c_void,
    sync::{Arc, Weak},
};

use nixl::{HugePages, MemKind, PeerAccess, Region, Span};

use crate::{
    agent::{agent, millis, nixl_rs_agent},
    ffi::{Versioned, check_out, fill, number, options, put_handle, with},
    status::{Result, call, misuse, nixl_rs_status},
    table,
};

/// Memory that an agent has registered.
pub struct nixl_rs_region(());

pub(crate) struct Memory {
    pub(crate) region: Region,
    agent: Weak<nixl::Agent>,
}

/// Peers may read and write.
pub const NIXL_RS_READ_WRITE: u32 = 0;
/// Peers may only read.
pub const NIXL_RS_READ_ONLY: u32 = 1;

/// Options of nixl_rs_register and nixl_rs_allocate.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nixl_rs_memory_options {
    /// sizeof(nixl_rs_memory_options)
    pub size: usize,
    /// What peers may do: NIXL_RS_READ_WRITE or NIXL_RS_READ_ONLY.
    pub access: u32,
    /// nixl_rs_allocate: 1 for huge pages where the machine has them, else 0.
    pub huge_pages: u32,
}

// SAFETY: INV-8, integers.
unsafe impl Versioned for nixl_rs_memory_options {}

/// What nixl_rs_region_info says.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nixl_rs_region_info_t {
    /// sizeof(nixl_rs_region_info_t)
    pub size: usize,
    /// Where it begins.
    pub addr: u64,
    /// Its bytes.
    pub len: u64,
    /// Bytes of a page, for memory that the agent allocated; else 0.
    pub page_size: u64,
    /// 1 if peers may write.
    pub writable: u32,
    /// 1 if peers on this host can map it.
    pub shareable: u32,
}

// SAFETY: INV-8, integers.
unsafe impl Versioned for nixl_rs_region_info_t {}

fn access(options: &nixl_rs_memory_options) -> Result<PeerAccess> {
    match options.access {
        NIXL_RS_READ_WRITE => Ok(PeerAccess::ReadWrite),
        NIXL_RS_READ_ONLY => Ok(PeerAccess::ReadOnly),
        other => Err(misuse(format!("{other} is no access"))),
    }
}

fn pages(options: &nixl_rs_memory_options) -> Result<HugePages> {
    match options.huge_pages {
        0 => Ok(HugePages::No),
        1 => Ok(HugePages::Try),
        other => Err(misuse(format!("huge_pages is {other}, neither 0 nor 1"))),
    }
}

fn enter(core: &Arc<nixl::Agent>, region: Region, out: *mut *mut nixl_rs_region) -> Result {
    let agent = Arc::downgrade(core);
    put_handle(out, Memory { region, agent })
}

/// Registers host memory of the caller's, which keeps it until nixl_rs_deregister or
/// nixl_rs_agent_destroy has succeeded. `options` may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_register(
    agent: *const nixl_rs_agent,
    memory: *mut c_void,
    len: usize,
    options: *const nixl_rs_memory_options,
    out: *mut *mut nixl_rs_region,
) -> nixl_rs_status {
    call(|| {
        check_out(out)?;
        let options = self::options(options)?;
        let access = access(&options)?;
        if memory.is_null() || len == 0 || options.huge_pages != 0 {
            return Err(misuse("no memory to register, or huge_pages is set"));
        }
        let span = Span {
            addr: memory.expose_provenance() as u64,
            len: len as u64,
            kind: MemKind::Dram,
            dev: 0,
        };
        self::agent(agent, |core| {
            // SAFETY: INV-8, C keeps the memory until it has deregistered it.
            let region = unsafe { core.register_raw(span, access) }?;
            enter(core, region, out)
        })
    })
}

/// Allocates and registers zeroed host memory that peers on this host can map: the fastest there.
/// nixl_rs_region_info says where it is. It is the library's and goes with the handle.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_allocate(
    agent: *const nixl_rs_agent,
    len: usize,
    options: *const nixl_rs_memory_options,
    out: *mut *mut nixl_rs_region,
) -> nixl_rs_status {
    call(|| {
        check_out(out)?;
        let options = self::options(options)?;
        let (pages, access) = (pages(&options)?, access(&options)?);
        self::agent(agent, |core| {
            let region = core.allocate_with(len as u64, pages, access)?;
            enter(core, region, out)
        })
    })
}

/// Where registered memory is. Set info->size first.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_region_info(
    region: *const nixl_rs_region,
    info: *mut nixl_rs_region_info_t,
) -> nixl_rs_status {
    call(|| {
        with(region, |memory: &Memory| {
            let region = &memory.region;
            let value = nixl_rs_region_info_t {
                size: 0,
                addr: region.addr(),
                len: region.len(),
                page_size: region.page_size().unwrap_or(0),
                writable: u32::from(region.is_writable()),
                shareable: u32::from(region.is_shareable()),
            };
            fill(info, &value)
        })
    })
}

/// Withdraws memory from peers, waits until nothing touches it, and frees the handle.
///
/// NIXL_RS_ERR_STILL_MAPPED: somebody may still touch it after `timeout_ms`. It stays withdrawn and
/// must not be freed; the handle stays too: call again. With an agent that was destroyed it only
/// frees the handle.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_deregister(
    region: *mut nixl_rs_region,
    timeout_ms: u64,
) -> nixl_rs_status {
    call(|| {
        if region.is_null() {
            return Ok(());
        }
        let known = with(region, |memory: &Memory| {
            Ok((memory.region.clone(), memory.agent.upgrade()))
        });
        let (memory, agent) = known?;
        if let Some(agent) = agent {
            agent.deregister(&memory, millis(timeout_ms))?;
        }
        table::take::<Memory>(number(region)).map(drop)
    })
}
