//! What our active messages carry: a header that names connection and position, and a frame.
//!
//! All numbers are little endian. `docs/ucx.md` draws the handshake.

use nixl_core::{Error, ErrorKind, RegionKey, Result, error::fail, metadata::tlv::Reader};

use crate::fault::misbehaved;

/// Bytes of a [`Head`].
pub(crate) const HEAD: usize = 1 + TOKEN + 8;
/// Bytes of a [`Token`].
const TOKEN: usize = 16;
/// Longest error text sent or taken.
const MAX_TEXT: usize = 512;
/// Longest packed remote key taken.
const MAX_KEY: usize = 8 << 10;

/// Names a connection to its receiver. Unguessable: whoever can reach a worker may send to it.
pub(crate) type Token = [u8; TOKEN];

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Client's first handshake message.
    Hello = 1,
    /// The server's answer.
    Reply = 2,
    /// The client's proofs and its worker address.
    Finish = 3,
    /// The handshake failed, or the connection ends, and why.
    Reject = 4,
    /// The server has taken the client in.
    Welcome = 5,
    /// A message for core.
    Message = 6,
    /// Asks for a region's remote key.
    Import = 7,
    /// The key.
    Grant = 8,
    /// No key.
    Refuse = 9,
    /// Nothing of the sender's is in flight on the connection any more, nor will be.
    Gone = 10,
    /// Asks the owner to send or to take one chunk of a rendezvous.
    Ask = 11,
    /// The asker may send its chunk.
    Ready = 12,
    /// The chunk is where it belongs.
    Done = 13,
    /// The chunk was refused, and why.
    Fail = 14,
}

impl Kind {
    fn from_number(n: u8) -> Result<Self> {
        const ALL: [Kind; 14] = [
            Kind::Hello,
            Kind::Reply,
            Kind::Finish,
            Kind::Reject,
            Kind::Welcome,
            Kind::Message,
            Kind::Import,
            Kind::Grant,
            Kind::Refuse,
            Kind::Gone,
            Kind::Ask,
            Kind::Ready,
            Kind::Done,
            Kind::Fail,
        ];
        let found = ALL.into_iter().find(|kind| *kind as u8 == n);
        found.ok_or_else(|| misbehaved(format!("a frame of unknown kind {n}")))
    }
}

/// In front of every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    /// The receiver's name for the connection.
    pub(crate) to: Token,
    /// Position in the stream of the connection; 0 during the handshake.
    pub(crate) number: u64,
}

impl Head {
    pub(crate) fn encode(&self) -> [u8; HEAD] {
        let mut out = [0; HEAD];
        out[0] = self.kind as u8;
        out[1..=TOKEN].copy_from_slice(&self.to);
        out[1 + TOKEN..].copy_from_slice(&self.number.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let head = (|| {
            let kind = reader.u8("kind")?;
            let to = reader.array("token")?;
            let number = reader.u64("number")?;
            reader.end("header")?;
            Ok((kind, to, number))
        })();
        let (kind, to, number) = head.map_err(garbled)?;
        Ok(Self {
            kind: Kind::from_number(kind)?,
            to,
            number,
        })
    }
}

/// What a message of the handshake carries besides the proofs.
#[derive(Debug, PartialEq)]
pub(crate) struct Shake<'a> {
    /// The sender's name for the connection, until there is a better one.
    pub(crate) from: Token,
    /// The message of `nixl_core::auth`.
    pub(crate) proof: &'a [u8],
}

impl<'a> Shake<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        [&self.from[..], self.proof].concat()
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let from = reader.array("token").map_err(garbled)?;
        let proof = reader.rest();
        Ok(Self { from, proof })
    }
}

/// What `Finish` carries.
#[derive(Debug, PartialEq)]
pub(crate) struct Finish<'a> {
    /// The message of `nixl_core::auth`.
    pub(crate) proof: &'a [u8],
    /// Binds `address` to it.
    pub(crate) seal: [u8; 32],
    /// The client's worker address.
    pub(crate) address: &'a [u8],
}

impl<'a> Finish<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let len = (self.proof.len() as u64).to_le_bytes();
        [&len[..], self.proof, &self.seal, self.address].concat()
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        (|| {
            let len = reader.u64("proof")?;
            let proof = reader.bytes(len, "proof")?;
            let seal = reader.array("seal")?;
            let address = reader.rest();
            Ok(Self {
                proof,
                seal,
                address,
            })
        })()
        .map_err(garbled)
    }
}

/// Names a range of the owner's memory that the asker wants to use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Import {
    /// The asker's number for it.
    pub(crate) id: u64,
    pub(crate) key: RegionKey,
    pub(crate) addr: u64,
    pub(crate) len: u64,
}

impl Import {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(40);
        out.extend(self.id.to_le_bytes());
        out.extend(self.key.0);
        out.extend(self.addr.to_le_bytes());
        out.extend(self.len.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        (|| {
            let this = Self {
                id: reader.u64("id")?,
                key: RegionKey(reader.array("key")?),
                addr: reader.u64("addr")?,
                len: reader.u64("len")?,
            };
            reader.end("import")?;
            Ok(this)
        })()
        .map_err(garbled)
    }
}

/// A region's remote key.
#[derive(Debug, PartialEq)]
pub(crate) struct Grant<'a> {
    /// Number from the question.
    pub(crate) id: u64,
    /// The asker may write.
    pub(crate) writable: bool,
    /// The packed key.
    pub(crate) key: &'a [u8],
}

impl<'a> Grant<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let id = self.id.to_le_bytes();
        [&id[..], &[u8::from(self.writable)], self.key].concat()
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let (id, writable) =
            (|| Ok((reader.u64("id")?, reader.u8("writable")?)))().map_err(garbled)?;
        let key = reader.rest();
        if key.len() > MAX_KEY {
            return Err(misbehaved(format!(
                "a remote key of {} bytes; {MAX_KEY} are taken",
                key.len()
            )));
        }
        Ok(Self {
            id,
            writable: writable != 0,
            key,
        })
    }
}

/// `Refuse`: question `id` has no grant.
pub(crate) fn encode_refusal(id: u64, why: &Error) -> Vec<u8> {
    [&id.to_le_bytes()[..], &encode_error(why)].concat()
}

pub(crate) fn decode_refusal(bytes: &[u8]) -> Result<(u64, Error)> {
    let mut reader = Reader::new(bytes);
    let id = reader.u64("id").map_err(garbled)?;
    Ok((id, decode_error(reader.rest())?))
}

/// Kind and text of an error, as `Reject` carries it.
pub(crate) fn encode_error(why: &Error) -> Vec<u8> {
    let text = why.message();
    let text = &text[..text.floor_char_boundary(text.len().min(MAX_TEXT))];
    [&why.kind().status().to_le_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn decode_error(bytes: &[u8]) -> Result<Error> {
    let mut reader = Reader::new(bytes);
    let status = reader.array("status").map_err(garbled)?;
    let text = reader.rest();
    let text = String::from_utf8_lossy(&text[..text.len().min(MAX_TEXT)]);
    let kind = ErrorKind::from_status(i32::from_le_bytes(status));
    Ok(fail(
        kind,
        format!("the peer says: {}", text.escape_debug()),
    ))
}

pub(crate) fn garbled(why: Error) -> Error {
    misbehaved(format!("a frame does not decode: {}", why.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes() {
        let head = Head {
            kind: Kind::Grant,
            to: [7; TOKEN],
            number: 1 << 40,
        };
        assert_eq!(Head::decode(&head.encode()).unwrap(), head);
        let shake = Shake {
            from: [3; TOKEN],
            proof: b"hello",
        };
        assert_eq!(Shake::decode(&shake.encode()).unwrap(), shake);
        let finish = Finish {
            proof: &[1; 64],
            seal: [2; 32],
            address: b"worker",
        };
        assert_eq!(Finish::decode(&finish.encode()).unwrap(), finish);
        let import = Import {
            id: 5,
            key: RegionKey([9; 16]),
            addr: 0x7000,
            len: 4096,
        };
        assert_eq!(Import::decode(&import.encode()).unwrap(), import);
        let grant = Grant {
            id: 5,
            writable: true,
            key: b"\x01",
        };
        assert_eq!(Grant::decode(&grant.encode()).unwrap(), grant);
        let why = fail(ErrorKind::NotRegistered, "ä".repeat(400));
        let (id, back) = decode_refusal(&encode_refusal(8, &why)).unwrap();
        assert_eq!((id, back.kind()), (8, ErrorKind::NotRegistered));
        assert!(back.message().ends_with("ää"));
    }

    #[test]
    fn what_is_cut_or_unknown_is_refused() {
        let head = Head {
            kind: Kind::Hello,
            to: [0; TOKEN],
            number: 0,
        }
        .encode();
        for n in 0..HEAD {
            assert!(Head::decode(&head[..n]).is_err());
        }
        assert!(Head::decode(&[&head[..], &[0]].concat()).is_err());
        for kind in [0, 15, 255] {
            let mut bad = head;
            bad[0] = kind;
            let e = Head::decode(&bad).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::PeerMisbehaved);
        }
        let huge = [&u64::MAX.to_le_bytes()[..], &[0; 200]].concat();
        assert!(Finish::decode(&huge).is_err());
        assert!(Shake::decode(&[0; TOKEN - 1]).is_err());
        assert!(Import::decode(&[0; 41]).is_err() && Import::decode(&[0; 39]).is_err());
        assert!(Grant::decode(&[0; 8]).is_err() && Grant::decode(&[0; 9 + MAX_KEY + 1]).is_err());
        assert!(decode_refusal(&[0; 7]).is_err() && decode_error(&[0; 3]).is_err());
    }
}
