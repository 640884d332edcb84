//! Errors that say who is to blame.

use std::borrow::Cow;

use nixl_core::{Error, ErrorKind, error::fail};

/// The peer broke the protocol.
pub(crate) fn misbehaved(what: impl Into<Cow<'static, str>>) -> Error {
    fail(ErrorKind::PeerMisbehaved, what)
}

/// The peer's process or connection is gone.
pub(crate) fn gone(what: impl Into<Cow<'static, str>>) -> Error {
    fail(ErrorKind::PeerGone, what)
}

/// The connection was ended on this side.
pub(crate) fn closed_here() -> Error {
    gone("the connection was closed here")
}

/// A path or a kind of memory that is not there.
pub(crate) fn unsupported(what: impl Into<Cow<'static, str>>) -> Error {
    fail(ErrorKind::Unsupported, what)
}
