//! The handshake and the frames after it; both sides stand here, so that they agree.

use nixl_core::{ErrorKind, Result, auth::random};

use super::{
    key::{MAC_LEN, SharedKey},
    wire::Wire,
};

pub(super) const MAGIC: [u8; 7] = *b"NXMETA\0";
const VERSION: u8 = 1;
const NONCE: usize = 32;
const HELLO: usize = 7 + 1 + 1 + NONCE;
const WELCOME: usize = 7 + 1 + 1 + 4 + NONCE;

const GO: u8 = 0;
const NEEDS_KEY: u8 = 1;
const HAS_NO_KEY: u8 = 2;
const OTHER_VERSION: u8 = 3;
const WRONG_KEY: u8 = 4;

/// Frame codes.
pub(super) const FETCH: u8 = 1;
pub(super) const SEND: u8 = 2;
pub(super) const INVALIDATE: u8 = 3;
pub(super) const OK: u8 = 0;
pub(super) const FAILED: u8 = 1;

/// A connection after the handshake.
pub(super) struct Session<'a> {
    pub(super) wire: Wire<'a>,
    /// The connection's own key, where the sides share one.
    key: Option<SharedKey>,
    ours: &'static [u8],
    theirs: &'static [u8],
    /// Largest blob that the server takes.
    pub(super) server_max: usize,
}

impl<'a> Session<'a> {
    /// The client's handshake.
    pub(super) fn connect(mut wire: Wire<'a>, key: Option<&SharedKey>) -> Result<Self> {
        let hello = hello(key.is_some())?;
        wire.write_all(&hello)?;
        let welcome: [u8; WELCOME] = wire.read_array()?;
        if welcome[..7] != MAGIC {
            return Err(wire.fail(
                ErrorKind::PeerMisbehaved,
                "what answers there is no metadata listener; check the port",
            ));
        }
        check_verdict(&wire, &welcome)?;
        if let Some(key) = key {
            wire.write_all(&key.mac(&[b"client", &hello, &welcome]))?;
            let answer: [u8; 1 + MAC_LEN] = wire.read_array()?;
            if answer[0] != GO || !key.verify(&[b"server", &hello, &welcome], &answer[1..]) {
                return Err(wire.fail(
                    ErrorKind::Unauthenticated,
                    "it has another shared key; give both sides the same",
                ));
            }
        }
        Ok(Self {
            key: key.map(|k| k.derive(&[b"session", &hello, &welcome])),
            ours: b"request",
            theirs: b"reply",
            server_max: u32_at(&welcome, 9) as usize,
            wire,
        })
    }

    /// The server's handshake.
    pub(super) fn accept(
        mut wire: Wire<'a>,
        key: Option<&SharedKey>,
        max_blob: usize,
    ) -> Result<Self> {
        let hello: [u8; HELLO] = wire.read_array()?;
        if hello[..7] != MAGIC {
            return Err(wire.fail(ErrorKind::PeerMisbehaved, "garbage instead of a greeting"));
        }
        let verdict = match (hello[7], hello[8] != 0, key) {
            (VERSION, true, None) => HAS_NO_KEY,
            (VERSION, false, Some(_)) => NEEDS_KEY,
            (VERSION, ..) => GO,
            _ => OTHER_VERSION,
        };
        let welcome = welcome(verdict, max_blob)?;
        wire.write_all(&welcome)?;
        check_verdict(&wire, &welcome)?;
        if let Some(key) = key {
            check_proof(&mut wire, key, &hello, &welcome)?;
        }
        Ok(Self {
            key: key.map(|k| k.derive(&[b"session", &hello, &welcome])),
            ours: b"reply",
            theirs: b"request",
            server_max: max_blob,
            wire,
        })
    }

    /// Both sides proved that they know the shared key.
    pub(super) fn authenticated(&self) -> bool {
        self.key.is_some()
    }

    pub(super) fn send(&mut self, code: u8, body: &[u8]) -> Result<()> {
        let len = u32::try_from(body.len()).map_err(|_| {
            self.wire
                .fail(ErrorKind::Exhausted, "a blob has more than 4 GiB")
        })?;
        let head = head(code, len);
        self.wire.write_all(&head)?;
        self.wire.write_all(body)?;
        match &self.key {
            Some(key) => self.wire.write_all(&key.mac(&[self.ours, &head, body])),
            None => Ok(()),
        }
    }

    /// A frame whose body may have `limit(code)` bytes; `None` for an unknown code.
    pub(super) fn receive(&mut self, limit: impl Fn(u8) -> Option<usize>) -> Result<(u8, Vec<u8>)> {
        let head: [u8; 5] = self.wire.read_array()?;
        let len = u32_at(&head, 1) as usize;
        let Some(limit) = limit(head[0]) else {
            return Err(self
                .wire
                .fail(ErrorKind::PeerMisbehaved, "a frame of unknown kind"));
        };
        if len > limit {
            return Err(self.wire.fail(
                ErrorKind::Exhausted,
                format_args!("it announces {len} bytes where {limit} are allowed (max_blob)"),
            ));
        }
        let body = self.wire.read_vec(len)?;
        if let Some(key) = &self.key {
            let tag: [u8; MAC_LEN] = self.wire.read_array()?;
            if !key.verify(&[self.theirs, &head, &body], &tag) {
                return Err(self.wire.fail(
                    ErrorKind::Unauthenticated,
                    "a frame was changed on its way, or is not from whom the handshake was with",
                ));
            }
        }
        Ok((head[0], body))
    }
}

/// The server's part of the proof: it proves itself only to a client that did.
fn check_proof(
    wire: &mut Wire<'_>,
    key: &SharedKey,
    hello: &[u8; HELLO],
    welcome: &[u8; WELCOME],
) -> Result<()> {
    let proof: [u8; MAC_LEN] = wire.read_array()?;
    let mut answer = [0; 1 + MAC_LEN];
    if key.verify(&[b"client", hello, welcome], &proof) {
        answer[1..].copy_from_slice(&key.mac(&[b"server", hello, welcome]));
        return wire.write_all(&answer);
    }
    answer[0] = WRONG_KEY;
    wire.write_all(&answer)?;
    Err(wire.fail(
        ErrorKind::Unauthenticated,
        "its proof is wrong: another shared key, or a recorded handshake",
    ))
}

fn hello(wants_key: bool) -> Result<[u8; HELLO]> {
    let mut m = [0; HELLO];
    m[..7].copy_from_slice(&MAGIC);
    m[7] = VERSION;
    m[8] = u8::from(wants_key);
    m[9..].copy_from_slice(&random::<NONCE>()?);
    Ok(m)
}

fn welcome(verdict: u8, max_blob: usize) -> Result<[u8; WELCOME]> {
    let mut m = [0; WELCOME];
    m[..7].copy_from_slice(&MAGIC);
    m[7] = VERSION;
    m[8] = verdict;
    let max = u32::try_from(max_blob).unwrap_or(u32::MAX);
    m[9..13].copy_from_slice(&max.to_le_bytes());
    m[13..].copy_from_slice(&random::<NONCE>()?);
    Ok(m)
}

fn check_verdict(wire: &Wire<'_>, welcome: &[u8; WELCOME]) -> Result<()> {
    let (kind, what) = match welcome[8] {
        GO if welcome[7] == VERSION => return Ok(()),
        NEEDS_KEY => (
            ErrorKind::Unauthenticated,
            "the server demands the shared key and the client has none",
        ),
        HAS_NO_KEY => (
            ErrorKind::Unauthenticated,
            "the client demands a shared key and the server has none",
        ),
        OTHER_VERSION => (
            ErrorKind::Unsupported,
            "the two sides speak different versions of the metadata protocol",
        ),
        _ => (ErrorKind::PeerMisbehaved, "an answer of unknown kind"),
    };
    Err(wire.fail(kind, what))
}

fn head(code: u8, len: u32) -> [u8; 5] {
    let mut head = [code; 5];
    head[1..].copy_from_slice(&len.to_le_bytes());
    head
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .rev()
        .fold(0, |n, b| n << 8 | u32::from(*b))
}
