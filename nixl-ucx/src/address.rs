//! What a card says about a UCX backend: its UCX version and its worker addresses.

use bytes::Bytes;
use nixl_core::{ErrorKind, Result, error::fail, metadata::tlv::Reader};

use ucx_sys::Version;

use crate::shape;

const MAGIC: [u8; 4] = *b"UCX1";
/// Workers of one agent.
pub const MAX_WORKERS: usize = 64;

/// A backend's address in its agent's card.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Address {
    pub(crate) version: Version,
    /// At least one.
    pub(crate) workers: Vec<Bytes>,
}

impl Address {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = MAGIC.to_vec();
        let Version {
            major,
            minor,
            release,
        } = self.version;
        for number in [major, minor, release, self.workers.len() as u32] {
            out.extend((number as u16).to_le_bytes());
        }
        for worker in &self.workers {
            out.extend((worker.len() as u32).to_le_bytes());
            out.extend_from_slice(worker);
        }
        out.into()
    }

    /// Reads a card's bytes, and has every worker address in it checked for shape.
    ///
    /// Errors: `Malformed`, naming what is wrong.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        if r.array("magic")? != MAGIC {
            return Err(malformed("does not begin as one"));
        }
        let version = Version {
            major: r.u16("version")?.into(),
            minor: r.u16("version")?.into(),
            release: r.u16("version")?.into(),
        };
        let count = usize::from(r.u16("workers")?);
        if count == 0 || count > MAX_WORKERS {
            return Err(malformed("names no worker, or too many"));
        }
        let mut workers = Vec::with_capacity(count);
        for _ in 0..count {
            let len = r.u32("worker")?;
            let worker = r.bytes(len.into(), "worker")?;
            shape::check_worker_address(worker)?;
            workers.push(Bytes::copy_from_slice(worker));
        }
        r.end("address")?;
        Ok(Self { version, workers })
    }
}

fn malformed(what: &str) -> nixl_core::Error {
    fail(
        ErrorKind::Malformed,
        format!("the address of the peer's UCX backend {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> Bytes {
        let mut out = vec![0x20];
        out.extend([9; 8]);
        out.push(0xff);
        out.into()
    }

    #[test]
    fn what_is_encoded_decodes() {
        let address = Address {
            version: Version {
                major: 1,
                minor: 22,
                release: 0,
            },
            workers: vec![worker(), worker()],
        };
        let bytes = address.encode();
        assert_eq!(Address::decode(&bytes).unwrap(), address);
        for n in 0..bytes.len() {
            assert!(Address::decode(&bytes[..n]).is_err(), "{n} bytes");
        }
        assert_eq!(address.version.to_string(), "1.22.0");
    }

    #[test]
    fn garbage_is_refused() {
        let none = [&MAGIC[..], &[1, 0, 22, 0, 0, 0, 0, 0]].concat();
        let bad: [&[u8]; 5] = [b"", &[0xff; 200], &[0; 64], &[b'a'; 5000], &none];
        for bytes in bad {
            let e = Address::decode(bytes).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Malformed);
        }
    }
}
