//! Transfer requests.

use std::ffi::{c_char, c_void};

use bytes::Bytes;
use nixl::{ErrorKind, PostOptions, PreparedLocal, PreparedRemote, Request, Select, Status};

use crate::{
    agent::{agent, millis, nixl_rs_agent, operation},
    ffi::{Versioned, array, check_out, fill, free, options, put_handle, text, with},
    list::{copy, nixl_rs_list, nixl_rs_local, nixl_rs_remote},
    status::{
        NIXL_RS_ERR_NOT_POSTED, NIXL_RS_IN_PROG, NIXL_RS_SUCCESS, Result, Stop, answer, call,
        misuse, nixl_rs_status, told,
    },
};

/// A transfer, prepared once, posted as often as one likes.
pub struct nixl_rs_request(());

/// Options of nixl_rs_request_post.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nixl_rs_post_options {
    /// sizeof(nixl_rs_post_options)
    pub size: usize,
    /// Bytes that the target is given after the data is visible to it; NULL: no notification.
    pub notification: *const c_void,
    /// How many; a notification may be empty.
    pub notification_len: usize,
    /// Milliseconds until the request must have ended; 0: as the agent's configuration says.
    pub deadline_ms: u64,
}

// SAFETY: INV-8, integers and a pointer.
unsafe impl Versioned for nixl_rs_post_options {}

/// Posted, and no byte moved for a while.
pub const NIXL_RS_STALLED: u32 = 1;

/// What nixl_rs_request_info says.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nixl_rs_request_info_t {
    /// sizeof(nixl_rs_request_info_t)
    pub size: usize,
    /// NIXL_RS_READ or NIXL_RS_WRITE.
    pub op: u32,
    /// NIXL_RS_STALLED, or 0.
    pub flags: u32,
    /// Bytes to move.
    pub bytes: u64,
    /// Bytes that the present, or last, post has moved so far.
    pub moved: u64,
    /// Blocks asked for.
    pub descriptors: u64,
    /// Blocks left after merging adjacent ones.
    pub merged: u64,
}

// SAFETY: INV-8, integers.
unsafe impl Versioned for nixl_rs_request_info_t {}

/// Called when a post ends, on the thread that ended it: it must not block, throw or longjmp.
pub type nixl_rs_callback =
    Option<extern "C" fn(user: *mut c_void, request_status: nixl_rs_status)>;

/// Which blocks: all for NULL and 0.
fn select<'a>(indices: *const u32, count: usize, side: &'static str) -> Result<Select<'a>> {
    if indices.is_null() && count == 0 {
        return Ok(Select::All);
    }
    array(indices, count, side).map(Select::Indices)
}

/// Prepares a transfer between all blocks of two lists, paired in order.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_request_create(
    agent: *const nixl_rs_agent,
    op: u32,
    local: *const nixl_rs_list,
    peer: *const c_char,
    remote: *const nixl_rs_list,
    out: *mut *mut nixl_rs_request,
) -> nixl_rs_status {
    call(|| {
        check_out(out)?;
        let (op, peer) = (operation(op)?, text(peer, "the peer's name")?);
        let (local, remote) = (copy(local)?, copy(remote)?);
        self::agent(agent, |core| {
            put_handle(out, core.create_request(op, &local, peer, &remote)?)
        })
    })
}

/// Prepares a transfer between blocks of two prepared lists, by their indices, paired in order;
/// NULL and 0 take all blocks of a list.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_request_make(
    agent: *const nixl_rs_agent,
    op: u32,
    local: *const nixl_rs_local,
    local_indices: *const u32,
    local_count: usize,
    remote: *const nixl_rs_remote,
    remote_indices: *const u32,
    remote_count: usize,
    out: *mut *mut nixl_rs_request,
) -> nixl_rs_status {
    call(|| {
        check_out(out)?;
        let op = operation(op)?;
        let here = select(local_indices, local_count, "local indices")?;
        let there = select(remote_indices, remote_count, "remote indices")?;
        let request = self::agent(agent, |core| {
            with(local, |local: &PreparedLocal| {
                with(remote, |remote: &PreparedRemote| {
                    Ok(core.request(op, local, here, remote, there)?)
                })
            })
        });
        put_handle(out, request?)
    })
}

/// Starts a transfer. `options` may be NULL.
///
/// NIXL_RS_IN_PROG: it goes on. NIXL_RS_SUCCESS: it is done already. An error: it did not start, or
/// failed at once.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_request_post(
    request: *const nixl_rs_request,
    options: *const nixl_rs_post_options,
) -> nixl_rs_status {
    answer(|| {
        if options.is_null() {
            return with(request, |request: &Request| {
                request.post()?;
                Ok(status(request))
            });
        }
        let options = self::options(options)?;
        let notification = match options.notification.is_null() {
            true if options.notification_len > 0 => return Err(misuse("the notification is NULL")),
            true => None,
            false => {
                let first = options.notification.cast::<u8>();
                let bytes = array(first, options.notification_len, "the notification")?;
                Some(Bytes::copy_from_slice(bytes))
            }
        };
        let deadline = (options.deadline_ms > 0).then(|| millis(options.deadline_ms));
        with(request, |request: &Request| {
            request.post_with(PostOptions {
                notification,
                deadline,
            })?;
            Ok(status(request))
        })
    })
}

#[inline]
fn status(request: &Request) -> nixl_rs_status {
    match request.status() {
        Status::Done => NIXL_RS_SUCCESS,
        Status::Active | Status::Stalled => NIXL_RS_IN_PROG,
        Status::Prepared => NIXL_RS_ERR_NOT_POSTED,
        Status::Failed(e) => told(&e),
        Status::Cancelled => ErrorKind::Cancelled.status(),
    }
}

/// How a request stands: NIXL_RS_IN_PROG, NIXL_RS_SUCCESS, NIXL_RS_ERR_NOT_POSTED, or what it
/// failed with. Once it is none of IN_PROG nothing touches its memory. Never blocks.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_request_status(request: *const nixl_rs_request) -> nixl_rs_status {
    answer(|| with(request, |request: &Request| Ok(status(request))))
}

/// Waits until a request ends; NIXL_RS_IN_PROG when it has not after `timeout_ms`, or when another
/// thread has posted it again.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_request_wait(
    request: *const nixl_rs_request,
    timeout_ms: u64,
) -> nixl_rs_status {
    answer(|| {
        with(request, |request: &Request| {
            match request.wait(millis(timeout_ms)) {
                Ok(()) => Ok(NIXL_RS_SUCCESS),
                // Its own deadline is an end, and has another status.
                Err(e) if e.kind() == ErrorKind::Timeout && is_active(request) => {
                    Ok(NIXL_RS_IN_PROG)
                }
                Err(e) => Err(Stop::Error(e)),
            }
        })
    })
}

fn is_active(request: &Request) -> bool {
    matches!(request.status(), Status::Active | Status::Stalled)
}

/// Asks for an early end. The request ends as cancelled, or as it would have, once no late access
/// can land.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_request_cancel(request: *const nixl_rs_request) -> nixl_rs_status {
    call(|| {
        with(request, |request: &Request| {
            request.cancel();
            Ok(())
        })
    })
}

/// Calls `callback` with `user` at the end of every post, one call at a time. Another callback
/// takes its place; NULL takes it away. `user` must stay valid until the request was freed and has
/// ended.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_request_on_complete(
    request: *const nixl_rs_request,
    callback: nixl_rs_callback,
    user: *mut c_void,
) -> nixl_rs_status {
    // A number, so that the callback may go to another thread; what it means is C's affair.
    let user = user.expose_provenance();
    call(|| {
        with(request, |request: &Request| {
            request.on_complete(Box::new(move |result| {
                let status = match result {
                    Ok(()) => NIXL_RS_SUCCESS,
                    Err(e) => told(e),
                };
                if let Some(callback) = callback {
                    callback(std::ptr::with_exposed_provenance_mut(user), status);
                }
            }));
            Ok(())
        })
    })
}

/// What a request moves, and how far it is. Set info->size first.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_request_info(
    request: *const nixl_rs_request,
    info: *mut nixl_rs_request_info_t,
) -> nixl_rs_status {
    call(|| {
        with(request, |request: &Request| {
            let plan = request.plan();
            let stalled = request.status() == Status::Stalled;
            let value = nixl_rs_request_info_t {
                size: 0,
                op: plan.op() as u32,
                flags: if stalled { NIXL_RS_STALLED } else { 0 },
                bytes: plan.bytes(),
                moved: request.moved(),
                descriptors: plan.asked(),
                merged: plan.merged(),
            };
            fill(info, &value)
        })
    })
}

/// Frees a request. An active one is cancelled; its memory stays registered until nothing touches
/// it.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_request_free(request: *mut nixl_rs_request) -> nixl_rs_status {
    call(|| free::<Request, _>(request))
}
