//! What the rig's agents saw go wrong, and the bell that rings when anything happened.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Violations of the contract and a wake-up. Backends' threads report here instead of panicking.
#[derive(Default)]
pub(crate) struct Journal {
    violations: Mutex<Vec<String>>,
    ends: Mutex<Vec<String>>,
    rings: Mutex<u64>,
    rang: Condvar,
}

impl Journal {
    /// The contract was broken.
    pub(crate) fn violation(&self, what: impl Into<String>) {
        self.violations.lock().push(what.into());
        self.ring();
    }

    /// A connection ended: not wrong as such, but the reason for what follows.
    pub(crate) fn end(&self, what: String) {
        self.ends.lock().push(what);
        self.ring();
    }

    /// The ends of connections so far.
    pub(crate) fn ends(&self) -> String {
        self.ends.lock().join("; ")
    }

    /// Something happened.
    pub(crate) fn ring(&self) {
        *self.rings.lock() += 1;
        self.rang.notify_all();
    }

    pub(crate) fn rings(&self) -> u64 {
        *self.rings.lock()
    }

    /// Waits until it rings again after `seen`, at most `limit`.
    pub(crate) fn wait(&self, seen: u64, limit: Duration) {
        let mut rings = self.rings.lock();
        if *rings == seen {
            self.rang.wait_for(&mut rings, limit);
        }
    }

    /// Panics if there was a violation.
    pub(crate) fn check(&self) {
        let violations = self.violations.lock();
        assert!(
            violations.is_empty(),
            "the backend broke the contract:\n- {}",
            violations.join("\n- ")
        );
    }
}
