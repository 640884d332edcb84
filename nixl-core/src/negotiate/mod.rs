//! Chooses the path for a transfer: pure, deterministic, and able to say why.
//!
//! A function of both agents' cards, what is to be moved, what paths cost, the policy and what is
//! known of each path's health. No clock, no I/O, no state; `docs/negotiation.md` explains it.

mod cost;
mod degraded;
mod explain;
mod host;
mod policy;
mod reject;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use cost::{CostBook, CostSource};
pub use degraded::Degraded;
pub use explain::Row;
pub use policy::{Mode, Policy};
pub use reject::{PolicyRule, Reject};

use crate::{
    AgentCard, BackendName, Cost, Error, MemKind, Op, PathCaps, PathCard, PathClass, PathName,
    Reach, Revocation,
};

/// What asking the peer to do it adds to a flipped operation.
const ASKING_NS: u64 = 50_000;

/// What is to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Direction.
    pub op: Op,
    /// Kind of our memory.
    pub local: MemKind,
    /// Kind of the peer's memory.
    pub remote: MemKind,
    /// Every region of the peer's is agent-allocated, so it can be mapped.
    pub all_remote_shareable: bool,
    /// Blocks, after merging.
    pub descs: u64,
    /// Bytes in all.
    pub bytes: u64,
}

/// What is known of one path to one peer in one direction.
#[derive(Clone, Debug, PartialEq)]
pub enum Health {
    /// Not tried yet.
    Unknown,
    /// A probe moved a nonce over it.
    Proven,
    /// Its backend could not connect a moment ago.
    ConnectFailed {
        /// What happened.
        why: Error,
        /// When it may be tried again.
        retry_in: Duration,
    },
    /// A probe over it failed a moment ago.
    ProbeFailed {
        /// What happened.
        why: Error,
        /// When it may be tried again.
        retry_in: Duration,
    },
}

/// A path that can be used, or tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Path.
    pub path: PathName,
    /// Its backend.
    pub backend: BackendName,
    /// Its class.
    pub class: PathClass,
    /// Estimated time of the demand.
    pub estimate_ns: u64,
    /// What the estimate was made from.
    pub cost: Cost,
    /// Whether the estimate rests on measured transfers.
    pub source: CostSource,
    /// Whether a probe has proven it.
    pub proven: bool,
    /// The peer does the opposite operation for us: the path cannot do ours.
    pub flipped: bool,
}

/// What came out: every path of ours is in one of the two lists, once.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Negotiation {
    /// Usable paths, best first.
    pub ranked: Vec<Candidate>,
    /// The others, by name, each with its reason.
    pub rejected: Vec<(PathName, PathClass, Reject)>,
    /// Set when the best path is of a slower class than both sides have, reach and allow.
    pub degraded: Option<Degraded>,
    /// The peer is an agent of NIXL's.
    pub foreign: bool,
    /// Memory that this agent allocated: page size and bytes, smallest pages first. `Agent::explain`
    /// fills it in.
    pub allocated: Vec<(u64, u64)>,
}

/// Ranks `paths` (ours) for `demand` against `peer`. `cost` and `health` look up what is known.
///
/// Preferred paths come first, in the order of preference; then by estimated time, class and name.
pub fn negotiate(
    me: &AgentCard,
    paths: &[PathCaps],
    peer: &AgentCard,
    demand: &Demand,
    cost: &dyn Fn(&PathCaps, &Demand) -> (Cost, CostSource),
    policy: &Policy,
    health: &dyn Fn(&PathCaps) -> Health,
) -> Negotiation {
    let mut out = Negotiation {
        foreign: peer.foreign,
        ..Negotiation::default()
    };
    for caps in paths {
        let verdict = suits(me, caps, peer, demand, policy)
            .and_then(|()| works(caps, peer, health(caps)))
            .and_then(|proven| candidate(caps, demand, cost, proven));
        match verdict {
            Ok(found) => out.ranked.push(found),
            Err(why) => out.rejected.push((caps.path, caps.class, why)),
        }
    }
    let key = |c: &Candidate| {
        let preferred = policy.preference(c.path, c.backend);
        (preferred, c.estimate_ns, c.class, c.path)
    };
    out.ranked.sort_by_key(key);
    out.rejected.sort_by_key(|r| r.0);
    out.degraded = Degraded::find(&out, paths, policy);
    out
}

/// What hosts, memory and policy rule out by design. Asked before anything that counts as a
/// failure, so that nobody is warned about a path that could not or must not be used anyway.
fn suits(
    me: &AgentCard,
    caps: &PathCaps,
    peer: &AgentCard,
    demand: &Demand,
    policy: &Policy,
) -> Result<(), Reject> {
    shared_path(caps, peer)?;
    reachable(me, caps, peer)?;
    if !is_direct(caps, demand) && (peer.foreign || !can_flip(caps, demand)) {
        return Err(Reject::MemKind {
            op: demand.op,
            local: demand.local,
            remote: demand.remote,
        });
    }
    if caps.needs_shareable && !demand.all_remote_shareable {
        return Err(Reject::NotShareable);
    }
    if policy.refuse_idle_targets && caps.target_must_progress && !peer.progresses {
        return Err(Reject::TargetIdle);
    }
    policy.allows(caps).map_err(Reject::Policy)?;
    match caps.hazard {
        Some(what) if !peer.foreign && !policy.names(caps.path) => Err(Reject::Hazard(what)),
        _ => Ok(()),
    }
}

/// What should work between these two and does not; whether the path is proven already.
fn works(caps: &PathCaps, peer: &AgentCard, health: Health) -> Result<bool, Reject> {
    let theirs = shared_path(caps, peer)?;
    let low = theirs.wire_min.max(*caps.wire.start());
    let high = theirs.wire_max.min(*caps.wire.end());
    if low > high {
        return Err(Reject::WireVersion {
            mine: caps.wire.clone(),
            theirs: theirs.wire_min..=theirs.wire_max,
        });
    }
    match health {
        Health::ConnectFailed { why, retry_in } => Err(Reject::ConnectFailed { why, retry_in }),
        Health::ProbeFailed { why, retry_in } => Err(Reject::ProbeFailed { why, retry_in }),
        Health::Unknown => Ok(false),
        Health::Proven => Ok(true),
    }
}

fn candidate(
    caps: &PathCaps,
    demand: &Demand,
    cost: &dyn Fn(&PathCaps, &Demand) -> (Cost, CostSource),
    proven: bool,
) -> Result<Candidate, Reject> {
    let (cost, source) = cost(caps, demand);
    if cost.bytes_per_sec == 0 {
        return Err(Reject::NoCost);
    }
    let flipped = !is_direct(caps, demand);
    let asking = if flipped { ASKING_NS } else { 0 };
    Ok(Candidate {
        path: caps.path,
        backend: caps.backend,
        class: caps.class,
        estimate_ns: cost
            .estimate_ns(demand.descs, demand.bytes)
            .saturating_add(asking),
        cost,
        source,
        proven,
        flipped,
    })
}

fn is_direct(caps: &PathCaps, demand: &Demand) -> bool {
    caps.mem.contains(&(demand.op, demand.local, demand.remote))
}

/// Whether the peer can do the opposite operation for us, and be fenced off again.
fn can_flip(caps: &PathCaps, demand: &Demand) -> bool {
    let opposite = match demand.op {
        Op::Read => Op::Write,
        Op::Write => Op::Read,
    };
    caps.revocation == Revocation::Fenced
        && caps.mem.contains(&(opposite, demand.remote, demand.local))
}

fn shared_path<'a>(caps: &PathCaps, peer: &'a AgentCard) -> Result<&'a PathCard, Reject> {
    peer.backend(caps.backend)
        .and_then(|b| b.paths.iter().find(|p| p.path == caps.path))
        .ok_or(match peer.foreign {
            true => Reject::Foreign,
            false => Reject::NotShared,
        })
}

/// Rules out what cannot work. Facts about namespaces are left to the probe: they predict badly. So
/// is where a foreign agent runs, which does not say.
fn reachable(me: &AgentCard, caps: &PathCaps, peer: &AgentCard) -> Result<(), Reject> {
    match caps.reach {
        _ if peer.foreign => Ok(()),
        Reach::Process if !me.host.same_process(&peer.host) => Err(Reject::OtherProcess),
        Reach::Host if !me.host.same_kernel(&peer.host) => Err(Reject::OtherHost {
            mine: me.host.name.clone(),
            theirs: peer.host.name.clone(),
        }),
        _ => Ok(()),
    }
}

/// Whether the transfer runs over a slower class of path than both sides have and could use.
///
/// `None` when the best of the shared, reachable, suitable and allowed paths is the one in use:
/// paths that the peer lacks, that do not reach it, that cannot name the memory, or that the policy
/// forbids or ranks behind are no degradation; nor is a better class that is estimated to be slower.
pub fn degradation(found: &Negotiation) -> Option<&Degraded> {
    found.degraded.as_ref()
}
