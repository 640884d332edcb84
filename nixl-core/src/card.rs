//! What one agent tells another about itself: identity, host, backends, paths.

use std::{fmt, ops::RangeInclusive};

use bytes::Bytes;

/// Kind of memory a descriptor names. Numbers equal NIXL's `nixl_mem_t`.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MemKind {
    /// Host memory.
    Dram = 0,
    /// GPU memory; the descriptor's `dev` is the device.
    Vram = 1,
    /// Block storage.
    Block = 2,
    /// Object storage.
    Object = 3,
    /// File storage.
    File = 4,
}

impl MemKind {
    /// The kind with NIXL's number `n`, or `None` for an unknown number.
    pub fn from_number(n: u32) -> Option<Self> {
        [
            Self::Dram,
            Self::Vram,
            Self::Block,
            Self::Object,
            Self::File,
        ]
        .get(usize::try_from(n).ok()?)
        .copied()
    }
}

/// Direction of a transfer, seen by the initiator. Numbers equal NIXL's `nixl_xfer_op_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Op {
    /// Peer's memory into ours.
    Read = 0,
    /// Our memory into the peer's.
    Write = 1,
}

impl Op {
    /// `"read"` or `"write"`, for labels and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Name of a backend (`"ipc"`, `"tcp"`, `"ucx"`): a connection manager with one or more paths.
pub type BackendName = &'static str;

/// Name of a path (`"local"`, `"shm"`, `"cma"`, `"tcp"`): one way to move bytes.
pub type PathName = &'static str;

/// How far a path reaches. Ordered: a farther reach includes the nearer ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reach {
    /// Agents of one process.
    Process = 0,
    /// Processes under one kernel.
    Host = 1,
    /// One RDMA fabric.
    Fabric = 2,
    /// Anything that IP reaches.
    Routed = 3,
}

/// Class of a path, best first; a policy can demand a minimum (design §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PathClass {
    /// Memory copies inside one process.
    SameProcess = 0,
    /// GPU to GPU through IPC handles.
    DeviceIpc = 1,
    /// Host memory shared between processes.
    SharedMemory = 2,
    /// Kernel-assisted copies between processes.
    CrossMemory = 3,
    /// RDMA straight to the registered memory.
    Rdma = 4,
    /// RDMA through pinned host buffers.
    RdmaStaged = 5,
    /// Sockets.
    Tcp = 6,
}

/// Whether withdrawing memory stops a peer's access at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// After deregistering nothing can touch the memory, whatever the peer does.
    Fenced,
    /// The peer has to let go first; core asks it and waits.
    Cooperative,
}

/// What a path can do, as plain data: compared, printed, sent to peers (style §7).
#[derive(Clone, Debug, PartialEq)]
pub struct PathCaps {
    /// The path's name.
    pub path: PathName,
    /// The backend that owns it.
    pub backend: BackendName,
    /// Its class, for policies.
    pub class: PathClass,
    /// Wire versions spoken.
    pub wire: RangeInclusive<u16>,
    /// How far it reaches.
    pub reach: Reach,
    /// Supported (operation, local kind, remote kind).
    pub mem: &'static [(Op, MemKind, MemKind)],
    /// Needs every remote region to be shareable (agent-allocated, memfd-backed).
    pub needs_shareable: bool,
    /// The target's threads must run for bytes to move.
    pub target_must_progress: bool,
    /// How memory is withdrawn.
    pub revocation: Revocation,
    /// What using it may break. With our own peers such a path is used only if the policy names it;
    /// with NIXL's there may be no other.
    pub hazard: Option<&'static str>,
    /// Advertised cost; measurements replace it.
    pub cost: Cost,
}

/// Linear cost of one request: `latency + per_desc · n + bytes / bytes_per_sec`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Fixed time of one request, in nanoseconds.
    pub latency_ns: u64,
    /// Time each merged descriptor adds, in nanoseconds.
    pub per_desc_ns: u64,
    /// Bandwidth in bytes per second.
    pub bytes_per_sec: u64,
}

impl Cost {
    /// Estimated nanoseconds for `descs` merged descriptors of `bytes` bytes in all.
    pub fn estimate_ns(&self, descs: u64, bytes: u64) -> u64 {
        let copy = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_sec.max(1));
        self.latency_ns
            .saturating_add(self.per_desc_ns.saturating_mul(descs))
            .saturating_add(u64::try_from(copy).unwrap_or(u64::MAX))
    }
}

/// One agent incarnation: a random number, new at every start (design §4, Peers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A secret of 32 bytes. Never printed, compared in constant time.
#[derive(Clone)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        subtle::ConstantTimeEq::ct_eq(&self.0[..], &other.0[..]).into()
    }
}

/// Random 128-bit key of a region; without it no byte of the region moves.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RegionKey(pub [u8; 16]);

impl fmt::Debug for RegionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegionKey(redacted)")
    }
}

/// Number of a region within its agent's generation; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionId(pub u64);

/// Where an agent runs: enough to rule same-host paths in or out, never proof that they work.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HostId {
    /// Kernel boot id (`/proc/sys/kernel/random/boot_id`).
    pub boot: [u8; 16],
    /// Inode of the PID namespace (`/proc/self/ns/pid`).
    pub pid_ns: u64,
    /// Inode of the network namespace.
    pub net_ns: u64,
    /// Process id in its own namespace.
    pub pid: u32,
    /// Effective uid.
    pub uid: u32,
    /// Host name, for people.
    pub name: String,
}

/// What a peer needs to know of one path of this agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathCard {
    /// Path name; peers that do not know it skip it.
    pub path: String,
    /// Lowest wire version spoken.
    pub wire_min: u16,
    /// Highest wire version spoken.
    pub wire_max: u16,
}

/// What a peer needs to reach one backend of this agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendCard {
    /// Backend name; peers that do not know it skip it.
    pub backend: String,
    /// The backend's own address bytes: listener addresses, socket file name.
    pub address: Bytes,
    /// Its paths.
    pub paths: Vec<PathCard>,
}

/// A small region every agent registers so that peers can prove a path (design §1, "prove").
#[derive(Clone, PartialEq, Eq)]
pub struct ProbeCard {
    /// The region probed.
    pub region: RegionId,
    /// The nonce that stands at the region's start.
    pub nonce: [u8; 32],
}

impl fmt::Debug for ProbeCard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeCard")
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// Everything an agent says about itself except its regions.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentCard {
    /// Agent name.
    pub name: String,
    /// This incarnation.
    pub generation: Generation,
    /// Proof of identity for connections (design §4, Who may connect).
    pub secret: Secret,
    /// Where it runs.
    pub host: HostId,
    /// Whether its own threads make progress (false: `Progress::Caller`).
    pub progresses: bool,
    /// Its backends.
    pub backends: Vec<BackendCard>,
    /// Regions that peers probe: one shareable, one not.
    pub probes: Vec<ProbeCard>,
    /// An agent of NIXL's: nothing proves who it is, host and secret are made up, and it speaks
    /// what [`Backend::nixl`](crate::backend::Backend::nixl) names and no word of ours.
    pub foreign: bool,
}

impl AgentCard {
    /// The card of backend `name`, if this agent has it.
    pub fn backend(&self, name: &str) -> Option<&BackendCard> {
        self.backends.iter().find(|b| b.backend == name)
    }
}

/// One registered region as its owner publishes it.
#[derive(Clone, PartialEq, Eq)]
pub struct RegionCard {
    /// The region's number.
    pub id: RegionId,
    /// Virtual address in the owner's process.
    pub addr: u64,
    /// Length in bytes.
    pub len: u64,
    /// Kind of memory.
    pub kind: MemKind,
    /// Device number, 0 for host memory.
    pub dev: u64,
    /// The key that peers present.
    pub key: RegionKey,
    /// Memory the agent allocated itself: peers on the host can map it.
    pub shareable: bool,
    /// Peers may write.
    pub writable: bool,
    /// What backends add (UCX's packed rkey): backend name and bytes.
    pub extras: Vec<(String, Bytes)>,
}

/// Without what the extras hold: UCX's packed keys open the memory.
impl fmt::Debug for RegionCard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extras: Vec<_> = self.extras.iter().map(|(b, x)| (b, x.len())).collect();
        f.debug_struct("RegionCard")
            .field("id", &self.id)
            .field("addr", &self.addr)
            .field("len", &self.len)
            .field("kind", &self.kind)
            .field("dev", &self.dev)
            .field("shareable", &self.shareable)
            .field("writable", &self.writable)
            .field("extra_bytes", &extras)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_opens_memory_is_printed() {
        let probe = ProbeCard {
            region: RegionId(1),
            nonce: [0xab; 32],
        };
        let region = RegionCard {
            id: RegionId(2),
            addr: 4096,
            len: 64,
            kind: MemKind::Dram,
            dev: 0,
            key: RegionKey([0xab; 16]),
            shareable: true,
            writable: true,
            extras: vec![("ucx".to_owned(), Bytes::from_static(&[0xab; 40]))],
        };
        let secret = Secret([0xab; 32]);
        for text in [
            format!("{probe:?}"),
            format!("{region:#?}"),
            format!("{secret:?}"),
        ] {
            let text = text.to_lowercase();
            for form in ["171", "ab, ab", "abab", "\\xab"] {
                assert!(!text.contains(form), "{text}");
            }
        }
        assert!(format!("{region:?}").contains("(\"ucx\", 40)"));
    }
}
