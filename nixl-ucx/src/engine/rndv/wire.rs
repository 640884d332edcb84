//! What the two sides of a rendezvous say to each other. All numbers are little endian.
//!
//! `Ask` names blocks of the target's memory, `Ready`, `Done` and `Fail` a chunk that was asked for.
//! Data has a header of its own: it comes under another number and in no order.

use std::collections::BTreeMap;

use nixl_core::{
    Error, Op, RegionKey, Result,
    metadata::tlv::Reader,
    plan::{CHUNK_BLOCKS, CHUNK_BYTES, Plan},
};

use crate::{
    fault::misbehaved,
    wire::{Token, decode_error, encode_error, garbled},
};

/// Bytes in front of data.
pub(in crate::engine) const DATA_HEAD: usize = 16 + 8 + 4 + 1;

/// One chunk of one post. The asker numbers its posts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::engine) struct Name {
    pub(in crate::engine) post: u64,
    pub(in crate::engine) chunk: u32,
}

/// In front of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct DataHead {
    /// The receiver's name for the connection.
    pub(in crate::engine) to: Token,
    pub(in crate::engine) name: Name,
    /// The receiver asked for it (READ); otherwise the sender did (WRITE).
    pub(in crate::engine) yours: bool,
}

impl DataHead {
    pub(super) fn encode(&self) -> [u8; DATA_HEAD] {
        let mut out = [0; DATA_HEAD];
        out[..16].copy_from_slice(&self.to);
        out[16..24].copy_from_slice(&self.name.post.to_le_bytes());
        out[24..28].copy_from_slice(&self.name.chunk.to_le_bytes());
        out[28] = u8::from(self.yours);
        out
    }

    pub(in crate::engine) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        (|| {
            let this = Self {
                to: reader.array("token")?,
                name: name(&mut reader)?,
                yours: reader.u8("whose")? != 0,
            };
            reader.end("header of data")?;
            Ok(this)
        })()
        .map_err(garbled)
    }
}

fn name(reader: &mut Reader<'_>) -> Result<Name> {
    Ok(Name {
        post: reader.u64("post")?,
        chunk: reader.u32("chunk")?,
    })
}

impl Name {
    pub(super) fn encode(self) -> Vec<u8> {
        [&self.post.to_le_bytes()[..], &self.chunk.to_le_bytes()].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let name = name(&mut reader).map_err(garbled)?;
        reader.end("chunk").map_err(garbled)?;
        Ok(name)
    }

    pub(super) fn encode_failure(self, why: &Error) -> Vec<u8> {
        [self.encode(), encode_error(why)].concat()
    }

    pub(super) fn decode_failure(bytes: &[u8]) -> Result<(Self, Error)> {
        let mut reader = Reader::new(bytes);
        let name = name(&mut reader).map_err(garbled)?;
        Ok((name, decode_error(reader.rest())?))
    }
}

/// One block of the target's memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Part {
    pub(super) key: RegionKey,
    pub(super) addr: u64,
    pub(super) len: u64,
}

/// What an initiator asks for.
#[derive(Debug, PartialEq)]
pub(super) struct Ask {
    pub(super) op: Op,
    pub(super) name: Name,
    /// In the order in which the data has them.
    pub(super) parts: Vec<Part>,
}

/// `Ask` for one chunk of a plan: each region's key once, then the blocks.
pub(super) fn encode_ask(plan: &Plan, name: Name) -> Vec<u8> {
    let index = name.chunk as usize;
    let mut regions = BTreeMap::new();
    let mut keys = Vec::new();
    let mut blocks = Vec::new();
    for piece in plan.chunk(index) {
        let at = *regions.entry(piece.remote_region).or_insert_with(|| {
            let region = &plan.remote().regions()[piece.remote_region as usize];
            keys.push(region.key);
            (keys.len() - 1) as u16
        });
        blocks.extend(at.to_le_bytes());
        blocks.extend(piece.remote.to_le_bytes());
        blocks.extend(piece.len.to_le_bytes());
    }
    let mut out = vec![u8::from(plan.op() == Op::Write)];
    out.extend(name.encode());
    out.extend((keys.len() as u16).to_le_bytes());
    keys.iter().for_each(|key| out.extend(key.0));
    out.extend(blocks);
    out
}

impl Ask {
    /// Errors: `PeerMisbehaved` for what [`encode_ask`] does not make.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let ask = Self::read(&mut Reader::new(bytes)).map_err(garbled)?;
        let ask = ask.ok_or_else(|| misbehaved("a block of a region that is not named"))?;
        let bytes = ask.bytes();
        let empty = ask.parts.iter().any(|part| part.len == 0);
        if empty || ask.parts.is_empty() || ask.parts.len() > CHUNK_BLOCKS {
            return Err(misbehaved("a chunk without blocks, or with too many"));
        }
        match bytes {
            Some(1..=CHUNK_BYTES) => Ok(ask),
            _ => Err(misbehaved("a chunk that is too long")),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>> {
        let op = match reader.u8("operation")? {
            0 => Op::Read,
            _ => Op::Write,
        };
        let name = name(reader)?;
        let keys = usize::from(reader.u16("regions")?);
        let keys = (0..keys).map(|_| Ok(RegionKey(reader.array("key")?)));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        let mut parts = Vec::new();
        while reader.remaining() > 0 && parts.len() <= CHUNK_BLOCKS {
            let region = usize::from(reader.u16("region")?);
            let (addr, len) = (reader.u64("addr")?, reader.u64("len")?);
            let Some(key) = keys.get(region).copied() else {
                return Ok(None);
            };
            parts.push(Part { key, addr, len });
        }
        Ok(Some(Self { op, name, parts }))
    }

    /// Bytes of all blocks; `None` if they cannot be counted.
    pub(super) fn bytes(&self) -> Option<u64> {
        let mut lens = self.parts.iter().map(|part| part.len);
        lens.try_fold(0u64, u64::checked_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nixl_core::{ErrorKind, error::fail};

    const NAME: Name = Name {
        post: 1 << 40,
        chunk: 7,
    };

    fn ask(blocks: &[(u16, u64, u64)]) -> Vec<u8> {
        let mut out = vec![1];
        out.extend(NAME.encode());
        out.extend(2u16.to_le_bytes());
        out.extend([3; 16]);
        out.extend([4; 16]);
        for (region, addr, len) in blocks {
            out.extend(region.to_le_bytes());
            out.extend(addr.to_le_bytes());
            out.extend(len.to_le_bytes());
        }
        out
    }

    #[test]
    fn what_is_encoded_decodes() {
        for yours in [false, true] {
            let head = DataHead {
                to: [9; 16],
                name: NAME,
                yours,
            };
            assert_eq!(DataHead::decode(&head.encode()).unwrap(), head);
        }
        assert_eq!(Name::decode(&NAME.encode()).unwrap(), NAME);
        let why = fail(ErrorKind::NotAllowed, "read-only");
        let (name, back) = Name::decode_failure(&NAME.encode_failure(&why)).unwrap();
        assert_eq!((name, back.kind()), (NAME, ErrorKind::NotAllowed));
        let ask = Ask::decode(&ask(&[(1, 0x7000, 10), (0, 0x9000, 20)])).unwrap();
        assert_eq!((ask.op, ask.name, ask.bytes()), (Op::Write, NAME, Some(30)));
        let part = Part {
            key: RegionKey([4; 16]),
            addr: 0x7000,
            len: 10,
        };
        assert_eq!(ask.parts[0], part);
        assert_eq!(ask.parts[1].key, RegionKey([3; 16]));
    }

    #[test]
    fn what_an_honest_peer_does_not_send_is_refused() {
        let whole = ask(&[(0, 0x7000, 10)]);
        for n in 0..whole.len() {
            assert!(Ask::decode(&whole[..n]).is_err(), "cut to {n} bytes");
        }
        let many = vec![(0, 0x7000, 1); CHUNK_BLOCKS + 1];
        let wrong: [&[(u16, u64, u64)]; 6] = [
            &[],
            &[(2, 0x7000, 10)],
            &[(0, 0x7000, 0)],
            &[(0, 0x7000, CHUNK_BYTES + 1)],
            &[(0, 0x7000, u64::MAX), (0, 0x7000, 2)],
            &many,
        ];
        for blocks in wrong {
            let e = Ask::decode(&ask(blocks)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::PeerMisbehaved);
        }
        assert!(DataHead::decode(&[0; DATA_HEAD - 1]).is_err());
        assert!(DataHead::decode(&[0; DATA_HEAD + 1]).is_err());
        assert!(Name::decode(&[0; 11]).is_err() && Name::decode(&[0; 13]).is_err());
        assert!(Name::decode_failure(&[0; 13]).is_err());
    }
}
