//! The agent: a named endpoint of this process that registers memory and talks to peers.

mod builder;
mod config;
mod exchange;
mod foreign;
mod host;
mod memory;
mod probe_memory;
mod shared;
mod shutdown;
mod transfer;

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

pub use builder::AgentBuilder;
pub use config::{AgentConfig, ForeignMetadata};
pub use exchange::Peers;
pub use memory::PeerAccess;
pub(crate) use probe_memory::NONCE;
pub(crate) use shared::{Shared, next_id};
pub use transfer::{PreparedLocal, PreparedRemote};

use crate::{
    Generation, Result, notify::Notification, runtime::deadline_after, telemetry::Snapshot,
};

/// A named endpoint with its memory, backends and peers. Thread-safe; several may live in one
/// process. Dropping it shuts it down, waiting a second at most.
pub struct Agent {
    pub(crate) shared: Arc<Shared>,
}

impl Agent {
    /// Begins to build an agent.
    pub fn builder(name: impl Into<String>) -> AgentBuilder {
        AgentBuilder::new(name.into())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.identity.name
    }

    /// This incarnation.
    pub fn generation(&self) -> Generation {
        self.shared.identity.generation
    }

    /// Takes all notifications that have arrived, oldest first.
    pub fn notifications(&self) -> Vec<Notification> {
        std::iter::from_fn(|| self.take_notification()).collect()
    }

    /// Takes the oldest notification.
    pub fn take_notification(&self) -> Option<Notification> {
        let mut inbox = self.shared.inbox.lock();
        let n = inbox.take()?;
        let much = inbox.much_consumed(&n.from, n.generation);
        drop(inbox);
        if much {
            self.shared.acknowledge_all();
        } else {
            self.shared.ack_soon();
        }
        Some(n)
    }

    /// Waits for a notification, `timeout` at most.
    pub fn wait_notification(&self, timeout: Duration) -> Option<Notification> {
        let shared = &self.shared;
        let deadline = deadline_after(timeout);
        let arrived = || !shared.inbox.lock().is_empty();
        if !shared.runtime.is_threaded() {
            shared.runtime.wait(deadline, arrived);
        } else if !shared.runtime.spin_until(deadline, arrived) {
            shared.await_arrival(deadline);
        }
        self.take_notification()
    }

    /// Sends bytes to a loaded peer, after everything that became deliverable before. Returns
    /// once they are queued; they arrive exactly once, or the peer is gone.
    ///
    /// Errors: `NotFound` for an unknown peer, `PeerGone`, `Exhausted` when the peer has not
    /// taken 64 MiB of earlier ones, `ApiMisuse` above 16 MiB.
    pub fn notify(&self, peer: &str, data: &[u8]) -> Result<()> {
        let peer = self.peer(peer)?;
        peer.check_alive()?;
        peer.reserve_notification(data.len())?;
        peer.push_notification(data);
        Ok(())
    }

    /// An eventfd that becomes readable when a request ends or a notification arrives: for
    /// epoll and asyncio. Read it empty, then look at what you wait for.
    pub fn event_fd(&self) -> Result<BorrowedFd<'_>> {
        self.shared.event_fd().map(AsFd::as_fd)
    }

    /// Advances the work by at most 1 ms, waiting up to `wait` for something to do; true if
    /// anything was done. Needed under `Progress::Caller`, harmless otherwise.
    pub fn progress(&self, wait: Duration) -> bool {
        self.shared.runtime.progress(wait)
    }

    /// Everything it counts.
    pub fn snapshot(&self) -> Snapshot {
        let shared = &self.shared;
        let peers = shared.all_peers();
        let mut names: Vec<_> = peers.keys().collect();
        names.sort();
        Snapshot {
            paths: names.iter().flat_map(|n| peers[*n].snapshots()).collect(),
            notifications_sent: shared.counters.sent.load(Ordering::Relaxed),
            notifications_received: shared.counters.received.load(Ordering::Relaxed),
            degraded: shared.counters.degraded.load(Ordering::Relaxed),
            regions: shared.regions.all().len() as u64,
            active_requests: shared.active_count() as u64,
        }
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("name", &self.shared.identity.name)
            .field("generation", &self.shared.identity.generation)
            .finish_non_exhaustive()
    }
}
