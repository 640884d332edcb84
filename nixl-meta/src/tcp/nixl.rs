//! NIXL's socket protocol: what its agents speak to each other's metadata listeners.
//!
//! ```text
//! frame    length[8] body                      little-endian
//! body     ("NIXLCOMM:" command)*
//! command  "LOAD" blob | "SEND" | "INVL" name
//! ```
//!
//! `SEND` is answered by a frame with `LOAD` on the same connection, the others by nothing; a
//! connection may carry any number of frames. Nobody proves who he is, and nothing says whether
//! a blob was welcome. As NIXL does, a body is cut wherever the nine bytes of the marker stand.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use nixl_core::{Error, ErrorKind, Result};

use super::{
    client::{ClientConfig, dial},
    server::{MetaHandler, Origin},
    wire::Wire,
};
use crate::{DEFAULT_LABEL, MAX_NAME, check_name, deadline_after};

const MARKER: &[u8] = b"NIXLCOMM:";
const LOAD: &[u8] = b"LOAD";
const SEND: &[u8] = b"SEND";
const INVALIDATE: &[u8] = b"INVL";

/// NIXL's agents keep a connection for their next command: how long it may stay silent.
const IDLE: Duration = Duration::from_secs(600);

/// How long the rest of a frame may take, and an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Room for markers and commands around a blob.
const AROUND: usize = 1024;

/// Serves a connection to its end. What a command fails with is logged: the protocol has no place
/// for it.
pub(super) fn serve(
    mut wire: Wire<'_>,
    handler: &dyn MetaHandler,
    addr: SocketAddr,
    max_blob: usize,
) -> Result<()> {
    let from = Origin {
        addr,
        authenticated: false,
    };
    loop {
        wire.deadline = deadline_after(IDLE);
        wire.peek::<1>()?;
        wire.deadline = deadline_after(PATIENCE);
        let body = read_frame(&mut wire, max_blob)?;
        for command in commands(&body) {
            match obey(command, handler, &from) {
                Ok(None) => {}
                Ok(Some(blob)) => write_frame(&mut wire, LOAD, &blob)?,
                Err(e) => tracing::warn!(%addr, "a command over NIXL's protocol failed: {e}"),
            }
        }
    }
}

/// What lies between the markers; before the first there should be nothing.
fn commands(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let begin = find(rest)? + MARKER.len();
        rest = &rest[begin..];
        let end = find(rest).unwrap_or(rest.len());
        Some(&rest[..end])
    })
}

fn find(bytes: &[u8]) -> Option<usize> {
    bytes.windows(MARKER.len()).position(|w| w == MARKER)
}

fn obey(command: &[u8], handler: &dyn MetaHandler, from: &Origin) -> Result<Option<Bytes>> {
    let misbehaved = |why: &'static str| Error::new(ErrorKind::PeerMisbehaved, why);
    let (word, rest) = command
        .split_at_checked(LOAD.len())
        .ok_or_else(|| misbehaved("a command of less than four bytes"))?;
    match word {
        SEND => handler.local_blob(DEFAULT_LABEL, from).map(Some),
        LOAD => handler
            .remote_blob(Bytes::copy_from_slice(rest), from)
            .map(|_| None),
        INVALIDATE if rest.len() <= MAX_NAME => {
            let name = std::str::from_utf8(rest);
            let name = name.map_err(|_| misbehaved("an agent's name that is not UTF-8"))?;
            handler.invalidate(name, from).map(|()| None)
        }
        _ => Err(misbehaved("an unknown command")),
    }
}

fn read_frame(wire: &mut Wire<'_>, max_blob: usize) -> Result<Vec<u8>> {
    let len = u64::from_le_bytes(wire.read_array()?);
    match usize::try_from(len) {
        Ok(len) if len <= max_blob.saturating_add(AROUND) => wire.read_vec(len),
        _ => Err(wire.fail(
            ErrorKind::Exhausted,
            format_args!("it announced {len} bytes, more than max_blob ({max_blob}) here"),
        )),
    }
}

fn write_frame(wire: &mut Wire<'_>, command: &[u8], rest: &[u8]) -> Result<()> {
    let body = [MARKER, command, rest].concat();
    if find(&body[MARKER.len()..]).is_some() {
        return Err(wire.fail(
            ErrorKind::Unsupported,
            "what is to be sent holds the protocol's marker, and would arrive cut in two",
        ));
    }
    wire.write_all(&(body.len() as u64).to_le_bytes())?;
    wire.write_all(&body)
}

fn call<T>(
    address: &str,
    config: &ClientConfig,
    run: impl FnOnce(&mut Wire<'_>) -> Result<T>,
) -> Result<T> {
    let deadline: Instant = deadline_after(config.timeout);
    let (stream, peer) = dial(address, deadline)?;
    run(&mut Wire::new(&stream, peer, deadline))
}

/// The blob of the NIXL agent that listens at `address` (`host:port`).
///
/// Errors: as of [`super::fetch`].
pub fn fetch(address: &str, config: &ClientConfig) -> Result<Bytes> {
    call(address, config, |wire| {
        write_frame(wire, SEND, &[])?;
        let body = read_frame(wire, config.max_blob)?;
        let blob = commands(&body).find_map(|command| command.strip_prefix(LOAD));
        let blob = blob.map(Bytes::copy_from_slice);
        blob.ok_or_else(|| wire.fail(ErrorKind::PeerMisbehaved, "it answered without a blob"))
    })
}

/// Gives `blob` to the NIXL agent that listens at `address`. Whether that agent takes it, it does
/// not say.
pub fn send(address: &str, blob: &[u8], config: &ClientConfig) -> Result<()> {
    call(address, config, |wire| write_frame(wire, LOAD, blob))
}

/// Tells the NIXL agent that listens at `address` to forget `agent`.
pub fn invalidate(address: &str, agent: &str, config: &ClientConfig) -> Result<()> {
    check_name("the agent's name", agent)?;
    call(address, config, |wire| {
        write_frame(wire, INVALIDATE, agent.as_bytes())
    })
}
