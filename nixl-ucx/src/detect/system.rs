//! Kernel, distribution, GPU driver and limits.

use std::fmt;

use super::files::Root;

/// Modules that let an RDMA device pin GPU memory: NVIDIA's, its old name, EFA's.
const PEER_MODULES: [&str; 3] = ["nvidia_peermem", "nv_peer_mem", "efa_nv_peermem"];

/// `CAP_IPC_LOCK` (linux/capability.h): pins memory beyond the limit.
const CAP_IPC_LOCK: u32 = 14;

/// A kernel's version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// All of it, as `uname -r` prints it.
    pub release: String,
}

impl Kernel {
    /// Whether it is `major.minor` or newer.
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.release)
    }
}

/// A distribution, by os-release(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// `ID`: `ubuntu`.
    pub id: String,
    /// `VERSION_ID`: `24.04`; empty for a rolling one.
    pub version: String,
}

impl Distribution {
    /// Whether it is this release.
    pub fn is(&self, id: &str, version: &str) -> bool {
        self.id == id && self.version == version
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version.as_str() {
            "" => f.write_str(&self.id),
            version => write!(f, "{} {version}", self.id),
        }
    }
}

/// The NVIDIA kernel driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nvidia {
    /// First number of its version.
    pub major: u32,
    /// Its version.
    pub version: String,
    /// Whether it is the open flavour, the one that exports dma-bufs.
    pub open: bool,
}

impl fmt::Display for Nvidia {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flavour = if self.open { "open" } else { "proprietary" };
        write!(f, "NVIDIA driver {} ({flavour})", self.version)
    }
}

/// How much memory may be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memlock {
    /// No limit, or `CAP_IPC_LOCK` lifts it.
    Unlimited,
    /// `RLIMIT_MEMLOCK`, in bytes.
    Bytes(u64),
}

impl fmt::Display for Memlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("unlimited"),
            Self::Bytes(bytes) => write!(f, "{} KiB", bytes / 1024),
        }
    }
}

pub(super) fn kernel(root: &Root) -> Result<Kernel, String> {
    const FILE: &str = "/proc/sys/kernel/osrelease";
    let release = root.text(FILE)?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse().ok();
    match (number(), number()) {
        (Some(major), Some(minor)) => Ok(Kernel {
            major,
            minor,
            release,
        }),
        _ => Err(format!("{FILE} says {:?}", shortened(&release))),
    }
}

pub(super) fn distribution(root: &Root) -> Result<Distribution, String> {
    const FILE: &str = "/etc/os-release";
    let text = root
        .text(FILE)
        .or_else(|why| root.text("/usr/lib/os-release").map_err(|_| why))?;
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        let value = line.trim().trim_matches(['"', '\'']);
        Some(value.to_owned())
    };
    let id = value("ID=").filter(|id| !id.is_empty());
    Ok(Distribution {
        id: id.ok_or_else(|| format!("{FILE} has no ID"))?,
        version: value("VERSION_ID=").unwrap_or_default(),
    })
}

/// `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.54.03  Release Build ...`
pub(super) fn nvidia(root: &Root) -> Result<Nvidia, String> {
    const FILE: &str = "/proc/driver/nvidia/version";
    let text = root.text(FILE)?;
    let line = text.lines().next().unwrap_or_default();
    let is_version =
        |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    let version = line.split_whitespace().find(is_version);
    let major = version.and_then(|version| version.split('.').next()?.parse().ok());
    match (version, major) {
        (Some(version), Some(major)) => Ok(Nvidia {
            major,
            version: version.to_owned(),
            open: line.contains("Open Kernel Module"),
        }),
        _ => Err(format!("{FILE} says {:?}", shortened(line))),
    }
}

pub(super) fn peer_memory(root: &Root) -> Result<String, String> {
    let loaded = |module: &&str| root.exists(&format!("/sys/module/{module}"));
    if let Some(module) = PEER_MODULES.into_iter().find(loaded) {
        return Ok(module.to_owned());
    }
    let modules = root.text("/proc/modules")?;
    let names = modules.lines().filter_map(|l| l.split_whitespace().next());
    let mut found = names.filter(|name| PEER_MODULES.contains(name));
    match found.next() {
        Some(module) => Ok(module.to_owned()),
        None => Err("module nvidia_peermem is not loaded".to_owned()),
    }
}

pub(super) fn memlock(root: &Root) -> Result<Memlock, String> {
    const FILE: &str = "/proc/self/limits";
    let capable = root.text("/proc/self/status").is_ok_and(|status| {
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        effective
            .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
            .is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 == 1)
    });
    if capable {
        return Ok(Memlock::Unlimited);
    }
    let text = root.text(FILE)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"));
    let soft = line.and_then(|rest| rest.split_whitespace().next());
    match soft {
        Some("unlimited") => Ok(Memlock::Unlimited),
        Some(bytes) => bytes
            .parse()
            .map(Memlock::Bytes)
            .map_err(|_| format!("{FILE} says {:?}", shortened(bytes))),
        None => Err(format!("{FILE} has no locked memory")),
    }
}

/// What is quoted in a reason: a file may hold anything.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}
