//! Work for the reactor: ring, and it is done there, never on the caller's stack.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use nixl_core::{
    Result,
    runtime::{Readiness, Watch},
};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use crate::fault;

/// Something with work to do on the reactor.
pub(crate) trait Pump: Send + Sync + 'static {
    /// Does it. May be called more often than rung, and from two threads at once.
    fn pump(self: Arc<Self>);
}

/// One eventfd for a whole backend.
pub(crate) struct Doorbell {
    fd: OwnedFd,
    rung: Mutex<VecDeque<Arc<dyn Pump>>>,
}

impl Doorbell {
    pub(crate) fn new() -> Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| fault::os("eventfd", e))?;
        Ok(Self {
            fd,
            rung: Mutex::new(VecDeque::new()),
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Has `pump` called on the reactor, soon.
    pub(crate) fn ring(&self, pump: Arc<dyn Pump>) {
        self.rung.lock().push_back(pump);
        self.wake();
    }

    fn wake(&self) {
        // Fails only where 2^64 - 2 wake-ups wait: one of them is enough.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }
}

impl Watch for Doorbell {
    fn ready(&self, _: Readiness) {
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        // What rings itself again waits for the next round, so that others get a turn.
        let mut left = self.rung.lock().len();
        while left > 0 {
            let Some(pump) = self.rung.lock().pop_front() else {
                return;
            };
            pump.pump();
            left -= 1;
        }
        if !self.rung.lock().is_empty() {
            self.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Again {
        bell: Arc<Doorbell>,
        count: AtomicUsize,
    }

    impl Pump for Again {
        fn pump(self: Arc<Self>) {
            if self.count.fetch_add(1, Ordering::SeqCst) < 2 {
                self.bell.ring(self.clone());
            }
        }
    }

    #[test]
    fn ringing_from_inside_waits_for_the_next_round() {
        let bell = Arc::new(Doorbell::new().unwrap());
        let again = Arc::new(Again {
            bell: bell.clone(),
            count: AtomicUsize::new(0),
        });
        bell.ring(again.clone());
        let edge = Readiness {
            readable: true,
            writable: false,
            closed: false,
        };
        for round in 1..=3 {
            bell.ready(edge);
            assert_eq!(again.count.load(Ordering::SeqCst), round);
        }
        assert_eq!(Arc::strong_count(&again), 1);
    }
}
