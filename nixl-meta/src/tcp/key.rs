//! The key that the agents of one deployment share.

use std::{fmt, fs::File, io::Read, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use hmac::{Hmac, KeyInit, Mac};
use nixl_core::{Error, ErrorKind, Result};
use sha2::Sha256;

pub(super) const MAC_LEN: usize = 32;

const MIN_LEN: usize = 16;
const MAX_FILE: u64 = 4096;

/// The secret that both sides of a metadata connection must know. `Debug` does not show it.
#[derive(Clone)]
pub struct SharedKey(Arc<[u8]>);

impl SharedKey {
    /// A key of at least 16 bytes (`ApiMisuse` below); use 32 random ones.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < MIN_LEN {
            return Err(Error::new(
                ErrorKind::ApiMisuse,
                format!(
                    "the shared key has {} bytes; use at least {MIN_LEN} random ones",
                    bytes.len()
                ),
            ));
        }
        Ok(Self(bytes.into()))
    }

    /// The key in a file of at most 4 KiB, without trailing line ends. `NotAllowed` when others
    /// than its owner may read the file.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let os = |e| Error::os(format_args!("read the shared key {}", path.display()), e);
        let file = File::open(path).map_err(os)?;
        let mode = file.metadata().map_err(os)?.mode();
        if mode & 0o077 != 0 {
            return Err(Error::new(
                ErrorKind::NotAllowed,
                format!(
                    "the shared key {} has mode {:o}, so others can read it; chmod 600 it",
                    path.display(),
                    mode & 0o777
                ),
            ));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes).map_err(os)?;
        Self::new(bytes.trim_ascii_end())
    }

    pub(super) fn mac(&self, parts: &[&[u8]]) -> [u8; MAC_LEN] {
        hmac(&self.0, parts).finalize().into_bytes().into()
    }

    /// Compares in constant time.
    pub(super) fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        hmac(&self.0, parts).verify_slice(tag).is_ok()
    }

    /// The key of one connection.
    pub(super) fn derive(&self, parts: &[&[u8]]) -> Self {
        Self(self.mac(parts).as_slice().into())
    }
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac =
        <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedKey(redacted)")
    }
}
