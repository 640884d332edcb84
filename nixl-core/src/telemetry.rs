//! Counters and histograms, labelled peer, path and direction. Plain data; nothing opens a socket.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Op, PathName};

/// Upper bounds of the histogram's buckets, in microseconds; the last bucket has none.
pub const BUCKETS_US: [u64; 12] = [
    10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 10_000_000,
];

/// Live counters of one (peer, path, direction).
#[derive(Debug, Default)]
pub struct PathStats {
    bytes: AtomicU64,
    descriptors: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
    retries: AtomicU64,
    micros: AtomicU64,
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
}

impl PathStats {
    pub(crate) fn completed(&self, bytes: u64, descriptors: u64, nanos: u64) {
        let us = nanos / 1000;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.descriptors.fetch_add(descriptors, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(us, Ordering::Relaxed);
        let bucket = BUCKETS_US.partition_point(|b| *b < us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self, peer: &str, path: PathName, op: Op) -> PathSnapshot {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        PathSnapshot {
            peer: peer.to_owned(),
            path,
            op,
            bytes: get(&self.bytes),
            descriptors: get(&self.descriptors),
            requests: get(&self.requests),
            errors: get(&self.errors),
            retries: get(&self.retries),
            micros: get(&self.micros),
            buckets: std::array::from_fn(|i| get(&self.buckets[i])),
        }
    }
}

/// What [`PathStats`] said at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathSnapshot {
    /// The peer's name.
    pub peer: String,
    /// Path.
    pub path: PathName,
    /// Direction, seen from here.
    pub op: Op,
    /// Bytes moved by completed requests.
    pub bytes: u64,
    /// Descriptors of completed requests, before merging.
    pub descriptors: u64,
    /// Requests completed.
    pub requests: u64,
    /// Attempts that failed.
    pub errors: u64,
    /// Requests that went on to another path from here.
    pub retries: u64,
    /// Microseconds from post to completion, summed.
    pub micros: u64,
    /// Completed requests by duration, see [`BUCKETS_US`].
    pub buckets: [u64; BUCKETS_US.len() + 1],
}

/// Everything an agent counts, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Per peer, path and direction.
    pub paths: Vec<PathSnapshot>,
    /// Notifications sent and received.
    pub notifications_sent: u64,
    /// Notifications delivered to this application.
    pub notifications_received: u64,
    /// Times a request had to use a slower class of path than both sides have.
    pub degraded: u64,
    /// Regions registered now.
    pub regions: u64,
    /// Requests active now.
    pub active_requests: u64,
}
