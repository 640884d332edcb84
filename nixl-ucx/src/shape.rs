//! Whether worker addresses and packed remote keys have UCX's shape.
//!
//! libucp walks both without knowing their length, and asserts on what it does not like. So nothing
//! that came from a peer reaches it before it was walked here, to its very end and no further. The
//! layouts are those of UCX 1.13 to 1.23 (`ucp/wireup/address.c`, `ucp/core/ucp_rkey.c`).

use nixl_core::{ErrorKind, Result, error::fail, metadata::tlv::Reader};

/// Longest worker address taken: a host with some dozens of devices needs a few KiB.
const MAX_ADDRESS: usize = 64 << 10;
/// Longest packed remote key taken.
const MAX_KEY: usize = 8 << 10;
/// UCX stops at this many transports (UCP_MAX_RESOURCES).
const MAX_TRANSPORTS: usize = 128;
/// Endpoint addresses of one transport (UCP_MAX_LANES).
const MAX_LANES: usize = 64;

/// Last of a list: devices, transports, endpoint addresses.
const LAST: u8 = 0x80;
/// On a device: it has no transports.
const EMPTY: u8 = 0x80;
/// On a device: the number of paths follows.
const PATHS: u8 = 0x40;
/// On a device: the system device follows.
const SYS_DEVICE: u8 = 0x20;
/// On a transport: endpoint addresses follow.
const HAS_EP: u8 = 0x40;
/// In place of a device: there is none.
const NO_DEVICE: u8 = 0xff;

mod header {
    pub(super) const DEBUG_INFO: u8 = 1;
    pub(super) const WORKER_UUID: u8 = 2;
    pub(super) const CLIENT_ID: u8 = 4;
}

/// Errors with `Malformed` unless `address` has the shape of a worker address.
pub fn check_worker_address(address: &[u8]) -> Result<()> {
    if address.len() > MAX_ADDRESS {
        return Err(malformed(format!("{} bytes long", address.len())));
    }
    let mut reader = Reader::new(address);
    walk_address(&mut reader)?;
    reader.end("end")
}

fn walk_address(r: &mut Reader<'_>) -> Result<()> {
    let first = r.u8("header")?;
    let (extended, flags) = match first & 0x0f {
        0 => (false, first >> 4),
        1 => (true, r.u8("flags")?),
        version => return Err(malformed(format!("of unknown version {version}"))),
    };
    if !extended || flags & header::WORKER_UUID != 0 {
        r.u64("uuid")?;
    }
    if flags & header::CLIENT_ID != 0 {
        r.u64("client")?;
    }
    if flags & header::DEBUG_INFO != 0 {
        let len = r.u8("name")?;
        r.bytes(len.into(), "name")?;
    }
    let mut transports = 0;
    loop {
        if r.remaining() == 1 && r.clone().u8("device")? == NO_DEVICE {
            r.u8("device")?;
            return Ok(());
        }
        if device(r, extended, &mut transports)? {
            return Ok(());
        }
    }
}

/// One device with its transports; true if it was the last one.
fn device(r: &mut Reader<'_>, extended: bool, transports: &mut usize) -> Result<bool> {
    let domain = r.u8("domain")?;
    if extended && domain & 0x7f == 0x7f {
        r.u8("domain")?;
    }
    let flags = r.u8("device")?;
    let len = length(r, flags, 0x1f, extended)?;
    if flags & PATHS != 0 {
        r.u8("paths")?;
    }
    if flags & SYS_DEVICE != 0 {
        r.u8("system device")?;
    }
    r.bytes(len, "device address")?;
    let mut last = domain & EMPTY != 0;
    while !last {
        *transports += 1;
        if *transports > MAX_TRANSPORTS {
            return Err(malformed("of too many transports".to_owned()));
        }
        last = transport(r, extended)?;
    }
    Ok(flags & LAST != 0)
}

/// One transport; true if it was the device's last one.
fn transport(r: &mut Reader<'_>, extended: bool) -> Result<bool> {
    r.u16("transport")?;
    r.bytes(if extended { 8 } else { 16 }, "attributes")?;
    let flags = r.u8("transport address")?;
    let len = length(r, flags, 0x3f, extended)?;
    r.bytes(len, "transport address")?;
    let mut more = flags & HAS_EP != 0;
    let mut lanes = 0;
    while more {
        lanes += 1;
        if lanes > MAX_LANES {
            return Err(malformed("of too many lanes".to_owned()));
        }
        let len = r.u8("endpoint address")?;
        r.bytes(len.into(), "endpoint address")?;
        more = r.u8("lane")? & LAST == 0;
    }
    Ok(flags & LAST != 0)
}

/// The length in the low bits of `first`, or in the next byte where those are all set.
fn length(r: &mut Reader<'_>, first: u8, mask: u8, extended: bool) -> Result<u64> {
    match first & mask {
        full if extended && full == mask => Ok(r.u8("length")?.into()),
        len => Ok(len.into()),
    }
}

/// Errors with `Malformed` unless `key` has the shape of a packed remote key.
pub fn check_key(key: &[u8]) -> Result<()> {
    if key.len() > MAX_KEY {
        return Err(malformed(format!("{} bytes long", key.len())));
    }
    let mut r = Reader::new(key);
    let domains = r.u64("domains")?;
    let kind = r.u8("memory type")?;
    if kind > 0x0f {
        return Err(malformed(format!("for unknown memory type {kind}")));
    }
    for _ in 0..domains.count_ones() {
        let len = r.u8("key")?;
        r.bytes(len.into(), "key")?;
    }
    // The system device and distances from it, as long as they like: UCX bounds them itself.
    Ok(())
}

fn malformed(what: String) -> nixl_core::Error {
    fail(
        ErrorKind::Malformed,
        format!("a worker address or remote key of UCX {what}"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Header, uuid, one device of 4 address bytes with one transport of 3.
    fn simple() -> Vec<u8> {
        let mut out = vec![0x20];
        out.extend([9; 8]);
        out.extend([0x01, LAST | 4, 1, 2, 3, 4]);
        out.extend([0xab, 0xcd]);
        out.extend([7; 16]);
        out.extend([LAST | 3, 5, 5, 5]);
        out
    }

    #[test]
    fn whole_addresses_pass_and_parts_do_not() {
        let address = simple();
        check_worker_address(&address).unwrap();
        for n in 0..address.len() {
            assert!(check_worker_address(&address[..n]).is_err(), "{n} bytes");
        }
        assert!(check_worker_address(&[&address[..], &[0]].concat()).is_err());
    }

    #[test]
    fn what_made_ucx_abort_is_refused() {
        for bad in [&[0xff; 200][..], b"", &[0; 64], &[b'a'; 5000], &[0x41; 3]] {
            assert!(check_worker_address(bad).is_err(), "{:02x?}", bad.first());
        }
        assert!(check_key(b"").is_err());
        assert!(check_key(&[0xff; 12]).is_err());
    }

    #[test]
    fn a_key_of_nixl_passes() {
        // Host memory, no InfiniBand: one domain with a key of no bytes, system device unknown.
        let key = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff];
        check_key(&key).unwrap();
        for n in 0..10 {
            assert!(check_key(&key[..n]).is_err());
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = check_worker_address(&bytes);
            let _ = check_key(&bytes);
        }
    }
}
