//! How an agent ends: nothing that it registered is touched afterwards, or it stays allocated.

use std::{collections::HashSet, sync::atomic::Ordering, time::Duration};

use super::{Agent, memory::ask_back};
use crate::{ErrorKind, Result, error::fail, runtime::deadline_after};

impl Agent {
    /// Stops posts, cancels what is active, withdraws all regions from peers, closes connections
    /// and joins the threads. Peers that reach into the memory by themselves (shared memory, CMA)
    /// are given half of `deadline` to stop.
    ///
    /// Errors: `Timeout` when operations or peers did not let go by `deadline`; what they may still
    /// touch is leaked, and memory of [`Agent::register_raw`] must not be freed.
    pub fn shutdown(self, deadline: Duration) -> Result<()> {
        self.close(deadline)
    }

    fn close(&self, deadline: Duration) -> Result<()> {
        let shared = &self.shared;
        if shared.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let until = deadline_after(deadline);
        for peer in shared.all_peers().values() {
            peer.remove(fail(ErrorKind::PeerGone, "this agent was shut down"));
        }
        for request in shared.active_requests() {
            request.stop(fail(ErrorKind::Cancelled, "the agent was shut down"));
        }
        let held = self.withdraw_all(deadline / 2);
        let incoming = shared.incoming.lock().clone();
        incoming.iter().for_each(|conn| conn.close());
        shared.backends.iter().for_each(|b| b.shutdown());
        let quiet = || shared.active_count() == 0 && !shared.regions.any_pinned();
        let quiet = shared.runtime.wait(until, quiet);
        shared.runtime.stop();
        let left = shared.active_requests();
        for request in &left {
            request.end(Err(fail(
                ErrorKind::Abandoned,
                "the agent was shut down before the operation let go of its memory",
            )));
        }
        if quiet && held.is_empty() {
            return Ok(());
        }
        let error = fail(
            ErrorKind::Timeout,
            format!(
                "{} requests did not end within {deadline:?}, and these peers did not let go of \
                 memory: [{}]; what they may still touch is leaked",
                left.len(),
                held.join(", ")
            ),
        );
        tracing::error!(agent = %shared.identity.name, %error, "shut down uncleanly");
        Err(error)
    }

    /// Withdraws every region and waits for peers that may touch one without asking us; leaks what
    /// they hold on to, and names them.
    fn withdraw_all(&self, patience: Duration) -> Vec<String> {
        let shared = &self.shared;
        shared.regions.clear();
        for id in shared.regions.withdrawn_ids() {
            ask_back(shared, id);
        }
        let free = || shared.incoming.lock().iter().all(|c| c.held().is_empty());
        shared.runtime.wait(deadline_after(patience), free);
        let mut names = Vec::new();
        let mut held = HashSet::new();
        for conn in shared.incoming.lock().iter() {
            let of_conn = conn.held();
            if !of_conn.is_empty() {
                names.push(conn.from.to_string());
                held.extend(of_conn);
            }
        }
        shared.regions.leak(&held);
        names
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Nobody is left to tell; `close` has logged it.
        let _ = self.close(Duration::from_secs(1));
    }
}
