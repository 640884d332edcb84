//! Whether a transfer fell to a slower class of path.

use std::fmt;

use super::{Negotiation, Policy, Reject};
use crate::{PathCaps, PathClass, PathName};

/// A slower class of path is used than both sides have, reach and allow.
#[derive(Clone, Debug, PartialEq)]
pub struct Degraded {
    /// The path used instead.
    pub path: PathName,
    /// Its class.
    pub class: PathClass,
    /// The better ones that should have worked, by name, each with what went wrong.
    pub lost: Vec<(PathName, PathClass, Reject)>,
}

impl Degraded {
    /// Finds the paths that would stand before the best one had they not failed.
    ///
    /// A path counts as lost if it failed ([`Reject::is_failure`]), is of a better class than the
    /// best one, and the policy does not prefer the best one to it.
    pub(super) fn find(found: &Negotiation, paths: &[PathCaps], policy: &Policy) -> Option<Self> {
        let best = found.ranked.first()?;
        let bar = policy.preference(best.path, best.backend);
        let outranks = |path: PathName| {
            let caps = paths.iter().find(|c| c.path == path);
            caps.is_some_and(|c| policy.preference(c.path, c.backend) <= bar)
        };
        let lost: Vec<_> = found
            .rejected
            .iter()
            .filter(|(path, class, why)| *class < best.class && why.is_failure() && outranks(path))
            .cloned()
            .collect();
        (!lost.is_empty()).then_some(Self {
            path: best.path,
            class: best.class,
            lost,
        })
    }
}

/// The lost paths with their reasons, on one line.
impl fmt::Display for Degraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (path, _, why)) in self.lost.iter().enumerate() {
            let comma = if i == 0 { "" } else { "; " };
            write!(f, "{comma}{path}: {why}")?;
        }
        Ok(())
    }
}
