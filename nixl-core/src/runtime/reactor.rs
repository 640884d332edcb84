//! Readiness of file descriptors: one epoll instance, edge-triggered, any thread may poll it.

use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use rustix::{
    event::{EventfdFlags, Timespec, epoll, eventfd},
    io::Errno,
};

use crate::{Error, Result};

/// What epoll reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// There may be something to read, or the peer closed.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// Error or hang-up.
    pub closed: bool,
}

/// Called when a watched fd becomes ready.
pub trait Watch: Send + Sync + 'static {
    /// Handles an edge of readiness: work until `WouldBlock`, or spawn a task that does. Runs on
    /// the progress thread or a polling caller; calls for one fd may overlap. Must not block.
    fn ready(&self, readiness: Readiness);
}

/// Keeps a watch alive; dropping it ends the calls (one that runs already may finish later).
pub struct WatchToken {
    id: u64,
    fd: OwnedFd,
    flags: epoll::EventFlags,
    shared: Arc<Shared>,
}

impl WatchToken {
    /// Has a watch that was made for one call be called again, at once if there is a reason by now.
    pub fn again(&self) {
        let data = epoll::EventData::new_u64(self.id);
        if let Err(e) = epoll::modify(&self.shared.epoll, &self.fd, data, self.flags) {
            tracing::error!(error = %e, "epoll_ctl failed on a watched fd");
        }
    }
}

impl Drop for WatchToken {
    fn drop(&mut self) {
        let _ = epoll::delete(&self.shared.epoll, &self.fd);
        self.shared.handlers.write().remove(&self.id);
    }
}

pub(super) struct Reactor {
    shared: Arc<Shared>,
    waker: OwnedFd,
    next_id: AtomicU64,
}

struct Shared {
    epoll: OwnedFd,
    handlers: RwLock<HashMap<u64, Arc<dyn Watch>>>,
}

/// Token of the reactor's own eventfd.
const WAKER: u64 = 0;

impl Reactor {
    pub(super) fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|e| Error::os("epoll_create1 (see ulimit -n)", e))?;
        let waker = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::os("eventfd (see ulimit -n)", e))?;
        // Reported until it is read: an edge could go to a thread that only looks in.
        let flags = epoll::EventFlags::IN;
        epoll::add(&epoll, &waker, epoll::EventData::new_u64(WAKER), flags)
            .map_err(|e| Error::os("epoll_ctl on the reactor's eventfd", e))?;
        Ok(Self {
            shared: Arc::new(Shared {
                epoll,
                handlers: RwLock::new(HashMap::new()),
            }),
            waker,
            next_id: AtomicU64::new(WAKER + 1),
        })
    }

    /// `more`: flags besides the usual ones.
    pub(super) fn watch(
        &self,
        fd: BorrowedFd<'_>,
        handler: Arc<dyn Watch>,
        more: epoll::EventFlags,
    ) -> Result<WatchToken> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let fd = fd
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| Error::os("duplicating a watched fd (see ulimit -n)", e))?;
        self.shared.handlers.write().insert(id, handler);
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET
            | more;
        let added = epoll::add(
            &self.shared.epoll,
            &fd,
            epoll::EventData::new_u64(id),
            flags,
        );
        if let Err(e) = added {
            self.shared.handlers.write().remove(&id);
            return Err(Error::os("epoll_ctl", e));
        }
        Ok(WatchToken {
            id,
            fd,
            flags,
            shared: self.shared.clone(),
        })
    }

    /// Ends a `sleep`, or the next one.
    pub(super) fn wake(&self) {
        let _ = rustix::io::write(&self.waker, &1u64.to_ne_bytes());
    }

    /// Handles what is ready; returns how many events there were. Leaves a `wake` to the sleeper.
    pub(super) fn poll(&self) -> usize {
        self.handle(Duration::ZERO).0
    }

    /// Handles what is ready, waiting at most `wait` for it; returns how many events there were,
    /// a `wake` among them.
    pub(super) fn sleep(&self, wait: Duration) -> usize {
        let (events, woken) = self.handle(wait);
        if woken {
            let _ = rustix::io::read(&self.waker, &mut [0; 8]);
        }
        events + usize::from(woken)
    }

    /// The events handled, and whether there was a `wake`.
    fn handle(&self, wait: Duration) -> (usize, bool) {
        let mut events = [const {
            epoll::Event {
                flags: epoll::EventFlags::empty(),
                data: epoll::EventData::new_u64(0),
            }
        }; 32];
        let timeout = Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let n = match epoll::wait(&self.shared.epoll, &mut events[..], Some(&timeout)) {
            Ok(n) => n,
            Err(Errno::INTR) => 0,
            Err(e) => {
                tracing::error!(error = %e, "epoll_pwait2 failed");
                0
            }
        };
        let mut woken = false;
        for event in &events[..n] {
            match event.data.u64() {
                WAKER => woken = true,
                id => self.dispatch(id, event.flags),
            }
        }
        (n - usize::from(woken), woken)
    }

    fn dispatch(&self, id: u64, flags: epoll::EventFlags) {
        let Some(handler) = self.shared.handlers.read().get(&id).cloned() else {
            return;
        };
        let closed = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
        handler.ready(Readiness {
            readable: closed || flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP),
            writable: closed || flags.contains(epoll::EventFlags::OUT),
            closed,
        });
    }
}
