//! What the file and the etcd exchange have in common.

use std::time::Duration;

use bytes::Bytes;
use nixl_core::Result;

/// A place where agents leave blobs for each other, keyed by agent name and label.
///
/// Names and labels have 1 to 255 bytes, else `ApiMisuse`.
pub trait Exchange: Send + Sync {
    /// Stores `blob`, replacing an older one. Readers see the old blob or the new one, never a
    /// mixture. On an error the old blob is still there.
    fn publish(&self, agent: &str, label: &str, blob: Bytes) -> Result<()>;

    /// The blob, waiting up to `wait` for somebody to publish it (zero: one look).
    ///
    /// Errors: `NotFound` when nobody published it in that time, `Exhausted` when it is larger
    /// than this exchange allows.
    fn fetch(&self, agent: &str, label: &str, wait: Duration) -> Result<Bytes>;

    /// Removes one blob. One that is not there is no error.
    fn remove(&self, agent: &str, label: &str) -> Result<()>;

    /// Removes all that `agent` published: watchers learn that the agent is gone.
    fn remove_agent(&self, agent: &str) -> Result<()>;

    /// (agent, label) of every blob, sorted.
    fn list(&self) -> Result<Vec<(String, String)>>;

    /// Begins to watch. What is there already is reported first.
    fn watch(&self) -> Result<Box<dyn Watch>>;
}

/// A running watch of an [`Exchange`].
pub trait Watch: Send {
    /// The next change, or `None` when there was none for `wait`.
    ///
    /// Several changes of one blob between two calls may come as one, the latest. An error ends
    /// nothing: the watch recovers when its exchange does, and then reports what it missed.
    fn next(&mut self, wait: Duration) -> Result<Option<Change>>;
}

/// What happened to one blob.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Published, or replaced by another.
    Published {
        /// Agent that the blob describes.
        agent: String,
        /// Its label.
        label: String,
    },
    /// Removed, or its agent's lease ran out.
    Removed {
        /// Agent that the blob described.
        agent: String,
        /// Its label.
        label: String,
    },
}
