//! The account of a completed transfer.

use std::{ffi::c_char, fmt::Write, time::Duration};

use nixl::{Receipt, Request};

use crate::{
    blob::{give, nixl_rs_blob},
    ffi::{Versioned, chars, fill, with},
    request::nixl_rs_request,
    status::{NIXL_RS_ERR_NO_TELEMETRY, Result, Stop, call, nixl_rs_status},
};

/// What the last completed post of a request did.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nixl_rs_receipt {
    /// sizeof(nixl_rs_receipt)
    pub size: usize,
    /// The path that moved the bytes, such as "shm", ended by a zero.
    pub path: [c_char; 32],
    /// NIXL_RS_READ or NIXL_RS_WRITE.
    pub op: u32,
    /// 1 if the peer is an agent of NIXL's.
    pub foreign: u32,
    /// Bytes moved.
    pub bytes: u64,
    /// Blocks asked for.
    pub descriptors: u64,
    /// Blocks left after merging adjacent ones.
    pub merged: u64,
    /// Nanoseconds that the post call took.
    pub post_ns: u64,
    /// Nanoseconds from post to completion.
    pub total_ns: u64,
    /// Attempts made; more than 1: a path failed first.
    pub attempts: u32,
    /// Always 0.
    pub reserved: u32,
}

// SAFETY: INV-8, integers.
unsafe impl Versioned for nixl_rs_receipt {}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn with_receipt(
    request: *const nixl_rs_request,
    run: impl FnOnce(&Receipt) -> Result,
) -> nixl_rs_status {
    call(|| {
        with(request, |request: &Request| match request.receipt() {
            Some(receipt) => run(&receipt),
            None => Err(Stop::Status(
                NIXL_RS_ERR_NO_TELEMETRY,
                "no post of the request has completed",
            )),
        })
    })
}

/// The account of the last completed post; NIXL_RS_ERR_NO_TELEMETRY before there is one. Set
/// receipt->size first.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_request_receipt(
    request: *const nixl_rs_request,
    receipt: *mut nixl_rs_receipt,
) -> nixl_rs_status {
    with_receipt(request, |found| {
        let value = nixl_rs_receipt {
            size: 0,
            path: chars(found.path),
            op: found.op as u32,
            foreign: u32::from(found.foreign),
            bytes: found.bytes,
            descriptors: found.descriptors,
            merged: found.merged,
            post_ns: nanos(found.post_time),
            total_ns: nanos(found.total_time),
            attempts: found.attempts,
            reserved: 0,
        };
        fill(receipt, &value)
    })
}

/// The path, its lanes, and why earlier paths failed: a line each, for people.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_request_receipt_text(
    request: *const nixl_rs_request,
    text: *mut *mut nixl_rs_blob,
) -> nixl_rs_status {
    with_receipt(request, |found| {
        let mut lines = format!("path {}\nlanes {}\n", found.path, found.lanes);
        for (path, why) in &found.failures {
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "failed {path}: {why}");
        }
        give(text, lines.as_bytes())
    })
}
