//! Status values, the last error of a thread, and what becomes of panics.

use std::{
    cell::RefCell,
    ffi::{CStr, CString, c_char},
    panic::{AssertUnwindSafe, catch_unwind},
};

use nixl::{Error, ErrorKind};

/// What a call came to: negative for an error. Numbers from -1 to -12 are NIXL's `nixl_status_t`.
pub type nixl_rs_status = i32;

/// It is still going on.
pub const NIXL_RS_IN_PROG: i32 = 1;
/// Done.
pub const NIXL_RS_SUCCESS: i32 = 0;
/// The request was never posted.
pub const NIXL_RS_ERR_NOT_POSTED: i32 = -1;
/// The caller passed something that cannot be right.
pub const NIXL_RS_ERR_INVALID_PARAM: i32 = -2;
/// A system call or device failed.
pub const NIXL_RS_ERR_BACKEND: i32 = -3;
/// A name is not known here, or a block lies in no registered memory.
pub const NIXL_RS_ERR_NOT_FOUND: i32 = -4;
/// Counts or lengths of two lists differ, or metadata does not decode.
pub const NIXL_RS_ERR_MISMATCH: i32 = -5;
/// Policy or configuration forbids it.
pub const NIXL_RS_ERR_NOT_ALLOWED: i32 = -6;
/// The request is still active, so it cannot be posted again.
pub const NIXL_RS_ERR_REPOST_ACTIVE: i32 = -7;
/// A bug in this library: it panicked.
pub const NIXL_RS_ERR_UNKNOWN: i32 = -8;
/// No path or feature can do it.
pub const NIXL_RS_ERR_NOT_SUPPORTED: i32 = -9;
/// The peer died, closed or was cut off.
pub const NIXL_RS_ERR_REMOTE_DISCONNECT: i32 = -10;
/// The caller cancelled it.
pub const NIXL_RS_ERR_CANCELED: i32 = -11;
/// There is nothing to report, because nothing has completed.
pub const NIXL_RS_ERR_NO_TELEMETRY: i32 = -12;
/// The deadline passed.
pub const NIXL_RS_ERR_TIMEOUT: i32 = -100;
/// Somebody still uses the memory; it stays registered.
pub const NIXL_RS_ERR_STILL_MAPPED: i32 = -101;
/// Another living agent has this name.
pub const NIXL_RS_ERR_NAME_CONFLICT: i32 = -102;
/// The peer broke the protocol.
pub const NIXL_RS_ERR_PEER_MISBEHAVED: i32 = -103;
/// The peer could not prove who it is.
pub const NIXL_RS_ERR_UNAUTHENTICATED: i32 = -104;
/// Metadata older than what is loaded, or replayed.
pub const NIXL_RS_ERR_STALE: i32 = -105;
/// A limit was reached.
pub const NIXL_RS_ERR_EXHAUSTED: i32 = -106;
/// A backend dropped an operation (a bug in it).
pub const NIXL_RS_ERR_ABANDONED: i32 = -107;

/// Every status with its name.
pub(crate) const NAMES: [(i32, &CStr); 22] = [
    (NIXL_RS_IN_PROG, c"NIXL_RS_IN_PROG"),
    (NIXL_RS_SUCCESS, c"NIXL_RS_SUCCESS"),
    (NIXL_RS_ERR_NOT_POSTED, c"NIXL_RS_ERR_NOT_POSTED"),
    (NIXL_RS_ERR_INVALID_PARAM, c"NIXL_RS_ERR_INVALID_PARAM"),
    (NIXL_RS_ERR_BACKEND, c"NIXL_RS_ERR_BACKEND"),
    (NIXL_RS_ERR_NOT_FOUND, c"NIXL_RS_ERR_NOT_FOUND"),
    (NIXL_RS_ERR_MISMATCH, c"NIXL_RS_ERR_MISMATCH"),
    (NIXL_RS_ERR_NOT_ALLOWED, c"NIXL_RS_ERR_NOT_ALLOWED"),
    (NIXL_RS_ERR_REPOST_ACTIVE, c"NIXL_RS_ERR_REPOST_ACTIVE"),
    (NIXL_RS_ERR_UNKNOWN, c"NIXL_RS_ERR_UNKNOWN"),
    (NIXL_RS_ERR_NOT_SUPPORTED, c"NIXL_RS_ERR_NOT_SUPPORTED"),
    (
        NIXL_RS_ERR_REMOTE_DISCONNECT,
        c"NIXL_RS_ERR_REMOTE_DISCONNECT",
    ),
    (NIXL_RS_ERR_CANCELED, c"NIXL_RS_ERR_CANCELED"),
    (NIXL_RS_ERR_NO_TELEMETRY, c"NIXL_RS_ERR_NO_TELEMETRY"),
    (NIXL_RS_ERR_TIMEOUT, c"NIXL_RS_ERR_TIMEOUT"),
    (NIXL_RS_ERR_STILL_MAPPED, c"NIXL_RS_ERR_STILL_MAPPED"),
    (NIXL_RS_ERR_NAME_CONFLICT, c"NIXL_RS_ERR_NAME_CONFLICT"),
    (NIXL_RS_ERR_PEER_MISBEHAVED, c"NIXL_RS_ERR_PEER_MISBEHAVED"),
    (NIXL_RS_ERR_UNAUTHENTICATED, c"NIXL_RS_ERR_UNAUTHENTICATED"),
    (NIXL_RS_ERR_STALE, c"NIXL_RS_ERR_STALE"),
    (NIXL_RS_ERR_EXHAUSTED, c"NIXL_RS_ERR_EXHAUSTED"),
    (NIXL_RS_ERR_ABANDONED, c"NIXL_RS_ERR_ABANDONED"),
];

/// Why a call did not succeed.
#[derive(Debug)]
pub(crate) enum Stop {
    Error(Error),
    /// No error of the library's: a status of C's own, and its text.
    Status(nixl_rs_status, &'static str),
}

pub(crate) type Result<T = (), E = Stop> = std::result::Result<T, E>;

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Self::Error(e)
    }
}

/// What is wrong with the caller's arguments.
pub(crate) fn misuse(what: impl Into<std::borrow::Cow<'static, str>>) -> Stop {
    Stop::Error(Error::new(ErrorKind::ApiMisuse, what))
}

thread_local! {
    static LAST: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// Keeps `text` for [`nixl_rs_last_error`]. A thread that ends has nobody left to read it.
pub(crate) fn remember(text: &str) {
    let text = CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default();
    let _ = LAST.try_with(|last| last.replace(Some(text)));
}

/// The status of an error, whose text is remembered.
pub(crate) fn told(e: &Error) -> nixl_rs_status {
    remember(&e.to_string());
    e.kind().status()
}

/// Runs one call of C's. Nothing unwinds into C.
#[inline]
pub(crate) fn call(run: impl FnOnce() -> Result) -> nixl_rs_status {
    answer(|| run().map(|()| NIXL_RS_SUCCESS))
}

/// As [`call`], for a call that can succeed in more than one way.
#[inline]
pub(crate) fn answer(run: impl FnOnce() -> Result<nixl_rs_status>) -> nixl_rs_status {
    // What a panic leaves half done is behind locks that do not poison.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(status)) => status,
        Ok(Err(stop)) => failed(&stop),
        Err(_) => {
            remember("this library panicked, which is a bug; its message stands on stderr");
            NIXL_RS_ERR_UNKNOWN
        }
    }
}

#[cold]
fn failed(stop: &Stop) -> nixl_rs_status {
    match stop {
        Stop::Error(e) => told(e),
        Stop::Status(status, text) => {
            remember(text);
            *status
        }
    }
}

/// What the last call that failed on this thread said: UTF-8, never NULL, empty before the first.
/// Valid until the next failure on this thread. Calls that succeed leave it alone.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_last_error() -> *const c_char {
    let last = LAST.try_with(|last| last.borrow().as_deref().map(CStr::as_ptr));
    last.ok().flatten().unwrap_or(c"".as_ptr())
}

/// The name of a status, such as "NIXL_RS_ERR_TIMEOUT"; "NIXL_RS_BAD_STATUS" for none of ours.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_status_name(status: nixl_rs_status) -> *const c_char {
    let found = NAMES.iter().find(|(number, _)| *number == status);
    found
        .map_or(c"NIXL_RS_BAD_STATUS", |(_, name)| name)
        .as_ptr()
}

/// This library's version, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

#[cfg(test)]
mod unit {
    use std::thread;

    use super::*;

    fn last() -> String {
        // SAFETY: INV-8, a string of ours, which stays until the next failure on this thread.
        let text = unsafe { CStr::from_ptr(nixl_rs_last_error()) };
        text.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_is_a_status() {
        assert_eq!(call(|| panic!("a bug")), NIXL_RS_ERR_UNKNOWN);
        assert!(last().contains("panicked"), "{}", last());
    }

    #[test]
    fn each_thread_has_its_last_error() {
        assert_eq!(last(), "");
        assert_eq!(call(|| Err(misuse("a\0b"))), NIXL_RS_ERR_INVALID_PARAM);
        assert!(last().contains("a\u{fffd}b"), "{}", last());
        assert_eq!(call(|| Ok(())), NIXL_RS_SUCCESS);
        assert!(last().contains("a\u{fffd}b"), "{}", last());
        thread::spawn(|| assert_eq!(last(), "")).join().unwrap();
    }

    #[test]
    fn statuses_are_those_of_the_library() {
        let known = |status: i32| NAMES.iter().any(|(number, _)| *number == status);
        for kind in [
            (ErrorKind::NotPosted, NIXL_RS_ERR_NOT_POSTED),
            (ErrorKind::ApiMisuse, NIXL_RS_ERR_INVALID_PARAM),
            (ErrorKind::Backend, NIXL_RS_ERR_BACKEND),
            (ErrorKind::NotRegistered, NIXL_RS_ERR_NOT_FOUND),
            (ErrorKind::NotFound, NIXL_RS_ERR_NOT_FOUND),
            (ErrorKind::Mismatch, NIXL_RS_ERR_MISMATCH),
            (ErrorKind::Malformed, NIXL_RS_ERR_MISMATCH),
            (ErrorKind::NotAllowed, NIXL_RS_ERR_NOT_ALLOWED),
            (ErrorKind::RepostActive, NIXL_RS_ERR_REPOST_ACTIVE),
            (ErrorKind::Unsupported, NIXL_RS_ERR_NOT_SUPPORTED),
            (ErrorKind::PeerGone, NIXL_RS_ERR_REMOTE_DISCONNECT),
            (ErrorKind::Cancelled, NIXL_RS_ERR_CANCELED),
            (ErrorKind::Timeout, NIXL_RS_ERR_TIMEOUT),
            (ErrorKind::StillMapped, NIXL_RS_ERR_STILL_MAPPED),
            (ErrorKind::NameConflict, NIXL_RS_ERR_NAME_CONFLICT),
            (ErrorKind::PeerMisbehaved, NIXL_RS_ERR_PEER_MISBEHAVED),
            (ErrorKind::Unauthenticated, NIXL_RS_ERR_UNAUTHENTICATED),
            (ErrorKind::Stale, NIXL_RS_ERR_STALE),
            (ErrorKind::Exhausted, NIXL_RS_ERR_EXHAUSTED),
            (ErrorKind::Abandoned, NIXL_RS_ERR_ABANDONED),
        ] {
            assert_eq!(kind.0.status(), kind.1, "{:?}", kind.0);
            assert!(known(kind.1), "{:?} has no name", kind.0);
        }
    }
}
