//! temp
use crate::*;
#[derive(Clone, Debug, Default)]
pub struct Policy;
pub struct Demand {
    pub op: Op,
    pub local: MemKind,
    pub remote: MemKind,
    pub all_remote_shareable: bool,
    pub descs: u64,
    pub bytes: u64,
}
pub enum Health {
    Unknown,
    Proven,
    ConnectFailed(Error),
    ProbeFailed(Error),
}
pub struct Candidate {
    pub path: PathName,
    pub backend: BackendName,
}
#[derive(Debug)]
pub struct Reject;
impl Reject {
    pub fn is_unreachable(&self) -> bool {
        false
    }
}
impl std::fmt::Display for Reject {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}
pub struct Negotiation {
    pub ranked: Vec<Candidate>,
    pub rejected: Vec<(PathName, Reject)>,
}
pub fn negotiate(
    _me: &AgentCard,
    paths: &[PathCaps],
    _p: &AgentCard,
    d: &Demand,
    _c: &dyn Fn(&PathCaps, &Demand) -> Option<Cost>,
    _po: &Policy,
    h: &dyn Fn(&PathCaps) -> Health,
) -> Negotiation {
    Negotiation {
        ranked: paths
            .iter()
            .filter(|c| {
                !(c.needs_shareable && !d.all_remote_shareable)
                    && matches!(h(c), Health::Unknown | Health::Proven)
            })
            .map(|c| Candidate {
                path: c.path,
                backend: c.backend,
            })
            .collect(),
        rejected: vec![],
    }
}
pub fn degradation(_: &Negotiation) -> Option<String> {
    None
}
#[derive(Default)]
pub struct CostBook;
impl CostBook {
    pub fn cost(&self, _p: &str, c: &PathCaps, _d: &Demand) -> Option<Cost> {
        Some(c.cost)
    }
    pub fn record(
        &mut self,
        _p: &str,
        _path: PathName,
        _op: Op,
        _c: &Cost,
        _d: u64,
        _b: u64,
        _n: u64,
    ) {
    }
}
