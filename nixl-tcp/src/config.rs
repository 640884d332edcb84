//! Settings of the TCP backend.

use std::{net::IpAddr, time::Duration};

/// How the TCP backend listens, connects and gives up. The defaults suit a data centre.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// Address to listen on; `None`: every interface, IPv6 and IPv4. Every connection proves the
    /// agents' secrets before anything else, so an open port gives nothing away.
    pub bind: Option<IpAddr>,
    /// Port to listen on; 0: one that the kernel picks.
    pub port: u16,
    /// Addresses or host names to publish; empty: those of the interfaces listened on.
    pub advertise: Vec<String>,
    /// Data streams per connection that this side opens, 1 to 16. One stream is limited by one
    /// core at each end.
    pub streams: u16,
    /// Time for everything up to a usable connection, names and handshake included.
    pub connect_timeout: Duration,
    /// After so long without a TCP acknowledgement the peer's host counts as gone
    /// (TCP_USER_TIMEOUT, tcp(7)).
    pub user_timeout: Duration,
    /// How often bytes are sent while requests are in flight, so that the above notices.
    pub heartbeat: Duration,
    /// How long a cancelled WRITE waits for the target to let go before the connection is closed.
    pub cancel_grace: Duration,
    /// Requests that one peer may have open here, 1 to 4096.
    pub slots: u16,
    /// Bytes of descriptor lists that one peer may have open here, 4 KiB to 64 MiB.
    pub list_bytes: u32,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            bind: None,
            port: 0,
            advertise: Vec::new(),
            streams: 4,
            connect_timeout: Duration::from_secs(5),
            user_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(2),
            cancel_grace: Duration::from_secs(1),
            slots: 256,
            list_bytes: 64 << 20,
        }
    }
}

impl TcpConfig {
    /// Checks the ranges given above.
    pub(crate) fn check(&self) -> nixl_core::Result<()> {
        let bad = if !(1..=16).contains(&self.streams) {
            "`streams` must be 1 to 16"
        } else if !(1..=4096).contains(&self.slots) {
            "`slots` must be 1 to 4096"
        } else if !(4096..=64 << 20).contains(&self.list_bytes) {
            "`list_bytes` must be 4 KiB to 64 MiB"
        } else if self.advertise.len() > 64 || self.advertise.iter().any(|a| a.len() > 255) {
            "`advertise` takes at most 64 names of at most 255 bytes"
        } else {
            return Ok(());
        };
        Err(nixl_core::Error::new(
            nixl_core::ErrorKind::ApiMisuse,
            format!("TCP configuration: {bad}"),
        ))
    }
}
