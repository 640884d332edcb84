//! One error type for the whole library, sorted by who is to blame.

use std::{borrow::Cow, fmt};

/// Result with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by blame. Stable: numbers never change, see [`ErrorKind::status`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller passed something that cannot be right.
    ApiMisuse,
    /// The request is still active, so it cannot be posted again.
    RepostActive,
    /// The request was never posted.
    NotPosted,
    /// A descriptor lies in no registered region.
    NotRegistered,
    /// A name (peer, key, file) is not known here.
    NotFound,
    /// Counts or lengths of two lists differ.
    Mismatch,
    /// Policy or configuration forbids it.
    NotAllowed,
    /// No path or feature can do it; the message says why.
    Unsupported,
    /// Metadata or a message does not decode.
    Malformed,
    /// Metadata older than what is loaded, or replayed.
    Stale,
    /// The peer could not prove who it is.
    Unauthenticated,
    /// The peer broke the protocol.
    PeerMisbehaved,
    /// The peer died, closed or was cut off.
    PeerGone,
    /// Another living agent has this name.
    NameConflict,
    /// The deadline passed.
    Timeout,
    /// The caller cancelled it.
    Cancelled,
    /// A peer or a request still uses the memory; it stays registered.
    StillMapped,
    /// A queue, descriptor or memory limit was reached.
    Exhausted,
    /// The backend dropped an operation without completing it (a bug in the backend).
    Abandoned,
    /// A system call or device failed.
    Backend,
}

impl ErrorKind {
    /// Stable numeric status: equal to `nixl_status_t` where one exists, else ≤ -100.
    pub fn status(self) -> i32 {
        match self {
            Self::NotPosted => -1,
            Self::ApiMisuse => -2,
            Self::Backend => -3,
            Self::NotFound | Self::NotRegistered => -4,
            Self::Mismatch | Self::Malformed => -5,
            Self::NotAllowed => -6,
            Self::RepostActive => -7,
            Self::Unsupported => -9,
            Self::PeerGone => -10,
            Self::Cancelled => -11,
            Self::Timeout => -100,
            Self::StillMapped => -101,
            Self::NameConflict => -102,
            Self::PeerMisbehaved => -103,
            Self::Unauthenticated => -104,
            Self::Stale => -105,
            Self::Exhausted => -106,
            Self::Abandoned => -107,
        }
    }

    /// The kind with [`ErrorKind::status`] `status`, or `Backend` for a number of nobody's. Of
    /// kinds that share a number, the first in the table.
    pub fn from_status(status: i32) -> Self {
        const ALL: [ErrorKind; 17] = [
            ErrorKind::NotPosted,
            ErrorKind::ApiMisuse,
            ErrorKind::Backend,
            ErrorKind::NotRegistered,
            ErrorKind::Mismatch,
            ErrorKind::NotAllowed,
            ErrorKind::RepostActive,
            ErrorKind::Unsupported,
            ErrorKind::PeerGone,
            ErrorKind::Cancelled,
            ErrorKind::Timeout,
            ErrorKind::StillMapped,
            ErrorKind::NameConflict,
            ErrorKind::PeerMisbehaved,
            ErrorKind::Unauthenticated,
            ErrorKind::Exhausted,
            ErrorKind::Abandoned,
        ];
        let found = ALL.into_iter().find(|kind| kind.status() == status);
        found.unwrap_or(Self::Backend)
    }
}

/// What happened, to which peer, on which path, and what to do about it.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Clone, PartialEq, Eq)]
struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    peer: Option<String>,
    path: Option<&'static str>,
}

impl Error {
    /// An error of `kind`; `message` says what happened and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            peer: None,
            path: None,
        }))
    }

    /// A failed system call: `what` names the call and its object.
    pub fn os(what: impl fmt::Display, err: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Backend, format!("{what}: {err}"))
    }

    /// Adds the peer it happened to, unless one is set already.
    pub fn with_peer(mut self, peer: &str) -> Self {
        self.0.peer.get_or_insert_with(|| peer.to_owned());
        self
    }

    /// Adds the path it happened on, unless one is set already.
    pub fn with_path(mut self, path: &'static str) -> Self {
        self.0.path.get_or_insert(path);
        self
    }

    /// Who is to blame.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The text without peer and path.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The peer it happened to.
    pub fn peer(&self) -> Option<&str> {
        self.0.peer.as_deref()
    }

    /// The path it happened on.
    pub fn path(&self) -> Option<&'static str> {
        self.0.path
    }

    /// Whether another path to the same peer may succeed where this one failed.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::PeerGone
                | ErrorKind::Unsupported
                | ErrorKind::Backend
                | ErrorKind::PeerMisbehaved
                | ErrorKind::Exhausted
                | ErrorKind::Unauthenticated
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.message)?;
        if let Some(peer) = &self.0.peer {
            write!(f, " (peer {peer}")?;
            if let Some(path) = self.0.path {
                write!(f, " over {path}")?;
            }
            f.write_str(")")?;
        } else if let Some(path) = self.0.path {
            write!(f, " (path {path})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

/// Shorthand: `Err(fail(kind, message))` reads better than the constructor.
pub fn fail(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(kind, message)
}
