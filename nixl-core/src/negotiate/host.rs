//! What two host cards say about each other.

use crate::HostId;

impl HostId {
    /// Both run under one kernel. A boot id that could not be read (zero) matches nobody.
    ///
    /// It says no more than that: containers share a kernel and may still be unable to reach each
    /// other, so a same-host path has to prove itself by a probe.
    pub fn same_kernel(&self, other: &Self) -> bool {
        self.boot == other.boot && self.boot != [0; 16]
    }

    /// Both see the same process ids. A namespace that could not be read (zero) matches nobody.
    pub fn same_pid_namespace(&self, other: &Self) -> bool {
        self.same_kernel(other) && self.pid_ns == other.pid_ns && self.pid_ns != 0
    }

    /// Both are agents of one process.
    pub fn same_process(&self, other: &Self) -> bool {
        self.same_pid_namespace(other) && self.pid == other.pid && self.pid != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_matches_nobody() {
        let here = HostId {
            boot: [1; 16],
            pid_ns: 4_026_531_836,
            pid: 10,
            ..HostId::default()
        };
        assert!(here.same_process(&here));
        let change = |f: fn(&mut HostId)| {
            let mut other = here.clone();
            f(&mut other);
            other
        };
        let sibling = change(|h| h.pid = 11);
        assert!(here.same_pid_namespace(&sibling) && !here.same_process(&sibling));
        let container = change(|h| h.pid_ns += 1);
        assert!(here.same_kernel(&container) && !here.same_process(&container));
        assert!(!here.same_kernel(&change(|h| h.boot = [2; 16])));
        for unknown in [
            change(|h| h.boot = [0; 16]),
            change(|h| h.pid_ns = 0),
            change(|h| h.pid = 0),
        ] {
            assert!(!unknown.same_process(&unknown), "{unknown:?}");
        }
    }
}
