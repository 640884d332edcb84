//! A socket before it belongs to a connection: handshake frames, one at a time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nixl_core::{Error, ErrorKind, Result, Secret, auth::SessionKey};
use nixl_tcp_proto::{GreetingKind, GreetingRx, put_greeting};

use crate::{
    conn::misbehaved,
    sock::{self, Moved},
};

/// The sockets of one connection, authenticated.
pub(crate) struct Streams {
    pub(crate) control: OwnedFd,
    pub(crate) data: Vec<OwnedFd>,
}

/// Handshake channel of this backend (`nixl_core::auth`).
pub(crate) const CHANNEL: &str = "tcp";

/// What a side proves that opens a data stream: that it knows the session's key.
pub(crate) fn join_proof(key: &SessionKey, index: u8) -> [u8; 32] {
    key.derive(&[b"join"[..].as_ref(), &[index]].concat())
}

/// What the accepting side proves in return.
pub(crate) fn welcome_proof(key: &SessionKey, index: u8) -> [u8; 32] {
    key.derive(&[b"welcome"[..].as_ref(), &[index]].concat())
}

/// Compares two proofs in constant time.
pub(crate) fn is_proof(want: [u8; 32], got: &[u8]) -> bool {
    <[u8; 32]>::try_from(got).is_ok_and(|got| Secret(want) == Secret(got))
}

/// One end of a handshake.
pub(crate) struct Greeter {
    fd: OwnedFd,
    rx: GreetingRx,
    out: Vec<u8>,
}

impl Greeter {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            rx: GreetingRx::new(),
            out: Vec::new(),
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Sends a frame, or what the socket takes of it.
    pub(crate) fn say(&mut self, kind: GreetingKind, body: &[u8]) -> Result<()> {
        put_greeting(&mut self.out, kind, body).map_err(misbehaved)?;
        self.flush()
    }

    /// Refuses the other side, with a code and a reason for people.
    pub(crate) fn reject(&mut self, why: &Error) {
        let code = match why.kind() {
            ErrorKind::Unauthenticated => 1,
            ErrorKind::PeerGone => 2,
            ErrorKind::NotAllowed => 3,
            _ => 0,
        };
        let mut body = vec![code];
        body.extend(why.message().as_bytes().iter().take(500));
        // The socket is closed next whether or not the reason gets out.
        let _ = self.say(GreetingKind::Reject, &body);
    }

    fn flush(&mut self) -> Result<()> {
        while !self.out.is_empty() {
            match sock::send(&self.fd, &self.out) {
                Ok(Moved::Bytes(n)) => drop(self.out.drain(..n)),
                Ok(Moved::Blocked) => return Ok(()),
                Err(e) => return Err(sock::gone("the handshake broke off", e)),
            }
        }
        Ok(())
    }

    /// The next frame, if it is here. A rejection is an error.
    pub(crate) fn hear(&mut self) -> Result<Option<(GreetingKind, Vec<u8>)>> {
        self.flush()?;
        loop {
            if let Some(g) = self.rx.greeting().map_err(misbehaved)? {
                let heard = (g.kind, g.body.to_vec());
                self.rx.clear();
                return match heard {
                    (GreetingKind::Reject, body) => Err(rejected(&body)),
                    other => Ok(Some(other)),
                };
            }
            match sock::recv(&self.fd, self.rx.space().map_err(misbehaved)?) {
                Ok(Moved::Bytes(n)) => self.rx.received(n),
                Ok(Moved::Blocked) => return Ok(None),
                Err(e) => return Err(sock::gone("the handshake broke off", e)),
            }
        }
    }
}

fn rejected(body: &[u8]) -> Error {
    let (kind, text) = match body.split_first() {
        Some((1, text)) => (ErrorKind::Unauthenticated, text),
        Some((2, text)) => (ErrorKind::PeerGone, text),
        Some((3, text)) => (ErrorKind::NotAllowed, text),
        Some((_, text)) => (ErrorKind::PeerMisbehaved, text),
        None => (ErrorKind::PeerMisbehaved, &[][..]),
    };
    let text: String = String::from_utf8_lossy(text)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    Error::new(
        kind,
        format!("the other side refused the connection: {text}"),
    )
}
