//! UCX's status codes, and what they mean for the library's errors.

use std::fmt;

use nixl_core::{Error, ErrorKind, error::fail};
use ucx_sys as sys;

use super::{Api, Posted};

/// A status code of UCX. Unknown ones are fine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(i32);

impl Status {
    pub(crate) const NO_RESOURCE: Self = Self(-2);
    pub(crate) const NO_MEMORY: Self = Self(-4);
    pub(crate) const UNREACHABLE: Self = Self(-6);
    pub(crate) const CANCELED: Self = Self(-16);
    pub(crate) const BUSY: Self = Self(-15);

    pub(super) fn of(status: sys::ucs_status_t) -> Self {
        Self(i32::from(status.0))
    }

    /// What a call that may begin an operation returned.
    pub(super) fn of_pointer(pointer: sys::ucs_status_ptr_t) -> Result<Posted, Self> {
        match sys::Posted::from_ptr(pointer) {
            sys::Posted::Done => Ok(Posted::Now),
            sys::Posted::Pending(_) => Ok(Posted::Later),
            sys::Posted::Failed(status) => Err(Self::of(status)),
        }
    }

    pub(super) fn raw(self) -> sys::ucs_status_t {
        // Every status that is made from one fits again.
        sys::ucs_status_t(self.0 as i8)
    }

    /// Its number, 0 or below.
    pub(crate) fn code(self) -> i32 {
        self.0
    }

    /// The failure with this number; `None` for 0.
    pub(crate) fn from_code(code: i32) -> Option<Self> {
        (code != 0).then_some(Self(code))
    }

    pub(crate) fn is_err(self) -> bool {
        self.0 < 0
    }

    pub(crate) fn ok(self) -> Result<(), Self> {
        if self.is_err() { Err(self) } else { Ok(()) }
    }

    /// Try again after some progress.
    pub(crate) fn is_pressure(self) -> bool {
        matches!(self, Self::NO_RESOURCE | Self::NO_MEMORY)
    }

    fn kind(self) -> ErrorKind {
        match self.0 {
            // NO_RESOURCE, NO_MEMORY, SHMEM_SEGMENT, EXCEEDS_LIMIT
            -2 | -4 | -17 | -21 => ErrorKind::Exhausted,
            // UNREACHABLE, SOME_CONNECTS_FAILED, CANCELED, REJECTED, NOT_CONNECTED,
            // CONNECTION_RESET, link and endpoint failures
            -6 | -13 | -16 | -25..=-23 | -89..=-40 => ErrorKind::PeerGone,
            // NOT_IMPLEMENTED, NO_DEVICE, UNSUPPORTED
            -8 | -14 | -22 => ErrorKind::Unsupported,
            -20 => ErrorKind::Timeout,
            _ => ErrorKind::Backend,
        }
    }

    /// What to do about it.
    fn advice(self) -> &'static str {
        match self.kind() {
            ErrorKind::Exhausted => {
                "; memory, descriptors or queues ran out: raise the limits (ulimit -l, ulimit -n, \
                 /dev/shm), or use fewer regions and peers"
            }
            ErrorKind::PeerGone => {
                "; the peer died, closed or was cut off: post again once it is back"
            }
            ErrorKind::Unsupported => "; compare UCX_TLS and UCX_NET_DEVICES on both sides",
            ErrorKind::Timeout => "; the peer is stopped or too slow",
            _ => "; UCX_LOG_LEVEL=info says more",
        }
    }

    /// An error that says what failed, in UCX's words, and what to do.
    pub(crate) fn error(self, api: &Api, what: impl fmt::Display) -> Error {
        let (why, advice) = (api.describe(self), self.advice());
        let text = format!("{what}: UCX: {why}{advice}{}", words());
        fail(self.kind(), text)
    }
}

/// What UCX has logged on this thread since [`forget_words`]: why, where a status says only what.
pub(super) fn words() -> String {
    let mut said = sys::said();
    said.dedup();
    match said.is_empty() {
        true => String::new(),
        false => format!(" (UCX says: {})", said.join("; ")),
    }
}

/// What UCX says from here on belongs to the calls that follow.
pub(super) fn forget_words() {
    drop(sys::said());
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UCX status {}", self.0)
    }
}
