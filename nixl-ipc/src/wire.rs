//! What travels over the Unix socket: one frame a packet, little endian.

use nixl_core::{Error, ErrorKind, RegionKey, Result, error::fail};

use crate::fault::misbehaved;

/// Bytes in front of a message's part: type, and whether it is the last one.
pub(crate) const PART_HEAD: usize = 2;
/// Longest error text sent or taken.
const MAX_TEXT: usize = 512;

/// Numbers of the frames on the wire.
mod tag {
    pub(super) const HELLO: u8 = 1;
    pub(super) const REPLY: u8 = 2;
    pub(super) const FINISH: u8 = 3;
    pub(super) const INTRO: u8 = 4;
    pub(super) const REJECT: u8 = 5;
    pub(super) const IMPORT: u8 = 6;
    pub(super) const GRANT: u8 = 7;
    pub(super) const REFUSE: u8 = 8;
    pub(super) const PART: u8 = 9;
}

/// One frame.
#[derive(Debug, PartialEq)]
pub(crate) enum Frame<'a> {
    /// Handshake, client: see `nixl_core::auth`.
    Hello(&'a [u8]),
    /// Handshake, server.
    Reply(&'a [u8]),
    /// Handshake, client.
    Finish(&'a [u8]),
    /// Both sides, authenticated: where to find this side's proof in its memory.
    Intro(Intro),
    /// The server refuses the handshake, or either side closes and says why.
    Reject(Error),
    /// Asks for a region of the receiver.
    Import(Import),
    /// The answer; for a mapped region its descriptor comes with it.
    Grant {
        /// Number from the question.
        id: u64,
        /// We may write.
        writable: bool,
        /// Where the asked address lies in the file.
        offset: u64,
    },
    /// The other answer.
    Refuse {
        /// Number from the question.
        id: u64,
        /// Why.
        why: Error,
    },
    /// Part of a message.
    Part {
        /// The message ends here.
        last: bool,
        /// Its bytes.
        data: &'a [u8],
    },
}

/// Where one side's process is, for the other to prove that it can reach it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Intro {
    /// Its pid in its own namespace.
    pub(crate) pid: u32,
    /// Inode of its PID namespace.
    pub(crate) pid_ns: u64,
    /// Address of 32 bytes that both sides can derive from the session key.
    pub(crate) proof_at: u64,
}

/// Names a range of the owner's memory that the asker wants to use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Import {
    /// The asker's number for it.
    pub(crate) id: u64,
    /// Its descriptor is wanted, to map it.
    pub(crate) map: bool,
    /// The region.
    pub(crate) key: RegionKey,
    /// First address.
    pub(crate) addr: u64,
    /// Bytes.
    pub(crate) len: u64,
}

impl Frame<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            Frame::Hello(data) => with(&mut out, tag::HELLO, data),
            Frame::Reply(data) => with(&mut out, tag::REPLY, data),
            Frame::Finish(data) => with(&mut out, tag::FINISH, data),
            Frame::Intro(intro) => {
                out.push(tag::INTRO);
                out.extend(intro.pid.to_le_bytes());
                out.extend(intro.pid_ns.to_le_bytes());
                out.extend(intro.proof_at.to_le_bytes());
            }
            Frame::Reject(why) => {
                out.push(tag::REJECT);
                put_error(&mut out, why);
            }
            Frame::Import(i) => {
                out.push(tag::IMPORT);
                out.extend(i.id.to_le_bytes());
                out.push(u8::from(i.map));
                out.extend(i.key.0);
                out.extend(i.addr.to_le_bytes());
                out.extend(i.len.to_le_bytes());
            }
            Frame::Grant {
                id,
                writable,
                offset,
            } => {
                out.push(tag::GRANT);
                out.extend(id.to_le_bytes());
                out.push(u8::from(*writable));
                out.extend(offset.to_le_bytes());
            }
            Frame::Refuse { id, why } => {
                out.push(tag::REFUSE);
                out.extend(id.to_le_bytes());
                put_error(&mut out, why);
            }
            Frame::Part { last, data } => {
                out.extend(part_head(*last));
                out.extend(*data);
            }
        }
        out
    }
}

impl<'a> Frame<'a> {
    /// Reads one packet. Errors: `PeerMisbehaved`, naming what is wrong.
    pub(crate) fn decode(packet: &'a [u8]) -> Result<Self> {
        let mut r = Reader(packet);
        let tag = r.u8()?;
        let frame = match tag {
            tag::HELLO => return Ok(Frame::Hello(r.0)),
            tag::REPLY => return Ok(Frame::Reply(r.0)),
            tag::FINISH => return Ok(Frame::Finish(r.0)),
            tag::PART => {
                let last = r.flag()?;
                return Ok(Frame::Part { last, data: r.0 });
            }
            tag::INTRO => Frame::Intro(Intro {
                pid: u32::from_le_bytes(r.array()?),
                pid_ns: r.u64()?,
                proof_at: r.u64()?,
            }),
            tag::REJECT => return Ok(Frame::Reject(r.error()?)),
            tag::IMPORT => Frame::Import(Import {
                id: r.u64()?,
                map: r.flag()?,
                key: RegionKey(r.array()?),
                addr: r.u64()?,
                len: r.u64()?,
            }),
            tag::GRANT => Frame::Grant {
                id: r.u64()?,
                writable: r.flag()?,
                offset: r.u64()?,
            },
            tag::REFUSE => {
                let (id, why) = (r.u64()?, r.error()?);
                return Ok(Frame::Refuse { id, why });
            }
            other => return Err(malformed(format!("unknown type {other}"))),
        };
        if r.0.is_empty() {
            Ok(frame)
        } else {
            Err(malformed(format!("{} bytes left over", r.0.len())))
        }
    }
}

/// The head of a message's part; the bytes follow.
pub(crate) fn part_head(last: bool) -> [u8; PART_HEAD] {
    [tag::PART, u8::from(last)]
}

fn with(out: &mut Vec<u8>, tag: u8, data: &[u8]) {
    out.push(tag);
    out.extend(data);
}

/// Kinds that cross the wire, by number.
const KINDS: [ErrorKind; 7] = [
    ErrorKind::Backend,
    ErrorKind::NotRegistered,
    ErrorKind::NotAllowed,
    ErrorKind::Exhausted,
    ErrorKind::Unsupported,
    ErrorKind::Unauthenticated,
    ErrorKind::PeerMisbehaved,
];

fn put_error(out: &mut Vec<u8>, why: &Error) {
    let kind = KINDS.iter().position(|k| *k == why.kind()).unwrap_or(0);
    out.push(kind as u8);
    let text = why.message();
    let end = text.floor_char_boundary(text.len().min(MAX_TEXT));
    out.extend(&text.as_bytes()[..end]);
}

fn malformed(what: String) -> Error {
    misbehaved(format!("a malformed frame on the Unix socket: {what}"))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self
            .0
            .split_first_chunk::<N>()
            .ok_or_else(|| malformed("too short".to_owned()))?;
        self.0 = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn flag(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            n => Err(malformed(format!("a flag of {n}"))),
        }
    }

    /// The rest: kind and text.
    fn error(&mut self) -> Result<Error> {
        let kind = usize::from(self.u8()?);
        let kind = *KINDS
            .get(kind)
            .ok_or_else(|| malformed(format!("error kind {kind}")))?;
        if self.0.len() > MAX_TEXT {
            return Err(malformed("an error text is too long".to_owned()));
        }
        let text = String::from_utf8_lossy(self.0);
        Ok(fail(kind, format!("the peer says: {text}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Frame<'static>> {
        vec![
            Frame::Hello(b"hello"),
            Frame::Reply(b""),
            Frame::Finish(&[7; 64]),
            Frame::Intro(Intro {
                pid: 7,
                pid_ns: 8,
                proof_at: 9,
            }),
            Frame::Import(Import {
                id: 1,
                map: true,
                key: RegionKey([3; 16]),
                addr: u64::MAX,
                len: 5,
            }),
            Frame::Grant {
                id: 3,
                writable: true,
                offset: 4096,
            },
            Frame::Part {
                last: true,
                data: b"data",
            },
        ]
    }

    #[test]
    fn frames_survive_the_wire() {
        for frame in all() {
            let bytes = frame.encode();
            assert_eq!(Frame::decode(&bytes).unwrap(), frame);
        }
    }

    #[test]
    fn errors_keep_kind_and_text() {
        for kind in KINDS {
            let long = "é".repeat(1000);
            let bytes = Frame::Refuse {
                id: 1,
                why: fail(kind, long),
            }
            .encode();
            let Frame::Refuse { id: 1, why } = Frame::decode(&bytes).unwrap() else {
                panic!("another frame");
            };
            assert_eq!(why.kind(), kind);
            assert!(why.message().starts_with("the peer says: éé"));
            assert!(bytes.len() <= 10 + MAX_TEXT);
        }
    }

    #[test]
    fn every_truncation_and_every_changed_byte_is_an_error_or_another_frame() {
        for frame in all() {
            let bytes = frame.encode();
            let fixed = matches!(
                frame,
                Frame::Intro(_) | Frame::Import(_) | Frame::Grant { .. }
            );
            for n in 0..bytes.len() {
                let cut = Frame::decode(&bytes[..n]);
                assert!(!fixed || cut.is_err(), "{frame:?} cut at {n}");
            }
            for at in 0..bytes.len() {
                for value in 0..=255 {
                    let mut changed = bytes.clone();
                    changed[at] = value;
                    if let Ok(other) = Frame::decode(&changed) {
                        assert_eq!(other == frame, value == bytes[at]);
                    }
                }
            }
            let mut long = bytes.clone();
            long.push(0);
            assert!(!fixed || Frame::decode(&long).is_err());
        }
    }
}
