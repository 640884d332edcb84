//! What an agent can be told.

use std::time::Duration;

use crate::{Error, ErrorKind, Result, error::fail, negotiate::Policy, runtime::Progress};

/// Settings of one agent. The defaults suit an inference worker.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Who makes progress. Default: own threads, half of the cores (1 to 4) as copy threads.
    pub progress: Progress,
    /// How long a thread polls after its last event before it blocks (50 µs).
    pub spin: Duration,
    /// Deadline of a request that names none (30 s).
    pub deadline: Duration,
    /// Longest time to reach a peer over one backend (3 s).
    pub connect_timeout: Duration,
    /// Longest time to prove one path (1 s).
    pub probe_timeout: Duration,
    /// An active request that moves no byte for this long counts as stalled (1 s).
    pub stall_after: Duration,
    /// Bytes of notifications that one sender may leave undelivered (64 MiB).
    pub notification_window: u64,
    /// Deliver notifications of senders that are not loaded here (true); they are marked.
    pub accept_unverified: bool,
    /// What to do with metadata and notifications of NIXL's agents (refuse).
    pub foreign_metadata: ForeignMetadata,
    /// Which paths may be used.
    pub policy: Policy,
}

/// What to do with NIXL's agents: their metadata and notifications prove nothing about the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ForeignMetadata {
    /// Load no such metadata and drop such notifications.
    #[default]
    Refuse,
    /// The caller vouches for every blob that it loads. Notifications are marked as not verified.
    Accept,
}

impl ForeignMetadata {
    /// `"refuse"` or `"accept"`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Accept => "accept",
        }
    }
}

impl std::str::FromStr for ForeignMetadata {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::Refuse, Self::Accept];
        all.into_iter().find(|f| f.as_str() == text).ok_or_else(|| {
            let why = format!("foreign_metadata is {text:?}; expected refuse or accept");
            fail(ErrorKind::ApiMisuse, why)
        })
    }
}

impl Default for AgentConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            progress: Progress::Threads {
                copy_threads: (cores / 2).clamp(1, 4),
            },
            spin: Duration::from_micros(50),
            deadline: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(3),
            probe_timeout: Duration::from_secs(1),
            stall_after: Duration::from_secs(1),
            notification_window: 64 << 20,
            accept_unverified: true,
            foreign_metadata: ForeignMetadata::Refuse,
            policy: Policy::default(),
        }
    }
}
