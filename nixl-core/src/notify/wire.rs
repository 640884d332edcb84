//! Core's messages: what agents tell each other over a backend's connection.
//!
//! One byte of type, then little-endian fields. `docs/wire-protocol.md` lists them.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{ErrorKind, RegionId, Result, error::fail};

const NOTIFY: u8 = 1;
const ACK: u8 = 2;
const REVOKE: u8 = 3;
const REVOKED: u8 = 4;

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
}

impl<'a> Message<'a> {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(match self {
            Self::Notify { data, .. } => 9 + data.len(),
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
            _ => return Err(malformed()),
        };
        Ok(message)
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
