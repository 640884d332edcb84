//! Core's messages: what agents tell each other over a backend's connection.
//!
//! One byte of type, then little-endian fields. `docs/wire-protocol.md` lists them.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{ErrorKind, RegionId, Result, error::fail};

const NOTIFY: u8 = 1;
const ACK: u8 = 2;
const REVOKE: u8 = 3;
const REVOKED: u8 = 4;
const PROBE: u8 = 5;
const PROBED: u8 = 6;
const FLIP: u8 = 7;
const FLIPPED: u8 = 8;
const UNFLIP: u8 = 9;

/// Bytes of a notification's message before its data.
pub(super) const NOTIFY_HEAD: usize = 9;
const NONCE: usize = crate::agent::NONCE;

/// How far a receiver has come with one sender's notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Ack {
    /// All numbers below this one have arrived.
    pub(crate) received: u64,
    /// Bytes that the application has taken, in all.
    pub(crate) consumed: u64,
}

/// One message between agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// Notification number `seq` of this sender to this target.
    Notify { seq: u64, data: &'a [u8] },
    /// Answer to notifications.
    Ack(Ack),
    /// The sender withdraws a region: stop using it and answer.
    Revoke(RegionId),
    /// Nothing here touches that region any more.
    Revoked(RegionId),
    /// Does `nonce` stand at `offset` of the target's probe region?
    Probe {
        id: u64,
        region: RegionId,
        offset: u64,
        nonce: &'a [u8; NONCE],
    },
    /// The answer to probe `id`.
    Probed { id: u64, ok: bool },
    /// Do the opposite operation for the sender, see [`crate::flip`].
    Flip(&'a [u8]),
    /// Flipped operation `id` ended: 0 or a status of `ErrorKind`.
    Flipped { id: u64, status: i32 },
    /// End flipped operation `id` early.
    Unflip(u64),
}

impl<'a> Message<'a> {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(match self {
            Self::Notify { data, .. } => NOTIFY_HEAD + data.len(),
            Self::Flip(order) => 1 + order.len(),
            _ => 17,
        });
        match *self {
            Self::Notify { seq, data } => {
                out.put_u8(NOTIFY);
                out.put_u64_le(seq);
                out.put_slice(data);
            }
            Self::Ack(ack) => {
                out.put_u8(ACK);
                out.put_u64_le(ack.received);
                out.put_u64_le(ack.consumed);
            }
            Self::Revoke(id) => {
                out.put_u8(REVOKE);
                out.put_u64_le(id.0);
            }
            Self::Revoked(id) => {
                out.put_u8(REVOKED);
                out.put_u64_le(id.0);
            }
            Self::Probe {
                id,
                region,
                offset,
                nonce,
            } => {
                out.put_u8(PROBE);
                out.put_u64_le(id);
                out.put_u64_le(region.0);
                out.put_u64_le(offset);
                out.put_slice(nonce);
            }
            Self::Flip(order) => {
                out.put_u8(FLIP);
                out.put_slice(order);
            }
            Self::Flipped { id, status } => {
                out.put_u8(FLIPPED);
                out.put_u64_le(id);
                out.put_i32_le(status);
            }
            Self::Unflip(id) => {
                out.put_u8(UNFLIP);
                out.put_u64_le(id);
            }
            Self::Probed { id, ok } => {
                out.put_u8(PROBED);
                out.put_u64_le(id);
                out.put_u8(u8::from(ok));
            }
        }
        out.freeze()
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self> {
        let malformed = || {
            fail(
                ErrorKind::PeerMisbehaved,
                format!("malformed message of {} bytes between agents", bytes.len()),
            )
        };
        let (kind, rest) = bytes.split_first().ok_or_else(malformed)?;
        if *kind == FLIP {
            return Ok(Self::Flip(rest));
        }
        let (first, rest) = rest.split_first_chunk::<8>().ok_or_else(malformed)?;
        let first = u64::from_le_bytes(*first);
        let message = match (kind, rest) {
            (&NOTIFY, data) => Self::Notify { seq: first, data },
            (&ACK, rest) => Self::Ack(Ack {
                received: first,
                consumed: u64::from_le_bytes(rest.try_into().map_err(|_| malformed())?),
            }),
            (&REVOKE, []) => Self::Revoke(RegionId(first)),
            (&REVOKED, []) => Self::Revoked(RegionId(first)),
            (&PROBE, rest) => Self::decode_probe(first, rest).ok_or_else(malformed)?,
            (&FLIPPED, rest) => Self::Flipped {
                id: first,
                status: i32::from_le_bytes(rest.try_into().map_err(|_| malformed())?),
            },
            (&UNFLIP, []) => Self::Unflip(first),
            (&PROBED, &[ok @ (0 | 1)]) => Self::Probed {
                id: first,
                ok: ok == 1,
            },
            _ => return Err(malformed()),
        };
        Ok(message)
    }

    fn decode_probe(id: u64, rest: &'a [u8]) -> Option<Self> {
        let (region, rest) = rest.split_first_chunk::<8>()?;
        let (offset, nonce) = rest.split_first_chunk::<8>()?;
        Some(Self::Probe {
            id,
            region: RegionId(u64::from_le_bytes(*region)),
            offset: u64::from_le_bytes(*offset),
            nonce: nonce.try_into().ok()?,
        })
    }

    /// The error for a message that has no business on this side of a connection.
    pub(crate) fn unexpected(&self) -> crate::Error {
        let what = match self {
            Self::Notify { .. } => "a notification",
            Self::Ack(_) => "an acknowledgement",
            Self::Revoke(_) | Self::Revoked(_) => "a withdrawal",
            Self::Probe { .. } | Self::Probed { .. } => "a probe",
            Self::Flip(_) | Self::Flipped { .. } | Self::Unflip(_) => "a flipped operation",
        };
        fail(
            ErrorKind::PeerMisbehaved,
            format!("{what} came from the wrong side of the connection"),
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_message_survives_the_wire() {
        let ack = Ack {
            received: 7,
            consumed: u64::MAX,
        };
        for m in [
            Message::Notify {
                seq: 3,
                data: b"hello",
            },
            Message::Notify { seq: 0, data: b"" },
            Message::Ack(ack),
            Message::Revoke(RegionId(9)),
            Message::Revoked(RegionId(u64::MAX)),
            Message::Probe {
                id: 1,
                region: RegionId(2),
                offset: 3,
                nonce: &[4; NONCE],
            },
            Message::Probed { id: 5, ok: true },
            Message::Flip(b"order"),
            Message::Flipped { id: 6, status: -3 },
            Message::Unflip(7),
        ] {
            assert_eq!(Message::decode(&m.encode()).unwrap(), m);
        }
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_or_a_message(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(m) = Message::decode(&bytes) {
                prop_assert_eq!(&m.encode()[..], &bytes[..]);
            }
        }
    }
}
