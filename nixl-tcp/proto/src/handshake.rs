//! Frames before a stream is authenticated. Their bodies are opaque: the caller's authentication makes and checks them.

use alloc::vec::Vec;

use crate::{MAX_GREETING, ProtocolError, WIRE_VERSION};

const MAGIC: [u8; 3] = *b"NXT";
const HEAD: usize = 8;

/// Which step of the handshake a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GreetingKind {
    /// First frame of a control stream, from the side that connected.
    Hello = 1,
    /// Answer to `Hello`.
    HelloReply = 2,
    /// Last word of the side that connected.
    Finish = 3,
    /// Only frame of the side that connected a data stream.
    Join = 4,
    /// Answer to `Finish` and `Join`: the stream is part of the connection.
    Welcome = 5,
    /// Refusal; the body is text for people.
    Reject = 6,
}

impl GreetingKind {
    fn from_wire(v: u8) -> Result<Self, ProtocolError> {
        Ok(match v {
            1 => Self::Hello,
            2 => Self::HelloReply,
            3 => Self::Finish,
            4 => Self::Join,
            5 => Self::Welcome,
            6 => Self::Reject,
            other => return Err(ProtocolError::BadType(other)),
        })
    }
}

/// One received handshake frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting<'a> {
    /// Step of the handshake.
    pub kind: GreetingKind,
    /// Opaque body, at most [`MAX_GREETING`] bytes.
    pub body: &'a [u8],
}

/// Appends a handshake frame to `out`.
///
/// # Errors
/// `Oversize` if `body` is longer than [`MAX_GREETING`] bytes.
pub fn put_greeting(
    out: &mut Vec<u8>,
    kind: GreetingKind,
    body: &[u8],
) -> Result<(), ProtocolError> {
    let len = u16::try_from(body.len())
        .ok()
        .filter(|n| *n <= MAX_GREETING);
    let len = len.ok_or(ProtocolError::Oversize("greeting"))?;
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[WIRE_VERSION, kind as u8, 0]);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(body);
    Ok(())
}

/// Receives handshake frames, one at a time, never reading beyond the end of one.
#[derive(Debug, Default)]
pub struct GreetingRx {
    buf: Vec<u8>,
    at: usize,
}

impl GreetingRx {
    /// A receiver at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the next bytes of the stream go; empty when a frame is complete. Then call [`received`](Self::received).
    ///
    /// # Errors
    /// The frame's header is malformed.
    pub fn space(&mut self) -> Result<&mut [u8], ProtocolError> {
        let want = if self.at < HEAD {
            HEAD
        } else {
            HEAD + usize::from(self.check()?.1)
        };
        self.buf.resize(want, 0);
        Ok(&mut self.buf[self.at..])
    }

    /// `n` bytes were written to the start of the last [`space`](Self::space).
    pub fn received(&mut self, n: usize) {
        self.at = (self.at + n).min(self.buf.len());
    }

    /// The frame, once it is complete.
    ///
    /// # Errors
    /// The frame's header is malformed.
    pub fn greeting(&self) -> Result<Option<Greeting<'_>>, ProtocolError> {
        if self.at < HEAD {
            return Ok(None);
        }
        let (kind, len) = self.check()?;
        let end = HEAD + usize::from(len);
        Ok((self.at == end).then(|| Greeting {
            kind,
            body: &self.buf[HEAD..end],
        }))
    }

    /// Forgets the frame and waits for the next.
    pub fn clear(&mut self) {
        self.at = 0;
    }

    fn check(&self) -> Result<(GreetingKind, u16), ProtocolError> {
        let head = &self.buf[..HEAD];
        if head[..3] != MAGIC {
            return Err(ProtocolError::BadMagic);
        }
        if head[3] != WIRE_VERSION {
            return Err(ProtocolError::BadVersion(head[3]));
        }
        if head[5] != 0 {
            return Err(ProtocolError::BadField("reserved"));
        }
        let len = u16::from_le_bytes([head[6], head[7]]);
        if len > MAX_GREETING {
            return Err(ProtocolError::Oversize("greeting"));
        }
        Ok((GreetingKind::from_wire(head[4])?, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_arrives_whole_at_every_split() {
        let mut wire = Vec::new();
        put_greeting(&mut wire, GreetingKind::Hello, b"first").unwrap();
        put_greeting(&mut wire, GreetingKind::Finish, b"").unwrap();
        for step in 1..wire.len() {
            let (mut rx, mut at, mut seen) = (GreetingRx::new(), 0, Vec::new());
            while at < wire.len() {
                let space = rx.space().unwrap();
                let n = space.len().min(step).min(wire.len() - at);
                space[..n].copy_from_slice(&wire[at..at + n]);
                rx.received(n);
                at += n;
                if let Some(g) = rx.greeting().unwrap() {
                    seen.push((g.kind, g.body.to_vec()));
                    rx.clear();
                }
            }
            assert_eq!(
                seen,
                [
                    (GreetingKind::Hello, b"first".to_vec()),
                    (GreetingKind::Finish, Vec::new())
                ]
            );
        }
    }

    #[test]
    fn bad_heads_are_named() {
        let feed = |bytes: &[u8]| {
            let mut rx = GreetingRx::new();
            rx.space().unwrap().copy_from_slice(bytes);
            rx.received(8);
            rx.space().map(|_| ())
        };
        assert_eq!(feed(b"GET / HT"), Err(ProtocolError::BadMagic));
        assert_eq!(
            feed(b"NXT\x09\x01\0\0\0"),
            Err(ProtocolError::BadVersion(9))
        );
        assert_eq!(
            feed(b"NXT\x01\x63\0\0\0"),
            Err(ProtocolError::BadType(0x63))
        );
        assert_eq!(
            feed(b"NXT\x01\x01\x01\0\0"),
            Err(ProtocolError::BadField("reserved"))
        );
        assert_eq!(
            feed(b"NXT\x01\x01\0\xff\xff"),
            Err(ProtocolError::Oversize("greeting"))
        );
        assert_eq!(
            put_greeting(&mut Vec::new(), GreetingKind::Hello, &[0; 1025]),
            Err(ProtocolError::Oversize("greeting"))
        );
    }
}
