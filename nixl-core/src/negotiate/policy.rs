//! What the user allows.

use std::str::FromStr;

use super::PolicyRule;
use crate::{BackendName, ErrorKind, PathCaps, PathClass, PathName, error::fail};

/// What happens when a better class of path fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// Use the next one, say nothing.
    Any,
    /// Use the next one, log one warning with the reasons and count it.
    #[default]
    Warn,
    /// Refuse paths below this class.
    Strict(PathClass),
}

impl FromStr for Mode {
    type Err = crate::Error;

    /// `any`, `warn`, `strict` (nothing below RDMA) or `strict:CLASS`.
    fn from_str(s: &str) -> Result<Self, crate::Error> {
        match s.split_once(':') {
            None if s == "any" => Ok(Self::Any),
            None if s == "warn" => Ok(Self::Warn),
            None if s == "strict" => Ok(Self::Strict(PathClass::RdmaStaged)),
            Some(("strict", class)) => class.parse().map(Self::Strict),
            _ => Err(fail(
                ErrorKind::ApiMisuse,
                format!("{s:?} is no policy: any, warn, strict or strict:CLASS"),
            )),
        }
    }
}

/// (name, class), best first.
const CLASSES: [(&str, PathClass); 7] = [
    ("same_process", PathClass::SameProcess),
    ("device_ipc", PathClass::DeviceIpc),
    ("shared_memory", PathClass::SharedMemory),
    ("cross_memory", PathClass::CrossMemory),
    ("rdma", PathClass::Rdma),
    ("rdma_staged", PathClass::RdmaStaged),
    ("tcp", PathClass::Tcp),
];

impl PathClass {
    /// Its name in configuration and reports.
    pub fn as_str(self) -> &'static str {
        CLASSES
            .iter()
            .find(|(_, class)| *class == self)
            .map_or("unknown", |(name, _)| name)
    }
}

impl FromStr for PathClass {
    type Err = crate::Error;

    fn from_str(s: &str) -> Result<Self, crate::Error> {
        let found = CLASSES.iter().find(|(name, _)| *name == s);
        found.map(|(_, class)| *class).ok_or_else(|| {
            let names: Vec<_> = CLASSES.iter().map(|c| c.0).collect();
            fail(
                ErrorKind::ApiMisuse,
                format!("{s:?} is no class of path; one of {}", names.join(", ")),
            )
        })
    }
}

/// Which paths may be used, and which first. Names are paths' or backends'.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Policy {
    /// What happens when a better class fails.
    pub mode: Mode,
    /// Used before all others, in this order, whatever they cost.
    pub prefer: Vec<String>,
    /// Never used.
    pub forbid: Vec<String>,
    /// If not empty, nothing else is used.
    pub only: Vec<String>,
    /// Refuse paths that need the peer's threads where the peer says that it has none. Such a peer
    /// serves only while its own code polls; by default that is good enough, and one that never
    /// polls fails the proof.
    pub refuse_idle_targets: bool,
}

fn names(list: &[String], path: PathName, backend: BackendName) -> Option<usize> {
    list.iter().position(|n| n == path || n == backend)
}

/// Paths and backends of this library, whether or not an agent has them.
const KNOWN: [&str; 12] = [
    "local",
    "shm",
    "cma",
    "cuda_ipc",
    "ipc",
    "tcp",
    "ucx",
    "ucx_cma",
    "ucx_rndv",
    "ucx_rndv_cma",
    "ucx_rndv_tcp",
    "ucx_tcp",
];

impl Policy {
    /// Errors: `ApiMisuse` for a name that is no path and no backend, neither of this library nor
    /// of the agent that has `paths`.
    pub(crate) fn check(&self, paths: &[PathCaps]) -> crate::Result<()> {
        let known = |name: &str| {
            KNOWN.contains(&name) || paths.iter().any(|p| p.path == name || p.backend == name)
        };
        let mut names = self.prefer.iter().chain(&self.forbid).chain(&self.only);
        match names.find(|name| !known(name)) {
            None => Ok(()),
            Some(name) => Err(fail(
                ErrorKind::ApiMisuse,
                format!(
                    "the policy names {name:?}, which is no path and no backend; these are: {}",
                    KNOWN.join(", ")
                ),
            )),
        }
    }

    /// Whether a path may be used; else the part of the policy that rules it out.
    pub(super) fn allows(&self, caps: &PathCaps) -> Result<(), PolicyRule> {
        if names(&self.forbid, caps.path, caps.backend).is_some() {
            return Err(PolicyRule::Forbidden);
        }
        if !self.only.is_empty() && names(&self.only, caps.path, caps.backend).is_none() {
            return Err(PolicyRule::NotInOnly);
        }
        match self.mode {
            Mode::Strict(min) if caps.class > min => Err(PolicyRule::BelowMinimum {
                class: caps.class,
                min,
            }),
            _ => Ok(()),
        }
    }

    /// Whether the user asks for this very path, not just for its backend.
    pub(super) fn names(&self, path: PathName) -> bool {
        self.only.iter().chain(&self.prefer).any(|n| n == path)
    }

    /// Place in the list of preferences; everything else comes after them.
    pub(super) fn preference(&self, path: PathName, backend: BackendName) -> usize {
        names(&self.prefer, path, backend).unwrap_or(self.prefer.len())
    }
}
