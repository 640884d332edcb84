//! Where this process runs, from `/proc` and uname(2).

use std::{fs, os::unix::fs::MetadataExt};

use crate::HostId;

/// Facts about this process's host; what cannot be read stays zero and matches nobody.
pub(super) fn detect() -> HostId {
    let uname = rustix::system::uname();
    HostId {
        boot: boot_id().unwrap_or_default(),
        pid_ns: namespace("pid"),
        net_ns: namespace("net"),
        pid: rustix::process::getpid()
            .as_raw_nonzero()
            .get()
            .unsigned_abs(),
        uid: rustix::process::geteuid().as_raw(),
        name: uname.nodename().to_string_lossy().into_owned(),
    }
}

fn boot_id() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(id)
}

fn namespace(kind: &str) -> u64 {
    fs::metadata(format!("/proc/self/ns/{kind}")).map_or(0, |m| m.ino())
}

#[cfg(test)]
mod tests {
    #[test]
    fn facts_are_found() {
        let host = super::detect();
        assert_eq!(host.pid, std::process::id());
        assert!(host.boot != [0; 16] && host.pid_ns != 0 && host.net_ns != 0);
    }
}
