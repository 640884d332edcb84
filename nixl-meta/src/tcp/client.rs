//! Calls to another agent's listener.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use bytes::Bytes;
use nixl_core::{Error, ErrorKind, Result};

use super::{
    key::SharedKey,
    server::{MAX_ERROR, kind_of},
    session::{FAILED, FETCH, INVALIDATE, OK, SEND, Session},
    wire::{Wire, resolve},
};
use crate::{DEFAULT_MAX_BLOB, check_name, deadline_after};

/// How to call a listener.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The key that both sides share. With a key here, a listener without it is refused.
    pub key: Option<SharedKey>,
    /// Longest time of a whole call, name lookup included. Default: 10 s.
    pub timeout: Duration,
    /// Largest blob accepted, in bytes. Default: 64 MiB.
    pub max_blob: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            key: None,
            timeout: Duration::from_secs(10),
            max_blob: DEFAULT_MAX_BLOB,
        }
    }
}

/// The blob that the agent at `address` (`host:port`, `1.2.3.4:port`, `[::1]:port`) offers under
/// `label`.
///
/// Errors, as of all calls here: `PeerGone` when nothing listens or the connection breaks,
/// `Timeout` when the call did not end in time, `Unauthenticated` when the shared keys differ,
/// `PeerMisbehaved` when it speaks another protocol, `Exhausted` when a blob is too large, else
/// what the other agent answered.
pub fn fetch(address: &str, label: &str, config: &ClientConfig) -> Result<Bytes> {
    check_name("the label", label)?;
    call(address, FETCH, label.as_bytes(), config).map(Bytes::from)
}

/// Gives `blob` (this agent's metadata) to the agent at `address`; returns the name under which
/// that agent loaded it.
pub fn send(address: &str, blob: &[u8], config: &ClientConfig) -> Result<String> {
    let name = call(address, SEND, blob, config)?;
    String::from_utf8(name).map_err(|_| {
        Error::new(
            ErrorKind::PeerMisbehaved,
            format!("metadata peer {address}: the agent name it answered is not UTF-8"),
        )
    })
}

/// Tells the agent at `address` to forget `agent`. `NotAllowed` where that listener cannot know
/// who asks: it takes this only with a shared key, or when it was told to trust everybody.
pub fn invalidate(address: &str, agent: &str, config: &ClientConfig) -> Result<()> {
    check_name("the agent's name", agent)?;
    call(address, INVALIDATE, agent.as_bytes(), config).map(drop)
}

fn call(address: &str, op: u8, body: &[u8], config: &ClientConfig) -> Result<Vec<u8>> {
    let deadline = deadline_after(config.timeout);
    let (stream, peer) = dial(address, deadline)?;
    let wire = Wire::new(&stream, peer, deadline);
    let mut session = Session::connect(wire, config.key.as_ref())?;
    if op == SEND && body.len() > session.server_max {
        return Err(session.wire.fail(
            ErrorKind::Exhausted,
            format_args!(
                "the blob has {} bytes and the listener takes {}; raise its max_blob",
                body.len(),
                session.server_max
            ),
        ));
    }
    session.send(op, body)?;
    let (status, reply) = session.receive(|status| match status {
        OK => Some(config.max_blob),
        FAILED => Some(MAX_ERROR),
        _ => None,
    })?;
    if status == OK {
        return Ok(reply);
    }
    let (number, text) = reply.split_at_checked(4).unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let text = text.replace(char::is_control, "?");
    Err(session.wire.fail(
        kind_of(number),
        format_args!("the agent there answered: {text}"),
    ))
}

/// Tries each address of the name in turn, with an equal share of the time that is left.
pub(super) fn dial(address: &str, deadline: Instant) -> Result<(TcpStream, SocketAddr)> {
    let found = resolve(address, deadline)?;
    let mut last = None;
    for (i, peer) in found.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(found.len() - i).unwrap_or(1);
        match TcpStream::connect_timeout(peer, share.max(Duration::from_millis(1))) {
            Ok(stream) => return Ok((stream, *peer)),
            Err(e) => last = Some((peer, e)),
        }
    }
    Err(match last {
        Some((peer, e)) if e.kind() == io::ErrorKind::TimedOut => Error::new(
            ErrorKind::Timeout,
            format!("no answer from {address} ({peer}); check address and firewall"),
        ),
        Some((peer, e)) => Error::new(
            ErrorKind::PeerGone,
            format!("cannot connect to {address} ({peer}): {e}; is the agent up and listening?"),
        ),
        None => Error::new(ErrorKind::NotFound, format!("{address} has no address")),
    })
}
