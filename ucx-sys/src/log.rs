//! UCX's own words: what libucs logs on a thread, kept until somebody asks why a call failed.
//!
//! UCX writes its log to standard output, which belongs to the program. So its errors and warnings
//! become events of `tracing` (target `ucx`) where the program listens to those, and has not told
//! UCX itself where to log, or how much.
//!
//! No call of libucp says why a transport was left out; its log does. `ucs_log_push_handler` is in
//! every libucs from 1.13 to 1.23, but in none of the installed headers, so its type stands here.

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::cell::RefCell;
use std::env;
use std::ptr::NonNull;
use std::sync::{Mutex, OnceLock, PoisonError};

/// `ucs_log_func_t`. The last argument is a `va_list`, which on x86-64 and 64-bit ARM is passed as a
/// pointer.
type Handler = unsafe extern "C" fn(
    *const c_char,
    c_uint,
    *const c_char,
    c_int,
    *const c_void,
    *const c_char,
    *mut c_void,
) -> c_int;

/// `ucs_log_push_handler`.
type Push = unsafe extern "C" fn(Handler);

unsafe extern "C" {
    /// vsnprintf(3), with a `va_list` as a handler gets it.
    fn vsnprintf(to: *mut c_char, len: usize, format: *const c_char, list: *mut c_void) -> c_int;
}

/// `UCS_LOG_LEVEL_WARN`; errors are below, what is for developers above.
const WARN: c_int = 2;
/// `UCS_LOG_FUNC_RC_STOP`: nobody else is told.
const STOP: c_int = 0;
/// `UCS_LOG_FUNC_RC_CONTINUE`: the next handler, in the end UCX's own, is called too.
const GO_ON: c_int = 1;
/// With one of these set, UCX logs by itself.
const BY_ITSELF: [&str; 2] = ["UCX_LOG_FILE", "UCX_LOG_LEVEL"];
/// Messages kept for a thread, and bytes of each.
const KEPT: usize = 8;
const LONGEST: usize = 512;

thread_local! {
    static SAID: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// The libucs that have the handler already, by the address of their function.
static HOOKED: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Takes what UCX said on this thread, in errors and warnings, since it was last asked; the first
/// few messages of each library for which [`Library::listen`](crate::Library::listen) was called.
pub fn said() -> Vec<String> {
    SAID.try_with(|said| std::mem::take(&mut *said.borrow_mut()))
        .unwrap_or_default()
}

/// Has a libucs call [`keep`] from now on, once.
///
/// # Safety
///
/// `push` is the `ucs_log_push_handler` of a library that is never closed.
pub(crate) unsafe fn hook(push: NonNull<c_void>) {
    if cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64"))) {
        return;
    }
    let mut hooked = HOOKED.lock().unwrap_or_else(PoisonError::into_inner);
    if hooked.contains(&push.as_ptr().addr()) {
        return;
    }
    hooked.push(push.as_ptr().addr());
    // SAFETY: INV-7, the caller says that it is the function of that name, which has had this type
    // in every UCX.
    let push = unsafe { std::mem::transmute::<NonNull<c_void>, Push>(push) };
    // SAFETY: INV-7, as above; the handler is never unloaded.
    unsafe { push(keep) };
}

/// Keeps a message for this thread. Called by UCX, and calls nothing of it.
unsafe extern "C" fn keep(
    _: *const c_char,
    _: c_uint,
    _: *const c_char,
    level: c_int,
    _: *const c_void,
    format: *const c_char,
    list: *mut c_void,
) -> c_int {
    if !(0..=WARN).contains(&level) {
        return GO_ON;
    }
    // SAFETY: INV-5, UCX's format and the list that belongs to it.
    let text = unsafe { text(format, list) };
    // UCX ends the process after a fatal one, so that one it shows itself.
    let ours = level > 0 && tracing::dispatcher::has_been_set() && !logs_by_itself();
    if ours {
        tracing::warn!(target: "ucx", "{text}");
    }
    // A thread that ends has no place to keep it any more.
    let _ = SAID.try_with(|said| {
        if let Ok(mut said) = said.try_borrow_mut()
            && said.len() < KEPT
        {
            said.push(text);
        }
    });
    if ours { STOP } else { GO_ON }
}

/// Whether the user has told UCX itself how to log.
fn logs_by_itself() -> bool {
    static TOLD: OnceLock<bool> = OnceLock::new();
    *TOLD.get_or_init(|| BY_ITSELF.iter().any(|name| env::var_os(name).is_some()))
}

/// # Safety
///
/// `list` is the `va_list` of what `format` names, not used yet.
unsafe fn text(format: *const c_char, list: *mut c_void) -> String {
    let mut bytes = [0u8; LONGEST];
    let to = bytes.as_mut_ptr().cast();
    // SAFETY: INV-5, the buffer is as long as it is told; INV-7, the caller vouches for the rest.
    unsafe { vsnprintf(to, bytes.len(), format, list) };
    let text = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls the handler as libucs does, with a `va_list` from which no format here takes anything.
    fn tell(level: c_int, format: &CStr) -> c_int {
        let mut list = [0u64; 4];
        let (none, list) = (std::ptr::null(), list.as_mut_ptr().cast());
        // SAFETY: INV-5, the format names no argument.
        unsafe { keep(none, 0, none, level, none.cast(), format.as_ptr(), list) }
    }

    #[test]
    fn errors_and_warnings_are_kept_for_the_thread_that_caused_them() {
        assert_eq!(said(), Vec::<String>::new());
        assert_eq!(tell(1, c"no transport to you"), GO_ON);
        assert_eq!(tell(2, c"100%% odd"), GO_ON);
        assert_eq!(tell(4, c"for developers"), GO_ON);
        let elsewhere = std::thread::spawn(said).join().unwrap();
        assert_eq!(elsewhere, Vec::<String>::new());
        assert_eq!(said(), ["no transport to you", "100% odd"]);
        assert_eq!(said(), Vec::<String>::new(), "they are taken");
    }

    #[test]
    fn neither_many_nor_long_ones_are_kept_whole() {
        let long = std::ffi::CString::new("x".repeat(2 * LONGEST)).unwrap();
        for _ in 0..3 * KEPT {
            tell(1, &long);
        }
        let said = said();
        assert_eq!(said.len(), KEPT);
        assert!(said.iter().all(|text| text.len() == LONGEST - 1));
    }
}
