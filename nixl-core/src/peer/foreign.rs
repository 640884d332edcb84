//! What is different with an agent of NIXL's: it proves nothing and speaks nothing of ours.

use std::time::Duration;

use bytes::Bytes;

use super::{Link, Peer, Proof};
use crate::{AgentConfig, BackendName, Error, ErrorKind, error::fail, metadata};

/// Longest time to connect to a foreign agent, and to prove a path to it.
const FOREIGN: Duration = Duration::from_secs(1);

/// Why a foreign agent may not answer.
pub(super) const ANOTHER_VERSION: &str = "; it is a NIXL agent: if it runs, the communication \
     library under it may be of a version that ours does not understand";

impl Peer {
    /// An agent of NIXL's: it proves nothing and speaks nothing of ours.
    pub(crate) fn is_foreign(&self) -> bool {
        self.address.card.foreign
    }

    /// Longest time to reach the peer over one backend. An agent that cannot understand us would
    /// let us wait: connecting to a foreign one and proving a path take two seconds at most.
    pub(crate) fn connect_timeout(&self, config: &AgentConfig) -> Duration {
        match self.is_foreign() {
            true => config.connect_timeout.min(FOREIGN),
            false => config.connect_timeout,
        }
    }

    /// Nobody answered over `backend`.
    pub(super) fn unanswered(&self, backend: BackendName, limit: Duration) -> Error {
        let (kind, hint) = match self.is_foreign() {
            true => (ErrorKind::Timeout, ANOTHER_VERSION),
            false => (ErrorKind::PeerGone, ""),
        };
        let text = format!("no answer from the peer over {backend} within {limit:?}{hint}");
        fail(kind, text).with_peer(&self.name)
    }

    pub(super) fn probe_timeout(&self, config: &AgentConfig) -> Duration {
        match self.is_foreign() {
            true => config.probe_timeout.min(FOREIGN),
            false => config.probe_timeout,
        }
    }

    /// There is more memory to try: proofs that failed may be tried again.
    pub(crate) fn retry_proofs(&self) {
        let mut state = self.state.lock();
        state.proofs.retain(|_, p| !matches!(p, Proof::Failed(..)));
    }

    /// Closes a connection over which nothing comes back: nothing else ends what is in flight there.
    pub(super) fn give_up_on(&self, link: &Link, why: Error) {
        let why = why.with_peer(&self.name);
        self.state.lock().set_down(link.backend, why);
        link.give_up();
    }

    /// A foreign peer gives no credit: what has not left counts as untaken.
    pub(super) fn unsent(&self) -> u64 {
        let links: Vec<_> = self.state.lock().up_links().cloned().collect();
        links.iter().map(|link| link.endpoint.unsent()).sum()
    }

    /// The next message for the present connection, in the words of the peer.
    pub(super) fn next_message(&self) -> Option<Bytes> {
        if !self.is_foreign() {
            return self.outbox.lock().next();
        }
        let data = self.outbox.lock().take()?;
        let shared = self.shared.upgrade()?;
        Some(metadata::encode_notification(&shared.identity.name, &data))
    }
}
