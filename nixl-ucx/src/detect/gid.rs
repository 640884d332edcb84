//! The GID table of a RoCE port.
//!
//! Each entry has a RoCE version; only version 2 is routed. UCX takes one index for all devices
//! (`UCX_IB_GID_INDEX`).

use std::{fmt, net::Ipv6Addr};

use super::files::Root;

/// Highest index that is looked at. Soft-RoCE's table has 1024 entries, slow to read, nearly all
/// empty.
const MAX_INDEX: u32 = 128;

/// So many empty entries in a row end the table.
const MAX_GAP: u32 = 16;

/// An entry of a port's GID table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gid {
    /// Its index.
    pub index: u32,
    /// The address.
    pub address: Ipv6Addr,
    /// The RoCE version.
    pub kind: GidKind,
}

/// RoCE version of a GID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GidKind {
    /// Version 1, not routed (or InfiniBand's own).
    V1,
    /// Version 2, over UDP.
    V2,
}

impl Gid {
    /// How good it is for traffic between hosts, best first; `None`: not at all.
    fn rank(&self) -> Option<u8> {
        let local = self.address.is_unicast_link_local();
        match self.kind {
            GidKind::V1 => None,
            GidKind::V2 if self.address.to_ipv4_mapped().is_some() => Some(0),
            GidKind::V2 if !local => Some(1),
            GidKind::V2 => Some(2),
        }
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            GidKind::V1 => "RoCE v1",
            GidKind::V2 => "RoCE v2",
        };
        write!(f, "{}: {kind} {}", self.index, self.address)
    }
}

/// The best entry for RoCE version 2: IPv4-mapped, else global, else link-local; of equals the
/// lowest index.
pub(crate) fn best(gids: &[Gid]) -> Option<&Gid> {
    gids.iter()
        .filter_map(|gid| Some((gid.rank()?, gid.index, gid)))
        .min_by_key(|&(rank, index, _)| (rank, index))
        .map(|(_, _, gid)| gid)
}

/// The entries of a port's table that are in use.
pub(super) fn table(root: &Root, port: &str) -> Vec<Gid> {
    let mut gids: Vec<Gid> = Vec::new();
    let mut gap = 0;
    for index in 0..MAX_INDEX {
        match entry(root, port, index) {
            Some(gid) => {
                gids.push(gid);
                gap = 0;
            }
            None if gap == MAX_GAP => break,
            None => gap += 1,
        }
    }
    gids
}

fn entry(root: &Root, port: &str, index: u32) -> Option<Gid> {
    // The type of an empty entry cannot be read (EINVAL), which saves reading its address.
    let kind = match root.text(&format!("{port}/gid_attrs/types/{index}")) {
        Ok(text) if text == "RoCE v2" => GidKind::V2,
        Ok(text) if text == "IB/RoCE v1" => GidKind::V1,
        _ => return None,
    };
    let address: Ipv6Addr = root
        .text(&format!("{port}/gids/{index}"))
        .ok()?
        .parse()
        .ok()?;
    (!address.is_unspecified()).then_some(Gid {
        index,
        address,
        kind,
    })
}
