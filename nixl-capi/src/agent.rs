//! Agents and their peers.

use std::{
    ffi::{c_char, c_int},
    os::fd::AsRawFd,
    sync::Arc,
    time::Duration,
};

use nixl::{Config, Error, ErrorKind, MemKind, Op, negotiate::Demand};

use crate::{
    blob::{give, nixl_rs_blob},
    ffi::{Versioned, check_out, number, options, put, put_handle, text, with},
    status::{Result, call, misuse, nixl_rs_status},
    table,
};

/// A named endpoint that registers memory and talks to peers.
pub struct nixl_rs_agent(());

pub(crate) struct Agent(pub(crate) Arc<nixl::Agent>);

/// The peer's memory into ours.
pub const NIXL_RS_READ: u32 = 0;
/// Our memory into the peer's.
pub const NIXL_RS_WRITE: u32 = 1;

/// Host memory.
pub const NIXL_RS_DRAM: u32 = 0;
/// GPU memory.
pub const NIXL_RS_VRAM: u32 = 1;

/// A time that never passes.
pub const NIXL_RS_FOREVER: u64 = u64::MAX;

/// Options of nixl_rs_agent_create.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nixl_rs_agent_options {
    /// sizeof(nixl_rs_agent_options)
    pub size: usize,
    /// Settings as TOML, as docs/configuration.md lists them: backends, threads, deadlines, which
    /// paths may be used. NULL: those of the file that NIXL_RS_CONFIG names and of the other
    /// NIXL_RS_* variables.
    pub config: *const c_char,
}

// SAFETY: INV-8, a size and a pointer.
unsafe impl Versioned for nixl_rs_agent_options {}

pub(crate) fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn operation(op: u32) -> Result<Op> {
    match op {
        NIXL_RS_READ => Ok(Op::Read),
        NIXL_RS_WRITE => Ok(Op::Write),
        _ => Err(misuse(format!(
            "{op} is no operation: NIXL_RS_READ, NIXL_RS_WRITE"
        ))),
    }
}

pub(crate) fn mem_kind(kind: u32) -> Result<MemKind> {
    match kind {
        NIXL_RS_DRAM => Ok(MemKind::Dram),
        NIXL_RS_VRAM => Ok(MemKind::Vram),
        _ => Err(misuse(format!(
            "{kind} is no kind of memory: NIXL_RS_DRAM, NIXL_RS_VRAM"
        ))),
    }
}

/// Runs `run` with an agent.
pub(crate) fn agent<R>(
    handle: *const nixl_rs_agent,
    run: impl FnOnce(&Arc<nixl::Agent>) -> Result<R>,
) -> Result<R> {
    with(handle, |Agent(core)| run(core))
}

/// Starts an agent. `name` is 1 to 255 bytes of UTF-8; `options` may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_agent_create(
    name: *const c_char,
    options: *const nixl_rs_agent_options,
    out: *mut *mut nixl_rs_agent,
) -> nixl_rs_status {
    call(|| {
        check_out(out)?;
        let name = text(name, "the agent's name")?;
        let options = self::options(options)?;
        let config = match options.config.is_null() {
            true => Config::load()?,
            false => Config::from_toml(text(options.config, "the configuration")?)?,
        };
        put_handle(out, Agent(Arc::new(config.agent(name)?.build()?)))
    })
}

/// Ends an agent within `timeout_ms`: requests are cancelled, memory is withdrawn from peers. The
/// handle is freed in any case; its requests, regions and lists must still be freed.
///
/// NIXL_RS_ERR_TIMEOUT: peers did not let go of memory, NIXL_RS_ERR_STILL_MAPPED: another thread is
/// inside a call with this agent, which ends when that returns. Do not free registered memory then.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_agent_destroy(
    agent: *mut nixl_rs_agent,
    timeout_ms: u64,
) -> nixl_rs_status {
    call(|| {
        if agent.is_null() {
            return Ok(());
        }
        let taken = table::take::<Agent>(number(agent))?;
        let Some(core) = taken.and_then(|Agent(core)| Arc::into_inner(core)) else {
            let text = "another call still uses the agent; it ends when that returns";
            return Err(Error::new(ErrorKind::StillMapped, text).into());
        };
        Ok(core.shutdown(millis(timeout_ms))?)
    })
}

/// The agent's name.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_agent_name(
    agent: *const nixl_rs_agent,
    name: *mut *mut nixl_rs_blob,
) -> nixl_rs_status {
    call(|| self::agent(agent, |core| give(name, core.name().as_bytes())))
}

/// This incarnation of the agent: a random number, new at every start.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_agent_generation(
    agent: *const nixl_rs_agent,
    generation: *mut u64,
) -> nixl_rs_status {
    call(|| self::agent(agent, |core| put(generation, core.generation().0)))
}

/// An eventfd that becomes readable when a request ends or a notification arrives. It is the
/// agent's: read it empty, do not close it.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_agent_event_fd(
    agent: *const nixl_rs_agent,
    fd: *mut c_int,
) -> nixl_rs_status {
    call(|| self::agent(agent, |core| put(fd, core.event_fd()?.as_raw_fd())))
}

/// Advances the work by at most 1 ms, waiting up to `wait_us` for something to do. Needed with
/// agent.copy_threads = 0, harmless otherwise. `did` (may be NULL) becomes 1 if anything was done,
/// else 0.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_agent_progress(
    agent: *const nixl_rs_agent,
    wait_us: u64,
    did: *mut c_int,
) -> nixl_rs_status {
    call(|| {
        self::agent(agent, |core| {
            let done = core.progress(Duration::from_micros(wait_us));
            match did.is_null() {
                true => Ok(()),
                false => put(did, c_int::from(done)),
            }
        })
    })
}

/// Connects to a peer over every common backend, so that the first request need not wait. Returns
/// as soon as one connection is up.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_agent_connect(
    agent: *const nixl_rs_agent,
    peer: *const c_char,
    timeout_ms: u64,
) -> nixl_rs_status {
    call(|| {
        self::agent(agent, |core| {
            Ok(core.connect(text(peer, "the peer's name")?, millis(timeout_ms))?)
        })
    })
}

/// Tries every path to a peer in one direction, so that nixl_rs_agent_explain shows what works.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_agent_prove(
    agent: *const nixl_rs_agent,
    peer: *const c_char,
    op: u32,
    timeout_ms: u64,
) -> nixl_rs_status {
    call(|| {
        self::agent(agent, |core| {
            let peer = text(peer, "the peer's name")?;
            Ok(core.prove(peer, operation(op)?, millis(timeout_ms))?)
        })
    })
}

/// What would move `count` scattered blocks of `block_len` bytes of host memory from or to memory
/// that a peer's agent allocated: a table of all paths, best first, with the reason for each one
/// that is rejected. What did move a request's blocks stands in its receipt.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_agent_explain(
    agent: *const nixl_rs_agent,
    peer: *const c_char,
    op: u32,
    count: u64,
    block_len: u64,
    table: *mut *mut nixl_rs_blob,
) -> nixl_rs_status {
    call(|| {
        self::agent(agent, |core| {
            let bytes = count.checked_mul(block_len).filter(|bytes| *bytes > 0);
            let demand = Demand {
                op: operation(op)?,
                local: MemKind::Dram,
                remote: MemKind::Dram,
                all_remote_shareable: true,
                descs: count,
                bytes: bytes.ok_or_else(|| misuse("nothing, or more than 2^64 bytes"))?,
            };
            let found = core.explain(text(peer, "the peer's name")?, &demand)?;
            give(table, found.to_string().as_bytes())
        })
    })
}

/// The names of loaded peers, sorted, each ended by a zero byte.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_agent_peers(
    agent: *const nixl_rs_agent,
    names: *mut *mut nixl_rs_blob,
) -> nixl_rs_status {
    call(|| {
        self::agent(agent, |core| {
            let all: String = core.peers().into_iter().map(|name| name + "\0").collect();
            give(names, all.as_bytes())
        })
    })
}

/// Forgets a peer: its requests end with NIXL_RS_ERR_REMOTE_DISCONNECT.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_agent_remove_peer(
    agent: *const nixl_rs_agent,
    peer: *const c_char,
) -> nixl_rs_status {
    call(|| {
        self::agent(agent, |core| {
            Ok(core.remove_peer(text(peer, "the peer's name")?)?)
        })
    })
}
