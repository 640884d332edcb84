//! Sending half of a data stream: says what to send next.

use crate::{
    Chunk, HEADER_LEN, Status, Xfer,
    frame::{Header, ty},
};

/// What to send next. Parts follow each other in this order; those behind may go in the same system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxPart {
    /// These bytes: [`DataTx::bytes`] of the range.
    Bytes {
        /// First byte.
        start: u8,
        /// Behind the last byte.
        end: u8,
    },
    /// Bytes of the request's open body from this offset to its end.
    Body {
        /// Bytes of the body already sent.
        offset: u32,
    },
    /// Payload of the chunk from this offset to its end.
    Payload {
        /// Bytes of the chunk already sent.
        offset: u32,
    },
    /// So many zero bytes in place of payload.
    Filler {
        /// Bytes to fill.
        left: u32,
    },
}

/// Sending half of a data stream. One message is on its way at a time: an open frame, a chunk, or an open frame and the
/// first chunk of the same WRITE together.
#[derive(Debug)]
pub struct DataTx {
    /// Open header, chunk header, trailer.
    fixed: [u8; 2 * HEADER_LEN + 1],
    open: u8,
    body: u32,
    head: u8,
    payload: u32,
    trailer: u8,
    /// Bytes sent of all that.
    sent: u64,
    aborted: bool,
}

impl Default for DataTx {
    fn default() -> Self {
        Self::new()
    }
}

impl DataTx {
    /// Nothing to send.
    pub fn new() -> Self {
        Self {
            fixed: [0; 2 * HEADER_LEN + 1],
            open: 0,
            body: 0,
            head: 0,
            payload: 0,
            trailer: 0,
            sent: 0,
            aborted: false,
        }
    }

    /// Whether the last message is out and another may start.
    pub fn is_idle(&self) -> bool {
        self.sent == self.total()
    }

    /// Bytes of the message that are still to be sent.
    pub fn left(&self) -> u64 {
        self.total() - self.sent
    }

    /// Payload bytes of the chunk in the message, 0 if it has none.
    pub fn payload_len(&self) -> u32 {
        self.payload
    }

    /// Starts an open frame with a body of `body` bytes.
    pub fn open(&mut self, xfer: Xfer, body: u32) {
        self.clear();
        let header = Header {
            ty: ty::OPEN,
            status: 0,
            xfer,
            len: body,
            aux: 0,
        };
        self.fixed[..HEADER_LEN].copy_from_slice(&header.encode());
        (self.open, self.body) = (HEADER_LEN as u8, body);
    }

    /// Starts a chunk, or adds it behind an open frame of which nothing has been sent.
    pub fn chunk(&mut self, chunk: Chunk) {
        if self.is_idle() || self.payload > 0 {
            self.clear();
        }
        self.fixed[HEADER_LEN..2 * HEADER_LEN].copy_from_slice(&chunk.header().encode());
        self.fixed[2 * HEADER_LEN] = Status::Ok as u8;
        (self.head, self.payload, self.trailer) = (HEADER_LEN as u8, chunk.len, 1);
    }

    /// The rest of the chunk's payload becomes zeros and its trailer says why. `false`: nothing is left to abort.
    pub fn abort(&mut self, why: Status) -> bool {
        let can = self.payload > 0 && !self.is_idle();
        if can {
            self.aborted = true;
            self.fixed[2 * HEADER_LEN] = why as u8;
        }
        can
    }

    /// The parts that are still to be sent.
    pub fn parts(&self) -> impl Iterator<Item = TxPart> + use<> {
        let (open, h) = (self.open, HEADER_LEN as u8);
        let payload = |offset: u32| match self.aborted {
            true => TxPart::Filler {
                left: self.payload - offset,
            },
            false => TxPart::Payload { offset },
        };
        let mut at = 0u64;
        let mut left = |len: u64| {
            let done = self.sent.saturating_sub(at).min(len);
            at += len;
            (done < len).then_some(done)
        };
        [
            left(open.into()).map(|d| TxPart::Bytes {
                start: d as u8,
                end: open,
            }),
            left(self.body.into()).map(|d| TxPart::Body { offset: d as u32 }),
            left(self.head.into()).map(|d| TxPart::Bytes {
                start: h + d as u8,
                end: 2 * h,
            }),
            left(self.payload.into()).map(|d| payload(d as u32)),
            left(self.trailer.into()).map(|_| TxPart::Bytes {
                start: 2 * h,
                end: 2 * h + 1,
            }),
        ]
        .into_iter()
        .flatten()
    }

    /// The bytes of a [`TxPart::Bytes`].
    pub fn bytes(&self, start: u8, end: u8) -> &[u8] {
        &self.fixed[usize::from(start)..usize::from(end)]
    }

    /// `n` more bytes were sent.
    pub fn advance(&mut self, n: usize) {
        self.sent = (self.sent + n as u64).min(self.total());
    }

    fn total(&self) -> u64 {
        u64::from(self.open)
            + u64::from(self.body)
            + u64::from(self.head)
            + u64::from(self.payload)
            + u64::from(self.trailer)
    }

    fn clear(&mut self) {
        (
            self.open,
            self.body,
            self.head,
            self.payload,
            self.trailer,
            self.sent,
        ) = (0, 0, 0, 0, 0, 0);
        self.aborted = false;
    }
}
