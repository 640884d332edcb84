//! Endpoints of connections that a peer refused, for the next attempt to reach its worker.
//!
//! UCX pairs the endpoints that two workers make to each other by counting them. A server makes one
//! for each client that it takes in; if a client made one for each attempt, later ones would be paired
//! with those that are closed, and what needs both halves, like rendezvous, would get lost.

use bytes::Bytes;

use crate::ucp::Endpoint;

/// How many are kept; the oldest goes.
const MAX_SPARES: usize = 64;

struct Spare {
    worker: Bytes,
    /// The connection that it was of.
    tag: u64,
    endpoint: Endpoint,
}

#[derive(Default)]
pub(super) struct Spares(Vec<Spare>);

impl Spares {
    pub(super) fn put(&mut self, worker: Bytes, tag: u64, endpoint: Endpoint) {
        if self.0.len() >= MAX_SPARES {
            self.0.remove(0);
        }
        self.0.push(Spare {
            worker,
            tag,
            endpoint,
        });
    }

    /// One to `worker`, for the connection `tag`.
    pub(super) fn take(&mut self, worker: &Bytes, tag: u64) -> Option<Endpoint> {
        let at = self.0.iter().position(|spare| spare.worker == *worker)?;
        let spare = self.0.remove(at);
        spare.endpoint.rename(tag);
        Some(spare.endpoint)
    }

    /// The endpoint of the connection `tag` failed.
    pub(super) fn failed(&mut self, tag: u64) {
        self.0.retain(|spare| spare.tag != tag);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
