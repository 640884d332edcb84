//! Why a path is not used, as data.

use std::{fmt, ops::RangeInclusive, time::Duration};

use crate::{Error, MemKind, Op, PathClass};

/// The part of the policy that rules a path out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyRule {
    /// It, or its backend, is in `forbid`.
    Forbidden,
    /// `only` names others.
    NotInOnly,
    /// Its class is below the minimum of the strict mode.
    BelowMinimum {
        /// Its class.
        class: PathClass,
        /// The worst class allowed.
        min: PathClass,
    },
}

/// The reason for one path, with what to do about it in its text.
#[derive(Clone, Debug, PartialEq)]
pub enum Reject {
    /// The peer does not have it.
    NotShared,
    /// The peer is an agent of NIXL's, which cannot serve it.
    Foreign,
    /// It works inside one process only.
    OtherProcess,
    /// It works under one kernel only.
    OtherHost {
        /// This host's name.
        mine: String,
        /// The peer's, as the peer says it.
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
    /// It needs the peer's threads, the peer has none, and the policy insists on them.
    TargetIdle,
    /// The policy rules it out.
    Policy(PolicyRule),
    /// Using it may break something, and the policy does not name it.
    Hazard(&'static str),
    /// No wire version in common.
    WireVersion {
        /// Versions spoken here.
        mine: RangeInclusive<u16>,
        /// Versions the peer speaks.
        theirs: RangeInclusive<u16>,
    },
    /// Its backend could not connect.
    ConnectFailed {
        /// What happened.
        why: Error,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// A probe over it failed.
    ProbeFailed {
        /// What happened.
        why: Error,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// It has no bandwidth to rank it by (a bug in its backend).
    NoCost,
}

impl Reject {
    /// A short stable word, for JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotShared => "not_shared",
            Self::Foreign => "foreign",
            Self::OtherProcess => "other_process",
            Self::OtherHost { .. } => "other_host",
            Self::MemKind { .. } => "mem_kind",
            Self::NotShareable => "not_shareable",
            Self::TargetIdle => "target_idle",
            Self::Policy(_) => "policy",
            Self::Hazard(_) => "hazard",
            Self::WireVersion { .. } => "wire_version",
            Self::ConnectFailed { .. } => "connect_failed",
            Self::ProbeFailed { .. } => "probe_failed",
            Self::NoCost => "no_cost",
        }
    }

    /// Something that should work did not: worth a warning when a slower class is used instead.
    /// What the hosts, the memory or the policy rule out by design is no failure.
    pub fn is_failure(&self) -> bool {
        matches!(
            self,
            Self::WireVersion { .. }
                | Self::ConnectFailed { .. }
                | Self::ProbeFailed { .. }
                | Self::NoCost
        )
    }

    /// The peer could not be reached this way.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::ConnectFailed { .. })
    }
}

impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden => f.write_str("the policy forbids it; take it off `forbid` to use it"),
            Self::NotInOnly => {
                f.write_str("the policy allows only other paths; add it to `only` to use it")
            }
            Self::BelowMinimum { class, min } => write!(
                f,
                "the strict policy demands {} or better and this is {}; lower the minimum to use it",
                min.as_str(),
                class.as_str()
            ),
        }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotShared => f.write_str("the peer does not have it; enable its backend there"),
            Self::Foreign => f.write_str(
                "the peer is a foreign agent (NIXL), which does not have it; run this library there",
            ),
            Self::OtherProcess => {
                f.write_str("the peer is another process; nothing to do, it is for agents of one")
            }
            Self::OtherHost { mine, theirs } => write!(
                f,
                "the peer runs under another kernel (here {}, peer {}); place both on one host to \
                 use it",
                mine.escape_debug(),
                theirs.escape_debug()
            ),
            Self::MemKind { op, local, remote } => write!(
                f,
                "cannot {} with {local:?} here and {remote:?} at the peer; use another kind of \
                 memory or another path",
                op.as_str()
            ),
            Self::NotShareable => f.write_str(
                "a region of the peer's was not allocated by its agent; use Agent::allocate there",
            ),
            Self::TargetIdle => f.write_str(
                "the peer has no threads of its own to serve it; start it with progress threads or \
                 allow idle targets in the policy",
            ),
            Self::Policy(rule) => rule.fmt(f),
            Self::Hazard(what) => write!(
                f,
                "{what}; name it in `only` or `prefer` to use it all the same"
            ),
            Self::WireVersion { mine, theirs } => write!(
                f,
                "no wire version in common (here {}-{}, peer {}-{}); update the older one",
                mine.start(),
                mine.end(),
                theirs.start(),
                theirs.end()
            ),
            Self::ConnectFailed { why, retry_in } => failed(f, "could not connect", why, *retry_in),
            Self::ProbeFailed { why, retry_in } => failed(f, "proof failed", why, *retry_in),
            Self::NoCost => {
                f.write_str("its backend advertises no bandwidth; report this as a bug of it")
            }
        }
    }
}

fn failed(f: &mut fmt::Formatter<'_>, what: &str, why: &Error, again: Duration) -> fmt::Result {
    let message = why.message();
    write!(
        f,
        "{what}: {message}; next try in {:.1} s",
        again.as_secs_f64()
    )
}
