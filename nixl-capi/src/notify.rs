//! Notifications.

use std::{
    ffi::{CString, c_char, c_void},
    time::Duration,
};

use crate::{
    agent::{agent, millis, nixl_rs_agent},
    ffi::{Versioned, array, check_out, fill, free, put, put_handle, text, with},
    status::{call, nixl_rs_status},
};

/// Bytes that another agent sent.
pub struct nixl_rs_notification(());

pub(crate) struct Notification {
    from: CString,
    inner: nixl::Notification,
}

/// What nixl_rs_notification_get says; the pointers are valid until the notification is freed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nixl_rs_notification_view {
    /// sizeof(nixl_rs_notification_view)
    pub size: usize,
    /// The sender's name.
    pub from: *const c_char,
    /// The bytes.
    pub data: *const c_void,
    /// How many.
    pub len: usize,
    /// The sender's incarnation.
    pub generation: u64,
    /// 1 if the sender is loaded here and proved who it is; else name and generation are claims.
    pub verified: u32,
    /// Always 0.
    pub reserved: u32,
}

// SAFETY: INV-8, integers and pointers.
unsafe impl Versioned for nixl_rs_notification_view {}

/// Sends bytes to a loaded peer, after everything that became deliverable before. Returns once
/// they are queued.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_notify(
    agent: *const nixl_rs_agent,
    peer: *const c_char,
    data: *const c_void,
    len: usize,
) -> nixl_rs_status {
    call(|| {
        let peer = text(peer, "the peer's name")?;
        let data = array(data.cast::<u8>(), len, "the notification")?;
        self::agent(agent, |core| Ok(core.notify(peer, data)?))
    })
}

/// Takes the oldest notification, waiting for one up to `timeout_ms`. `out` becomes NULL when none
/// came.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_take_notification(
    agent: *const nixl_rs_agent,
    timeout_ms: u64,
    out: *mut *mut nixl_rs_notification,
) -> nixl_rs_status {
    call(|| {
        check_out(out)?;
        let found = self::agent(agent, |core| {
            Ok(match millis(timeout_ms) {
                Duration::ZERO => core.take_notification(),
                wait => core.wait_notification(wait),
            })
        });
        let Some(inner) = found? else {
            return put(out, std::ptr::null_mut());
        };
        // A name that C could not read otherwise.
        let from = CString::new(inner.from.replace('\0', "\u{fffd}")).unwrap_or_default();
        put_handle(out, Notification { from, inner })
    })
}

/// Looks into a notification. Set view->size first.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_notification_get(
    notification: *const nixl_rs_notification,
    view: *mut nixl_rs_notification_view,
) -> nixl_rs_status {
    call(|| {
        with(notification, |found: &Notification| {
            let value = nixl_rs_notification_view {
                size: 0,
                from: found.from.as_ptr(),
                data: found.inner.data.as_ptr().cast(),
                len: found.inner.data.len(),
                generation: found.inner.generation.0,
                verified: u32::from(found.inner.verified),
                reserved: 0,
            };
            fill(view, &value)
        })
    })
}

/// Frees a notification.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_notification_free(
    notification: *mut nixl_rs_notification,
) -> nixl_rs_status {
    call(|| free::<Notification, _>(notification))
}
