//! Receiving half of a data stream: says where the next bytes of the stream go.

use alloc::{boxed::Box, vec, vec::Vec};

use crate::{
    Chunk, HEADER_LEN, MAX_OPEN, ProtocolError, Status, Xfer,
    frame::{Header, ty},
};

/// Bytes read ahead where a header is due: short requests and answers arrive in one read.
const AHEAD: usize = 4096;
/// What follows a chunk's payload: its trailer and the next header, received together with it.
const TAIL: usize = 1 + HEADER_LEN;
/// A request's body is received in steps of at most this, so that memory grows only with bytes that did arrive.
const BODY_STEP: usize = 256 << 10;

/// What the driver has to do next.
#[derive(Debug)]
pub enum DataStep<'a> {
    /// Receive into this buffer, then call [`DataRx::received`].
    Fill(&'a mut [u8]),
    /// Copy these bytes, already received, to the next place of the chunk, then call [`DataRx::received`].
    Copy(&'a [u8]),
    /// Receive `left` bytes to the next places of the chunk and, in the same system call and only behind all of them,
    /// bytes into `tail`. Then call [`DataRx::received`] with the sum.
    Payload {
        /// Payload bytes that have not arrived.
        left: u32,
        /// Where the bytes behind the payload go.
        tail: &'a mut [u8],
    },
    /// Receive and forget at most so many bytes, then call [`DataRx::received`].
    Skip(u32),
    /// A request's open frame is complete; its body is [`DataRx::body`]. Shown once.
    Open {
        /// The request.
        xfer: Xfer,
    },
    /// A chunk begins. Call [`DataRx::accept`], [`DataRx::discard`], or neither and ask again once its request has
    /// arrived over another stream.
    Chunk(Chunk),
    /// A chunk is over. Its bytes count only if they were accepted and `status` is `Ok`. Shown once.
    Done {
        /// The chunk.
        chunk: Chunk,
        /// Whether it was accepted and not given up since.
        accepted: bool,
        /// `Ok`, or why the sender filled the rest of it with zeros.
        status: Status,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    Body {
        header: Header,
        have: u32,
    },
    Opened(Header),
    Deciding(Chunk),
    Payload {
        chunk: Chunk,
        left: u32,
        accepted: bool,
    },
    Trailer {
        chunk: Chunk,
        accepted: bool,
    },
    Done {
        chunk: Chunk,
        accepted: bool,
        status: Status,
    },
}

/// Receiving half of a data stream.
#[derive(Debug)]
pub struct DataRx {
    state: State,
    buf: Box<[u8]>,
    start: usize,
    end: usize,
    body: Vec<u8>,
    max_body: u32,
}

impl DataRx {
    /// A stream whose handshake is over; requests may be `max_body` bytes long.
    pub fn new(max_body: u32) -> Self {
        Self {
            state: State::Header,
            buf: vec![0; AHEAD].into_boxed_slice(),
            start: 0,
            end: 0,
            body: Vec::new(),
            max_body: max_body.min(MAX_OPEN),
        }
    }

    /// What to do next.
    ///
    /// # Errors
    /// The peer sent something malformed.
    pub fn step(&mut self) -> Result<DataStep<'_>, ProtocolError> {
        loop {
            match self.state {
                State::Header => {
                    if self.end - self.start < HEADER_LEN {
                        return Ok(DataStep::Fill(self.room()));
                    }
                    self.on_header()?;
                }
                State::Body { header, have } => {
                    let have = self.drain_to_body(header.len, have);
                    if have < header.len {
                        self.state = State::Body { header, have };
                        let want = (header.len as usize).min(have as usize + BODY_STEP);
                        self.body.resize(want, 0);
                        return Ok(DataStep::Fill(&mut self.body[have as usize..]));
                    }
                    self.state = State::Opened(header);
                }
                State::Opened(header) => {
                    self.state = State::Header;
                    return Ok(DataStep::Open { xfer: header.xfer });
                }
                State::Deciding(chunk) => return Ok(DataStep::Chunk(chunk)),
                State::Payload {
                    chunk,
                    left: 0,
                    accepted,
                } => self.state = State::Trailer { chunk, accepted },
                State::Payload {
                    left,
                    accepted: true,
                    ..
                } => return Ok(self.payload(left)),
                State::Payload {
                    chunk,
                    left,
                    accepted,
                } => {
                    let n = left.min((self.end - self.start) as u32);
                    if n == 0 {
                        return Ok(DataStep::Skip(left));
                    }
                    self.start += n as usize;
                    self.state = State::Payload {
                        chunk,
                        left: left - n,
                        accepted,
                    };
                }
                State::Trailer { chunk, accepted } => {
                    if self.start == self.end {
                        return Ok(DataStep::Fill(self.room()));
                    }
                    let status = Status::from_wire(self.buf[self.start])?;
                    self.start += 1;
                    self.state = State::Done {
                        chunk,
                        accepted,
                        status,
                    };
                }
                State::Done {
                    chunk,
                    accepted,
                    status,
                } => {
                    self.state = State::Header;
                    return Ok(DataStep::Done {
                        chunk,
                        accepted,
                        status,
                    });
                }
            }
        }
    }

    /// `n` bytes were received (or copied) as the last [`step`](Self::step) said.
    ///
    /// # Errors
    /// `n` is more than the step offered: a fault of the driver.
    pub fn received(&mut self, n: usize) -> Result<(), ProtocolError> {
        const TOO_MANY: ProtocolError = ProtocolError::Oversize("received");
        match &mut self.state {
            State::Header | State::Trailer { .. } => {
                self.end = take(self.end, n, self.buf.len()).ok_or(TOO_MANY)?
            }
            State::Body { have, .. } => {
                *have = take(*have as usize, n, self.body.len()).ok_or(TOO_MANY)? as u32
            }
            State::Payload { left, .. } => {
                let payload = n.min(*left as usize);
                *left -= payload as u32;
                if self.start < self.end {
                    self.start = take(self.start, n, self.end)
                        .filter(|_| payload == n)
                        .ok_or(TOO_MANY)?;
                } else {
                    let tail = n - payload;
                    if tail > TAIL {
                        return Err(TOO_MANY);
                    }
                    (self.start, self.end) = (0, tail);
                }
            }
            State::Opened(_) | State::Deciding(_) | State::Done { .. } if n == 0 => {}
            State::Opened(_) | State::Deciding(_) | State::Done { .. } => return Err(TOO_MANY),
        }
        Ok(())
    }

    /// Takes the payload of the chunk that the last step showed.
    pub fn accept(&mut self) {
        self.decide(true);
    }

    /// Drops the payload of the chunk that the last step showed, or what is still to come of an accepted one.
    pub fn discard(&mut self) {
        self.decide(false);
    }

    /// Body of the request that [`DataStep::Open`] showed; swap it for an empty buffer to keep it.
    pub fn body(&mut self) -> &mut Vec<u8> {
        &mut self.body
    }

    fn decide(&mut self, accepted: bool) {
        match self.state {
            State::Deciding(chunk) => {
                self.state = State::Payload {
                    chunk,
                    left: chunk.len,
                    accepted,
                }
            }
            State::Payload { chunk, left, .. } if !accepted => {
                self.state = State::Payload {
                    chunk,
                    left,
                    accepted,
                };
            }
            State::Trailer { chunk, .. } if !accepted => {
                self.state = State::Trailer { chunk, accepted }
            }
            _ => {}
        }
    }

    fn payload(&mut self, left: u32) -> DataStep<'_> {
        if self.start < self.end {
            let n = (self.end - self.start).min(left as usize);
            return DataStep::Copy(&self.buf[self.start..self.start + n]);
        }
        DataStep::Payload {
            left,
            tail: &mut self.buf[..TAIL],
        }
    }

    /// Free room behind what is buffered, which moves to the front.
    fn room(&mut self) -> &mut [u8] {
        self.buf.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        &mut self.buf[self.end..]
    }

    fn drain_to_body(&mut self, len: u32, have: u32) -> u32 {
        let n = ((len - have) as usize).min(self.end - self.start);
        if n > 0 {
            self.body.truncate(have as usize);
            self.body
                .extend_from_slice(&self.buf[self.start..self.start + n]);
            self.start += n;
        }
        have + n as u32
    }

    fn on_header(&mut self) -> Result<(), ProtocolError> {
        let Some(bytes) = self.buf[self.start..self.end].first_chunk::<HEADER_LEN>() else {
            return Ok(());
        };
        let header = Header::decode(bytes);
        self.start += HEADER_LEN;
        self.state = if header.ty == ty::OPEN {
            if header.len == 0 || header.len > self.max_body {
                return Err(ProtocolError::Oversize("open"));
            }
            if header.status != 0 || header.aux != 0 {
                return Err(ProtocolError::BadField("reserved"));
            }
            self.body.clear();
            State::Body { header, have: 0 }
        } else {
            State::Deciding(header.chunk()?)
        };
        Ok(())
    }
}

fn take(at: usize, n: usize, limit: usize) -> Option<usize> {
    at.checked_add(n).filter(|end| *end <= limit)
}
