//! The control stream: messages of the layer above, results, cancels, heartbeat. Nothing here waits behind payload.

use alloc::{boxed::Box, vec, vec::Vec};

use crate::{
    HEADER_LEN, MAX_MESSAGE, ProtocolError, Settings, Status, Xfer,
    frame::{Header, ty},
};

const AHEAD: usize = 4096;
const BODY_STEP: usize = 256 << 10;
const SETTINGS_LEN: u32 = 8;
/// A body buffer above this is given back after use.
const KEEP: usize = 1 << 20;

/// Appends the settings, the first frame of a control stream.
pub fn put_settings(out: &mut Vec<u8>, s: Settings) {
    put(
        out,
        Header {
            ty: ty::SETTINGS,
            len: SETTINGS_LEN,
            ..Header::ZERO
        },
    );
    out.extend_from_slice(&s.slots.to_le_bytes());
    out.extend_from_slice(&s.streams.to_le_bytes());
    out.extend_from_slice(&s.list_bytes.to_le_bytes());
}

/// Appends a message of the layer above.
///
/// # Errors
/// `Oversize` if it is longer than [`MAX_MESSAGE`].
pub fn put_message(out: &mut Vec<u8>, body: &[u8]) -> Result<(), ProtocolError> {
    let len = u32::try_from(body.len()).ok().filter(|n| *n <= MAX_MESSAGE);
    let len = len.ok_or(ProtocolError::Oversize("message"))?;
    put(
        out,
        Header {
            ty: ty::MESSAGE,
            len,
            ..Header::ZERO
        },
    );
    out.extend_from_slice(body);
    Ok(())
}

/// Appends the end of a request, said by its target: exactly once, except for a READ whose chunks were all sent.
pub fn put_ack(out: &mut Vec<u8>, xfer: Xfer, status: Status) {
    put(
        out,
        Header {
            ty: ty::ACK,
            status: status as u8,
            xfer,
            ..Header::ZERO
        },
    );
}

/// Appends the initiator's wish to end a request early; the target answers with an ack unless it sent one already.
pub fn put_cancel(out: &mut Vec<u8>, xfer: Xfer) {
    put(
        out,
        Header {
            ty: ty::CANCEL,
            xfer,
            ..Header::ZERO
        },
    );
}

/// Appends a heartbeat: bytes that the peer's host has to acknowledge, so that TCP notices when it is gone.
pub fn put_ping(out: &mut Vec<u8>) {
    put(
        out,
        Header {
            ty: ty::PING,
            ..Header::ZERO
        },
    );
}

fn put(out: &mut Vec<u8>, header: Header) {
    out.extend_from_slice(&header.encode());
}

/// What arrived, or where the next bytes go.
#[derive(Debug, PartialEq, Eq)]
pub enum ControlStep<'a> {
    /// Receive into this buffer, then call [`ControlRx::received`].
    Fill(&'a mut [u8]),
    /// The peer's settings; always first and only once.
    Settings(Settings),
    /// A message of the layer above.
    Message(&'a [u8]),
    /// The end of a request that this side initiated.
    Ack {
        /// The request.
        xfer: Xfer,
        /// How it ended.
        status: Status,
    },
    /// The peer gives up a request that it initiated.
    Cancel(Xfer),
    /// Heartbeat; wants no answer.
    Ping,
}

/// Receiving half of the control stream.
#[derive(Debug)]
pub struct ControlRx {
    buf: Box<[u8]>,
    start: usize,
    end: usize,
    /// Length and received bytes of the message in progress.
    body_len: Option<usize>,
    have: usize,
    body: Vec<u8>,
    settled: bool,
}

impl Default for ControlRx {
    fn default() -> Self {
        Self::new()
    }
}

impl ControlRx {
    /// A stream whose handshake is over.
    pub fn new() -> Self {
        Self {
            buf: vec![0; AHEAD].into_boxed_slice(),
            start: 0,
            end: 0,
            body_len: None,
            have: 0,
            body: Vec::new(),
            settled: false,
        }
    }

    /// What arrived next, or where the next bytes go.
    ///
    /// # Errors
    /// The peer sent something malformed.
    pub fn step(&mut self) -> Result<ControlStep<'_>, ProtocolError> {
        if let Some(len) = self.body_len {
            return Ok(self.message(len));
        }
        if self.body.capacity() > KEEP {
            self.body = Vec::new();
        }
        let Some(bytes) = self.buf[self.start..self.end].first_chunk::<HEADER_LEN>() else {
            return Ok(ControlStep::Fill(self.room()));
        };
        let h = Header::decode(bytes);
        if h.ty == ty::SETTINGS && self.end - self.start < HEADER_LEN + SETTINGS_LEN as usize {
            return Ok(ControlStep::Fill(self.room()));
        }
        self.start += HEADER_LEN;
        if self.settled == (h.ty == ty::SETTINGS) {
            return Err(ProtocolError::BadType(h.ty));
        }
        let len = match h.ty {
            ty::SETTINGS => SETTINGS_LEN,
            ty::MESSAGE => h.len.min(MAX_MESSAGE),
            _ => 0,
        };
        if h.len != len {
            return Err(ProtocolError::Oversize("control frame"));
        }
        match h.ty {
            ty::SETTINGS => self.settings(),
            ty::MESSAGE => {
                (self.body_len, self.have) = (Some(len as usize), 0);
                self.body.clear();
                Ok(self.message(len as usize))
            }
            ty::ACK => Ok(ControlStep::Ack {
                xfer: h.xfer,
                status: Status::from_wire(h.status)?,
            }),
            ty::CANCEL => Ok(ControlStep::Cancel(h.xfer)),
            ty::PING => Ok(ControlStep::Ping),
            other => Err(ProtocolError::BadType(other)),
        }
    }

    /// `n` bytes were received into the buffer of the last [`ControlStep::Fill`].
    ///
    /// # Errors
    /// `n` is more than the buffer's length: a fault of the driver.
    pub fn received(&mut self, n: usize) -> Result<(), ProtocolError> {
        let (at, limit) = match self.body_len {
            Some(_) => (&mut self.have, self.body.len()),
            None => (&mut self.end, self.buf.len()),
        };
        *at = at
            .checked_add(n)
            .filter(|e| *e <= limit)
            .ok_or(ProtocolError::Oversize("received"))?;
        Ok(())
    }

    fn message(&mut self, len: usize) -> ControlStep<'_> {
        let n = (len - self.have).min(self.end - self.start);
        if n > 0 {
            self.body.truncate(self.have);
            self.body
                .extend_from_slice(&self.buf[self.start..self.start + n]);
            self.start += n;
            self.have += n;
        }
        if self.have == len {
            self.body_len = None;
            self.body.truncate(len);
            return ControlStep::Message(&self.body);
        }
        self.body.resize(len.min(self.have + BODY_STEP), 0);
        ControlStep::Fill(&mut self.body[self.have..])
    }

    fn settings(&mut self) -> Result<ControlStep<'_>, ProtocolError> {
        let b = &self.buf[self.start..self.start + SETTINGS_LEN as usize];
        let s = Settings {
            slots: u16::from_le_bytes([b[0], b[1]]),
            streams: u16::from_le_bytes([b[2], b[3]]),
            list_bytes: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        };
        self.start += SETTINGS_LEN as usize;
        self.settled = true;
        Ok(ControlStep::Settings(s.check()?))
    }

    fn room(&mut self) -> &mut [u8] {
        self.buf.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        &mut self.buf[self.end..]
    }
}
