//! Why a path is not used, as data.

use std::{fmt, ops::RangeInclusive};

use crate::{Error, MemKind, Op};

/// The reason for one path, with what to do about it in its text.
#[derive(Clone, Debug, PartialEq)]
pub enum Reject {
    /// The peer does not have it.
    NotShared,
    /// No wire version in common.
    WireVersion {
        /// Versions spoken here.
        mine: RangeInclusive<u16>,
        /// Versions the peer speaks.
        theirs: RangeInclusive<u16>,
    },
    /// It works inside one process only.
    OtherProcess,
    /// It works under one kernel only.
    OtherHost {
        /// This host's name.
        mine: String,
        /// The peer's.
        theirs: String,
    },
    /// It cannot move between these kinds of memory in this direction.
    MemKind {
        /// Direction.
        op: Op,
        /// Ours.
        local: MemKind,
        /// The peer's.
        remote: MemKind,
    },
    /// A region of the peer's is not agent-allocated, so it cannot be mapped.
    NotShareable,
    /// The policy forbids it; the text says which part.
    Policy(&'static str),
    /// Its backend could not connect.
    ConnectFailed(Error),
    /// A probe over it failed.
    ProbeFailed(Error),
}

impl Reject {
    /// A short stable word, for JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotShared => "not_shared",
            Self::WireVersion { .. } => "wire_version",
            Self::OtherProcess => "other_process",
            Self::OtherHost { .. } => "other_host",
            Self::MemKind { .. } => "mem_kind",
            Self::NotShareable => "not_shareable",
            Self::Policy(_) => "policy",
            Self::ConnectFailed(_) => "connect_failed",
            Self::ProbeFailed(_) => "probe_failed",
        }
    }

    /// Something that should work did not: worth a warning when a slower class is used instead.
    pub fn is_failure(&self) -> bool {
        matches!(
            self,
            Self::ConnectFailed(_) | Self::ProbeFailed(_) | Self::WireVersion { .. }
        )
    }

    /// The peer could not be reached this way.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::ConnectFailed(_))
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotShared => f.write_str("the peer does not have it"),
            Self::WireVersion { mine, theirs } => write!(
                f,
                "no wire version in common (here {}-{}, peer {}-{}); update the older one",
                mine.start(),
                mine.end(),
                theirs.start(),
                theirs.end()
            ),
            Self::OtherProcess => f.write_str("the peer is another process"),
            Self::OtherHost { mine, theirs } => {
                write!(
                    f,
                    "the peer runs under another kernel (here {mine}, peer {theirs})"
                )
            }
            Self::MemKind { op, local, remote } => {
                write!(f, "cannot {} {remote:?} with {local:?} here", op.as_str())
            }
            Self::NotShareable => f.write_str(
                "a region of the peer's was not allocated by its agent; use Agent::allocate there",
            ),
            Self::Policy(why) => f.write_str(why),
            Self::ConnectFailed(e) => write!(f, "could not connect: {}", e.message()),
            Self::ProbeFailed(e) => write!(f, "proof failed: {}", e.message()),
        }
    }
}
