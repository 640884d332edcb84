//! Descriptor lists, and lists prepared once for many requests.

use std::ffi::c_char;

use nixl::{DescList, PreparedLocal, PreparedRemote, Run};
use parking_lot::Mutex;

use crate::{
    agent::{agent, mem_kind, nixl_rs_agent},
    ffi::{array, check_out, free, put, put_handle, text, with},
    status::{Result, call, misuse, nixl_rs_status},
};

/// An ordered list of blocks of one kind of memory.
pub struct nixl_rs_list(());

/// Blocks of this agent's memory, looked up once.
pub struct nixl_rs_local(());

/// Blocks of a peer's memory, looked up once.
pub struct nixl_rs_remote(());

/// One block.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nixl_rs_desc {
    /// Address.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
    /// Device number, 0 for host memory.
    pub dev: u64,
}

/// `count` blocks of `len` bytes, the i-th at `addr + i * stride`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nixl_rs_run {
    /// Address of the first block.
    pub addr: u64,
    /// Bytes of each block.
    pub len: u64,
    /// Device number, 0 for host memory.
    pub dev: u64,
    /// Bytes from one block's start to the next one's.
    pub stride: u64,
    /// Number of blocks.
    pub count: u64,
}

pub(crate) struct List(pub(crate) Mutex<DescList>);

/// Makes an empty list for memory of a kind: NIXL_RS_DRAM, NIXL_RS_VRAM.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_list_create(kind: u32, out: *mut *mut nixl_rs_list) -> nixl_rs_status {
    call(|| put_handle(out, List(Mutex::new(DescList::new(mem_kind(kind)?)))))
}

/// Adds runs, all or none: nothing is reserved that memory does not hold.
fn extend(list: *const nixl_rs_list, runs: impl ExactSizeIterator<Item = Run>) -> Result {
    with(list, |List(list)| {
        list.lock().extend(runs);
        Ok(())
    })
}

/// Adds `count` blocks.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_list_push(
    list: *mut nixl_rs_list,
    blocks: *const nixl_rs_desc,
    count: usize,
) -> nixl_rs_status {
    call(|| {
        let blocks = array(blocks, count, "blocks")?.iter();
        extend(list, blocks.map(|b| Run::single(b.addr, b.len, b.dev)))
    })
}

/// Adds `count` strided runs of blocks.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_list_push_runs(
    list: *mut nixl_rs_list,
    runs: *const nixl_rs_run,
    count: usize,
) -> nixl_rs_status {
    call(|| {
        let runs = array(runs, count, "runs")?.iter().map(|r| Run {
            addr: r.addr,
            len: r.len,
            dev: r.dev,
            stride: r.stride,
            count: r.count,
        });
        extend(list, runs)
    })
}

/// How many blocks a list has.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_list_len(list: *const nixl_rs_list, len: *mut u64) -> nixl_rs_status {
    call(|| with(list, |List(list)| put(len, list.lock().len())))
}

/// Frees a list. What was prepared from it stays.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_list_free(list: *mut nixl_rs_list) -> nixl_rs_status {
    call(|| free::<List, _>(list))
}

/// A copy of a list, which then is not locked while it is looked up.
pub(crate) fn copy(list: *const nixl_rs_list) -> Result<DescList> {
    let copy = with(list, |List(list)| Ok(list.lock().clone()))?;
    match copy.is_empty() {
        true => Err(misuse("the list has no block")),
        false => Ok(copy),
    }
}

/// Looks up blocks of this agent's memory, for many requests.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_prepare_local(
    agent: *const nixl_rs_agent,
    list: *const nixl_rs_list,
    out: *mut *mut nixl_rs_local,
) -> nixl_rs_status {
    call(|| {
        check_out(out)?;
        self::agent(agent, |core| {
            put_handle(out, core.prepare_local(&copy(list)?)?)
        })
    })
}

/// Looks up blocks of a peer's memory (or of this agent's own, by its name), for many requests.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_prepare_remote(
    agent: *const nixl_rs_agent,
    peer: *const c_char,
    list: *const nixl_rs_list,
    out: *mut *mut nixl_rs_remote,
) -> nixl_rs_status {
    call(|| {
        check_out(out)?;
        let peer = text(peer, "the peer's name")?;
        self::agent(agent, |core| {
            put_handle(out, core.prepare_remote(peer, &copy(list)?)?)
        })
    })
}

/// How many blocks a prepared list has.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_local_len(list: *const nixl_rs_local, len: *mut u64) -> nixl_rs_status {
    call(|| {
        with(list, |list: &PreparedLocal| {
            put(len, list.list().len().into())
        })
    })
}

/// How many blocks a prepared list has.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_remote_len(list: *const nixl_rs_remote, len: *mut u64) -> nixl_rs_status {
    call(|| {
        with(list, |list: &PreparedRemote| {
            put(len, list.list().len().into())
        })
    })
}

/// Frees a prepared list. Requests made of it stay.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_local_free(list: *mut nixl_rs_local) -> nixl_rs_status {
    call(|| free::<PreparedLocal, _>(list))
}

/// Frees a prepared list. Requests made of it stay.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_remote_free(list: *mut nixl_rs_remote) -> nixl_rs_status {
    call(|| free::<PreparedRemote, _>(list))
}
