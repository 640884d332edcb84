//! Metadata exchange between agents.
//!
//! Agents talk after each has loaded the other's metadata blob. This crate moves those blobs and
//! knows nothing of what is in them: `nixl-core` makes and reads them.
//!
//! - [`tcp`]: agent to agent, nothing else needed. Fetch, send and invalidate.
//! - [`mod@file`]: a directory that the agents share.
//! - `etcd` (feature `etcd`): an etcd cluster, with leases and watches.
//!
//! Blobs carry secrets (the agent's own and the region keys). Whoever can read an exchange can
//! reach the memory that its blobs name, and none of the three encrypts.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

#[cfg(feature = "etcd")]
pub mod etcd;
mod exchange;
pub mod file;
pub mod tcp;

pub use exchange::{Change, Exchange, Watch};

/// Label under which an agent's full metadata stands, as in NIXL.
pub const DEFAULT_LABEL: &str = "metadata";

/// Largest blob in bytes, unless configured otherwise: 64 MiB.
pub const DEFAULT_MAX_BLOB: usize = 64 << 20;

/// Longest agent name or label in bytes.
const MAX_NAME: usize = 255;

/// A deadline that far away; a year for times that the clock cannot hold.
fn deadline_after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time)
        .unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600))
}

fn check_name(what: &str, name: &str) -> nixl_core::Result<()> {
    if (1..=MAX_NAME).contains(&name.len()) {
        return Ok(());
    }
    Err(nixl_core::Error::new(
        nixl_core::ErrorKind::ApiMisuse,
        format!(
            "{what} has {} bytes; it must have 1 to {MAX_NAME}",
            name.len()
        ),
    ))
}
