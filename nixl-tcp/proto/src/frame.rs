//! The 16-byte header that every frame after the handshake begins with.

use crate::{MAX_CHUNK, MAX_CHUNKS, MAX_OPEN, MAX_SLOTS, ProtocolError};

/// Bytes of a frame header.
pub const HEADER_LEN: usize = 16;

/// Number of a request: a slot at the target and how often the slot was used before.
///
/// Each side numbers the requests that it initiates; a slot is used again only after the target is known to have seen
/// its last request, so the next number of a slot is always the last one plus one (wrapping).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Xfer {
    /// Place in the target's table.
    pub slot: u16,
    /// Use of the place, from 1, wrapping.
    pub seq: u32,
}

/// Which way a chunk's payload flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkKind {
    /// From the owner of the memory to the initiator of a READ.
    Read,
    /// From the initiator of a WRITE to the owner of the memory.
    Write,
}

/// Header of one chunk: which part of which request the next `len` payload bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Direction of the request.
    pub kind: ChunkKind,
    /// The request.
    pub xfer: Xfer,
    /// Index in the request's chunk table.
    pub index: u32,
    /// Payload bytes, 1 to [`MAX_CHUNK`].
    pub len: u32,
}

/// How a request, or one chunk of it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// All bytes are in place.
    Ok = 0,
    /// The initiator cancelled it.
    Cancelled = 1,
    /// No region has this number and key, or it was withdrawn meanwhile.
    NotRegistered = 2,
    /// The region may not be written by peers.
    NotAllowed = 3,
    /// A descriptor reaches over the end of its region.
    OutOfBounds = 4,
    /// The target could not go on for a reason of its own.
    Failed = 5,
}

impl Status {
    pub(crate) fn from_wire(v: u8) -> Result<Self, ProtocolError> {
        Ok(match v {
            0 => Self::Ok,
            1 => Self::Cancelled,
            2 => Self::NotRegistered,
            3 => Self::NotAllowed,
            4 => Self::OutOfBounds,
            5 => Self::Failed,
            _ => return Err(ProtocolError::BadField("status")),
        })
    }
}

/// What a side accepts; the first frame that it sends on the control stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Requests that the peer may have open here, 1 to [`MAX_SLOTS`].
    pub slots: u16,
    /// Bytes of descriptor lists that the peer may have open here: the sum over its requests of the body of the open
    /// frame and [`crate::CHUNK_COST`] for each chunk; 4096 to [`MAX_OPEN`].
    pub list_bytes: u32,
    /// Data streams that belong to the connection, 1 to 16.
    pub streams: u16,
}

impl Settings {
    pub(crate) fn check(self) -> Result<Self, ProtocolError> {
        if !(1..=MAX_SLOTS).contains(&self.slots) {
            return Err(ProtocolError::BadField("slots"));
        }
        if !(4096..=MAX_OPEN).contains(&self.list_bytes) {
            return Err(ProtocolError::BadField("list_bytes"));
        }
        if !(1..=16).contains(&self.streams) {
            return Err(ProtocolError::BadField("streams"));
        }
        Ok(self)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) ty: u8,
    pub(crate) status: u8,
    pub(crate) xfer: Xfer,
    pub(crate) len: u32,
    pub(crate) aux: u32,
}

pub(crate) mod ty {
    pub(crate) const SETTINGS: u8 = 1;
    pub(crate) const MESSAGE: u8 = 2;
    pub(crate) const ACK: u8 = 3;
    pub(crate) const CANCEL: u8 = 4;
    pub(crate) const PING: u8 = 5;
    pub(crate) const OPEN: u8 = 16;
    pub(crate) const READ_CHUNK: u8 = 17;
    pub(crate) const WRITE_CHUNK: u8 = 18;
}

impl Header {
    pub(crate) const ZERO: Self = Self {
        ty: 0,
        status: 0,
        xfer: Xfer { slot: 0, seq: 0 },
        len: 0,
        aux: 0,
    };

    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut b = [0; HEADER_LEN];
        b[0] = self.ty;
        b[1] = self.status;
        b[2..4].copy_from_slice(&self.xfer.slot.to_le_bytes());
        b[4..8].copy_from_slice(&self.xfer.seq.to_le_bytes());
        b[8..12].copy_from_slice(&self.len.to_le_bytes());
        b[12..16].copy_from_slice(&self.aux.to_le_bytes());
        b
    }

    pub(crate) fn decode(b: &[u8; HEADER_LEN]) -> Self {
        Self {
            ty: b[0],
            status: b[1],
            xfer: Xfer {
                slot: u16::from_le_bytes([b[2], b[3]]),
                seq: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
            },
            len: u32::from_le_bytes([b[8], b[9], b[10], b[11]]),
            aux: u32::from_le_bytes([b[12], b[13], b[14], b[15]]),
        }
    }

    pub(crate) fn chunk(&self) -> Result<Chunk, ProtocolError> {
        let kind = match self.ty {
            ty::READ_CHUNK => ChunkKind::Read,
            ty::WRITE_CHUNK => ChunkKind::Write,
            other => return Err(ProtocolError::BadType(other)),
        };
        if self.status != 0 {
            return Err(ProtocolError::BadField("status"));
        }
        if self.len == 0 || self.len > MAX_CHUNK {
            return Err(ProtocolError::Oversize("chunk"));
        }
        if self.aux >= MAX_CHUNKS {
            return Err(ProtocolError::Oversize("chunk index"));
        }
        Ok(Chunk {
            kind,
            xfer: self.xfer,
            index: self.aux,
            len: self.len,
        })
    }
}

impl Chunk {
    pub(crate) fn header(&self) -> Header {
        let ty = match self.kind {
            ChunkKind::Read => ty::READ_CHUNK,
            ChunkKind::Write => ty::WRITE_CHUNK,
        };
        Header {
            ty,
            status: 0,
            xfer: self.xfer,
            len: self.len,
            aux: self.index,
        }
    }
}
