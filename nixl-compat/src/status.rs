//! Status values, and what becomes of errors and panics.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nixl::ErrorKind;

/// `nixl_capi_status_t`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Status {
    Success = 0,
    InvalidParam = -1,
    Backend = -2,
    InvalidState = -3,
    Exception = -4,
    InProgress = 1,
    NoTelemetry = -5,
    NotFound = -6,
}

pub(crate) type Result<T = (), E = Status> = std::result::Result<T, E>;

impl From<nixl::Error> for Status {
    /// As NIXL's wrapper sorts NIXL's errors; the text, which a number cannot carry, is logged.
    fn from(e: nixl::Error) -> Self {
        tracing::warn!(error = %e, "a call through NIXL's C interface failed");
        match e.kind() {
            ErrorKind::ApiMisuse | ErrorKind::Mismatch => Self::InvalidParam,
            ErrorKind::NotFound | ErrorKind::NotRegistered => Self::NotFound,
            _ => Self::Backend,
        }
    }
}

/// Runs one call of C's. Nothing unwinds into C.
pub(crate) fn call(run: impl FnOnce() -> Result) -> Status {
    // What a panic leaves half done is behind locks that do not poison, and whole again at the
    // next call: every change here is one assignment or one insertion.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => Status::Success,
        Ok(Err(status)) => status,
        Err(_) => Status::Exception,
    }
}
