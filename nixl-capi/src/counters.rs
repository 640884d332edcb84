//! What an agent counts.

use std::ffi::c_char;

use nixl::telemetry::PathSnapshot;

use crate::{
    agent::{agent, nixl_rs_agent},
    ffi::{Versioned, chars, check_out, fill, put},
    status::{Result, call, misuse, nixl_rs_status},
};

/// What an agent counts.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nixl_rs_counters {
    /// sizeof(nixl_rs_counters)
    pub size: usize,
    /// Notifications sent.
    pub notifications_sent: u64,
    /// Notifications delivered to this application.
    pub notifications_received: u64,
    /// Times a request had to use a slower class of path than both sides have.
    pub degraded: u64,
    /// Regions registered now.
    pub regions: u64,
    /// Requests active now.
    pub active_requests: u64,
}

// SAFETY: INV-8, integers.
unsafe impl Versioned for nixl_rs_counters {}

/// What an agent counts for one peer, path and direction.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nixl_rs_path_counters {
    /// sizeof(nixl_rs_path_counters)
    pub size: usize,
    /// The peer's name, ended by a zero.
    pub peer: [c_char; 256],
    /// The path, ended by a zero.
    pub path: [c_char; 32],
    /// NIXL_RS_READ or NIXL_RS_WRITE.
    pub op: u32,
    /// Always 0.
    pub reserved: u32,
    /// Bytes moved by completed requests.
    pub bytes: u64,
    /// Blocks of completed requests, before merging.
    pub descriptors: u64,
    /// Requests completed.
    pub requests: u64,
    /// Attempts that failed.
    pub errors: u64,
    /// Requests that went on to another path from here.
    pub retries: u64,
    /// Microseconds from post to completion, summed.
    pub micros: u64,
    /// Completed requests by duration: up to 10, 30, 100, 300 us, 1, 3, 10, 30, 100, 300 ms, 1 s,
    /// 10 s, longer.
    pub buckets: [u64; 13],
}

// SAFETY: INV-8, integers.
unsafe impl Versioned for nixl_rs_path_counters {}

/// Reads the agent's counters. Set counters->size first.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_agent_counters(
    agent: *const nixl_rs_agent,
    counters: *mut nixl_rs_counters,
) -> nixl_rs_status {
    call(|| {
        self::agent(agent, |core| {
            let now = core.snapshot();
            let value = nixl_rs_counters {
                size: 0,
                notifications_sent: now.notifications_sent,
                notifications_received: now.notifications_received,
                degraded: now.degraded,
                regions: now.regions,
                active_requests: now.active_requests,
            };
            fill(counters, &value)
        })
    })
}

fn path(found: &PathSnapshot) -> nixl_rs_path_counters {
    nixl_rs_path_counters {
        size: 0,
        peer: chars(&found.peer),
        path: chars(found.path),
        op: found.op as u32,
        reserved: 0,
        bytes: found.bytes,
        descriptors: found.descriptors,
        requests: found.requests,
        errors: found.errors,
        retries: found.retries,
        micros: found.micros,
        buckets: found.buckets,
    }
}

/// Reads the counters of every peer, path and direction into `array`, which has room for
/// `capacity`; `count` receives how many there are, which may be more. Set array[0].size first: the
/// others get the same.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_agent_path_counters(
    agent: *const nixl_rs_agent,
    array: *mut nixl_rs_path_counters,
    capacity: usize,
    count: *mut usize,
) -> nixl_rs_status {
    call(|| {
        check_out(count)?;
        self::agent(agent, |core| {
            let all = core.snapshot().paths;
            fill_all(array, capacity, &all)?;
            put(count, all.len())
        })
    })
}

fn fill_all(array: *mut nixl_rs_path_counters, capacity: usize, all: &[PathSnapshot]) -> Result {
    if capacity == 0 {
        return Ok(());
    }
    let size = crate::ffi::size_of_struct(array)?;
    if !size.is_multiple_of(align_of::<nixl_rs_path_counters>()) {
        return Err(misuse("the size of an element is no multiple of 8"));
    }
    for (index, found) in all.iter().take(capacity).enumerate() {
        // Elements are as large as C thinks, which may be more or less than here.
        let at = array.wrapping_byte_add(index * size);
        put(at.cast::<usize>(), size)?;
        fill(at, &path(found))?;
    }
    Ok(())
}
