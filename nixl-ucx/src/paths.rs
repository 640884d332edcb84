//! The backend's paths, as data: one for each class of lanes, and for each of the two ways in which
//! UCX moves data over them.

use std::fmt::Write as _;

use nixl_core::{Cost, MemKind, Op, PathCaps, PathClass, PathName, Reach, Result, Revocation};

use crate::{Options, backend::UCX, config::Mode, fault::unsupported, ucp};

/// One-sided operations over lanes of RDMA devices.
pub const RDMA: PathName = "ucx";
/// One-sided operations over lanes that copy between processes of one host.
pub const CMA: PathName = "ucx_cma";
/// One-sided operations over anything else, which emulates them by messages.
pub const TCP: PathName = "ucx_tcp";
/// Rendezvous over lanes of RDMA devices.
pub const RNDV: PathName = "ucx_rndv";
/// Rendezvous over lanes that copy between processes of one host.
pub const RNDV_CMA: PathName = "ucx_rndv_cma";
/// Rendezvous over anything else.
pub const RNDV_TCP: PathName = "ucx_rndv_tcp";

const HOST_MEMORY: &[(Op, MemKind, MemKind)] = &[
    (Op::Read, MemKind::Dram, MemKind::Dram),
    (Op::Write, MemKind::Dram, MemKind::Dram),
];

/// How UCX moves data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// One-sided operations.
    Rma,
    /// Messages whose receiver says where to.
    Rendezvous,
}

const ALL: [(PathName, Way, PathClass); 6] = [
    (RDMA, Way::Rma, PathClass::Rdma),
    (CMA, Way::Rma, PathClass::CrossMemory),
    (TCP, Way::Rma, PathClass::Tcp),
    (RNDV, Way::Rendezvous, PathClass::Rdma),
    (RNDV_CMA, Way::Rendezvous, PathClass::CrossMemory),
    (RNDV_TCP, Way::Rendezvous, PathClass::Tcp),
];

/// The way and the class of lanes that a path stands for.
pub(crate) fn way_of_path(path: PathName) -> Option<(Way, PathClass)> {
    let found = ALL.iter().find(|(name, ..)| *name == path);
    found.map(|(_, way, class)| (*way, *class))
}

/// Those that an agent of NIXL's can be the target of.
pub(crate) fn one_sided(paths: &[PathCaps]) -> Vec<PathName> {
    let names = paths.iter().map(|caps| caps.path);
    let is_one = |name: &PathName| matches!(way_of_path(name), Some((Way::Rma, _)));
    names.filter(is_one).collect()
}

/// Advertised until measured. One system call a block makes CMA through UCX slower than ours,
/// and so does the copying at the peer with TCP. Rendezvous asks first, and gathers blocks.
fn cost(way: Way, class: PathClass) -> Cost {
    let cost = |latency_ns, per_desc_ns, bytes_per_sec| Cost {
        latency_ns,
        per_desc_ns,
        bytes_per_sec,
    };
    match (way, class) {
        (Way::Rma, PathClass::Rdma) => cost(5_000, 150, 12_000_000_000),
        (Way::Rma, PathClass::CrossMemory) => cost(6_000, 900, 5_000_000_000),
        (Way::Rma, _) => cost(80_000, 5_000, 600_000_000),
        (Way::Rendezvous, PathClass::Rdma) => cost(30_000, 300, 4_000_000_000),
        (Way::Rendezvous, PathClass::CrossMemory) => cost(100_000, 500, 2_500_000_000),
        (Way::Rendezvous, _) => cost(150_000, 500, 1_000_000_000),
    }
}

/// The handlers by which UCX emulates a get or a put do not expect that the peer is gone when they
/// answer (docs/ucx.md, What UCX breaks).
const ABORTS: &str =
    "UCX emulates it, and ends the target's process when the initiator dies amid it";

fn caps(path: PathName, way: Way, class: PathClass) -> PathCaps {
    PathCaps {
        path,
        backend: UCX,
        class,
        wire: 1..=1,
        reach: match class {
            PathClass::Rdma => Reach::Fabric,
            PathClass::CrossMemory => Reach::Host,
            _ => Reach::Routed,
        },
        mem: HOST_MEMORY,
        needs_shareable: false,
        // Connecting needs it on every path, and emulated operations do on most.
        target_must_progress: true,
        revocation: Revocation::Cooperative,
        hazard: None,
        cost: cost(way, class),
    }
}

/// The paths for each class of `transports`. `cma`: this UCX uses CMA for one-sided operations.
fn offered(transports: &[&str], mode: Mode, cma: bool) -> Vec<PathCaps> {
    let of = |class| {
        let all = transports.iter().copied();
        all.filter(move |name| ucp::class_of(name) == class)
    };
    // Datagrams carry messages only.
    let emulated = |class| match class {
        PathClass::Rdma => of(class).all(|name| name.starts_with("ud")),
        PathClass::CrossMemory => !cma,
        _ => true,
    };
    let wanted = |way, class| match (way, mode) {
        (Way::Rma, Mode::Rendezvous) | (Way::Rendezvous, Mode::Rma) => false,
        (Way::Rma, _) => class != PathClass::CrossMemory || cma,
        (Way::Rendezvous, Mode::Rendezvous) => true,
        (Way::Rendezvous, Mode::Auto) => emulated(class),
    };
    let hazard = |way, class| {
        let risky = mode == Mode::Auto && way == Way::Rma && emulated(class);
        risky.then_some(ABORTS)
    };
    let there = |class| of(class).next().is_some();
    let found = ALL
        .iter()
        .filter(|(_, way, class)| there(*class) && wanted(*way, *class));
    found
        .map(|(path, way, class)| PathCaps {
            hazard: hazard(*way, *class),
            ..caps(path, *way, *class)
        })
        .collect()
}

/// The paths for each class of transport that the context has.
///
/// Errors: `Unsupported` where there is none.
pub(crate) fn paths(
    context: &ucp::Context,
    mode: Mode,
    cma: bool,
    options: &Options,
) -> Result<Vec<PathCaps>> {
    let resources = context.resources();
    let transports: Vec<_> = resources.iter().map(|(tl, _)| tl.as_str()).collect();
    let paths = offered(&transports, mode, cma);
    let mut names = String::new();
    for (transport, device) in &resources {
        // Writing to a string does not fail.
        let _ = write!(names, " {transport}/{device}");
    }
    tracing::info!("UCX transports:{names}");
    let has = |class| transports.iter().any(|name| ucp::class_of(name) == class);
    if !has(PathClass::Rdma) && has(PathClass::Tcp) && options.rdma_is_expected {
        tracing::warn!("no RDMA transports available to UCX, falling back to TCP between hosts");
    }
    if paths.is_empty() {
        return Err(unsupported(format!(
            "UCX has no transport for this agent (it has:{names}); see UCX_TLS"
        )));
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(transports: &[&str], mode: Mode, cma: bool) -> Vec<PathName> {
        let found = offered(transports, mode, cma);
        found.iter().map(|caps| caps.path).collect()
    }

    #[test]
    fn rendezvous_is_offered_where_one_sided_operations_may_be_emulated() {
        let local = ["tcp", "cma", "self"];
        assert_eq!(names(&local, Mode::Auto, true), [CMA, TCP, RNDV_TCP]);
        assert_eq!(names(&local, Mode::Auto, false), [TCP, RNDV_CMA, RNDV_TCP]);
        assert_eq!(names(&["rc_mlx5", "ud_mlx5"], Mode::Auto, true), [RDMA]);
        assert_eq!(names(&["ud_verbs"], Mode::Auto, true), [RDMA, RNDV]);
    }

    #[test]
    fn one_sided_operations_that_may_be_emulated_are_a_hazard_unless_insisted_on() {
        let risky = |transports: &[&str], mode| {
            let found = offered(transports, mode, true);
            let risky = found.iter().filter(|caps| caps.hazard.is_some());
            risky.map(|caps| caps.path).collect::<Vec<_>>()
        };
        let all = ["tcp", "cma", "rc_verbs"];
        assert_eq!(risky(&all, Mode::Auto), [TCP]);
        assert_eq!(risky(&["ud_verbs", "tcp"], Mode::Auto), [RDMA, TCP]);
        assert!(risky(&all, Mode::Rma).is_empty());
    }

    #[test]
    fn the_user_may_insist() {
        let all = ["tcp", "cma", "rc_verbs"];
        assert_eq!(names(&all, Mode::Rma, true), [RDMA, CMA, TCP]);
        assert_eq!(names(&all, Mode::Rma, false), [RDMA, TCP]);
        let two_sided = names(&all, Mode::Rendezvous, true);
        assert_eq!(two_sided, [RNDV, RNDV_CMA, RNDV_TCP]);
        assert!(one_sided(&offered(&all, Mode::Rendezvous, true)).is_empty());
        assert_eq!(
            one_sided(&offered(&all, Mode::Auto, true)),
            [RDMA, CMA, TCP]
        );
    }
}
