//! Failed system calls as errors that say who is to blame.

use nixl_core::{Error, ErrorKind, error::fail};
use rustix::io::Errno;

/// A failed call: `Exhausted` where a limit of this process or machine was reached, else
/// `Backend`. `what` names the call and its object.
pub(crate) fn os(what: impl std::fmt::Display, errno: Errno) -> Error {
    let advice = match errno {
        Errno::MFILE => "no file descriptor left in this process; raise ulimit -n",
        Errno::NFILE => "no file descriptor left on this machine; raise fs.file-max",
        Errno::NOMEM => "out of memory, or too many mappings (vm.max_map_count)",
        Errno::TOOMANYREFS => "too many file descriptors under way; raise ulimit -n",
        _ => return Error::os(what, errno),
    };
    fail(ErrorKind::Exhausted, format!("{what}: {errno}: {advice}"))
}

/// The peer's process or socket is gone.
pub(crate) fn gone(what: &'static str) -> Error {
    fail(ErrorKind::PeerGone, what)
}

/// The peer broke the protocol.
pub(crate) fn misbehaved(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    fail(ErrorKind::PeerMisbehaved, what)
}
