//! Chooses the path for a transfer: pure, deterministic, and able to say why.
//!
//! A function of both agents' cards, what is to be moved, what paths cost, the policy and what is
//! known of each path's health. No clock, no I/O, no state; `docs/negotiation.md` explains it.

mod cost;
mod explain;
mod policy;
mod reject;
#[cfg(test)]
mod tests;

pub use cost::{CostBook, CostSource};
pub use explain::Row;
pub use policy::{Mode, Policy};
pub use reject::Reject;

use crate::{
    AgentCard, BackendCard, BackendName, Cost, Error, MemKind, Op, PathCaps, PathClass, PathName,
    Reach, Revocation,
};

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
    ConnectFailed(Error),
    /// A probe over it failed a moment ago.
    ProbeFailed(Error),
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
}

/// Ranks `paths` (ours) for `demand` against `peer`. `cost` and `health` look up what is known.
pub fn negotiate(
    me: &AgentCard,
    paths: &[PathCaps],
    peer: &AgentCard,
    demand: &Demand,
    cost: &dyn Fn(&PathCaps, &Demand) -> (Cost, CostSource),
    policy: &Policy,
    health: &dyn Fn(&PathCaps) -> Health,
) -> Negotiation {
    let mut out = Negotiation::default();
    for caps in paths {
        let health = health(caps);
        match eligible(me, caps, peer, demand, policy, &health) {
            Err(why) => out.rejected.push((caps.path, caps.class, why)),
            Ok(flipped) => {
                let (cost, source) = cost(caps, demand);
                out.ranked.push(Candidate {
                    path: caps.path,
                    backend: caps.backend,
                    class: caps.class,
                    estimate_ns: cost.estimate_ns(demand.descs, demand.bytes),
                    source,
                    proven: health == Health::Proven,
                    flipped,
                });
            }
        }
    }
    let key = |c: &Candidate| {
        let preferred = policy.preference(c.path, c.backend);
        (preferred, c.flipped, c.estimate_ns, c.class, c.path)
    };
    out.ranked.sort_by_key(key);
    out.rejected.sort_by_key(|r| r.0);
    out
}

/// The hard filters, in an order that gives the most telling reason. True: only flipped.
fn eligible(
    me: &AgentCard,
    caps: &PathCaps,
    peer: &AgentCard,
    demand: &Demand,
    policy: &Policy,
    health: &Health,
) -> Result<bool, Reject> {
    let theirs = peer
        .backend(caps.backend)
        .ok_or(Reject::NotShared)
        .and_then(|b| shared_path(b, caps))?;
    let (low, high) = (
        theirs.0.max(*caps.wire.start()),
        theirs.1.min(*caps.wire.end()),
    );
    if low > high {
        return Err(Reject::WireVersion {
            mine: caps.wire.clone(),
            theirs: theirs.0..=theirs.1,
        });
    }
    reachable(me, caps, peer)?;
    let direct = caps.mem.contains(&(demand.op, demand.local, demand.remote));
    if !direct && !can_flip(caps, demand) {
        return Err(Reject::MemKind {
            op: demand.op,
            local: demand.local,
            remote: demand.remote,
        });
    }
    if caps.needs_shareable && !demand.all_remote_shareable {
        return Err(Reject::NotShareable);
    }
    policy.allows(caps).map_err(Reject::Policy)?;
    match health {
        Health::ConnectFailed(why) => Err(Reject::ConnectFailed(why.clone())),
        Health::ProbeFailed(why) => Err(Reject::ProbeFailed(why.clone())),
        Health::Unknown | Health::Proven => Ok(!direct),
    }
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

fn shared_path(backend: &BackendCard, caps: &PathCaps) -> Result<(u16, u16), Reject> {
    let path = backend.paths.iter().find(|p| p.path == caps.path);
    path.map(|p| (p.wire_min, p.wire_max))
        .ok_or(Reject::NotShared)
}

/// Rules out what cannot work. Facts about namespaces are left to the probe: they predict badly.
fn reachable(me: &AgentCard, caps: &PathCaps, peer: &AgentCard) -> Result<(), Reject> {
    let one_kernel = me.host.boot == peer.host.boot && me.host.boot != [0; 16];
    let one_process =
        one_kernel && me.host.pid == peer.host.pid && me.host.pid_ns == peer.host.pid_ns;
    match caps.reach {
        Reach::Process if !one_process => Err(Reject::OtherProcess),
        Reach::Host if !one_kernel => Err(Reject::OtherHost {
            mine: me.host.name.clone(),
            theirs: peer.host.name.clone(),
        }),
        _ => Ok(()),
    }
}

/// Why a transfer runs over a slower class of path than both sides have and could reach.
///
/// `None` when the best of the shared, reachable and suitable paths is the one in use: paths
/// that the peer lacks, that do not reach it or that cannot name the memory are no degradation,
/// and neither is what the user's own policy forbids.
pub fn degradation(found: &Negotiation) -> Option<String> {
    let best = found.ranked.first()?;
    let lost: Vec<_> = found
        .rejected
        .iter()
        .filter(|(_, class, why)| *class < best.class && why.is_failure())
        .map(|(path, _, why)| format!("{path}: {why}"))
        .collect();
    (!lost.is_empty()).then(|| lost.join("; "))
}
