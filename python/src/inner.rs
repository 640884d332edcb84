//! What the objects of one agent share, and how it ends.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use nixl::{Error, ErrorKind, p2p::NixlListener};
use parking_lot::{Mutex, RwLock};
use pyo3::prelude::*;

use crate::{
    error::OrRaise,
    events::{Events, Wake},
    fork::Kept,
    seconds,
};

/// How long a waiting call stays away from Python: then it looks for signals, and for `close`.
pub(crate) const SLICE: Duration = Duration::from_millis(100);

/// Every agent, for the end of the interpreter.
static ALL: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

/// Closes every agent of this process, giving each `timeout` seconds. Called when the interpreter
/// exits: nothing reaches into its memory after that.
#[pyfunction]
pub(crate) fn close_all(py: Python<'_>, timeout: f64) -> PyResult<()> {
    let timeout = seconds(timeout)?;
    // A forked child may have inherited the lock locked; it has no agent to close.
    if nixl::forks() > 0 {
        return Ok(());
    }
    let all: Vec<_> = ALL.lock().drain(..).filter_map(|w| w.upgrade()).collect();
    py.detach(|| {
        for inner in &all {
            // What was not let go of in time is leaked, and logged.
            inner.close(timeout).ok();
        }
    });
    Ok(())
}

/// What the objects of one agent share.
pub(crate) struct Inner {
    pub(crate) name: String,
    agent: Kept<RwLock<Option<Arc<nixl::Agent>>>>,
    /// Whom to wake when it is closed.
    wakes: Mutex<Vec<Weak<Wake>>>,
    pub(crate) events: OnceLock<Py<Events>>,
    /// Answers NIXL's metadata calls.
    pub(crate) listener: Kept<Mutex<Option<NixlListener>>>,
}

impl Inner {
    /// Takes an agent over, and remembers it until the interpreter exits.
    pub(crate) fn new(name: &str, agent: nixl::Agent) -> Arc<Self> {
        let inner = Arc::new(Self {
            name: name.to_owned(),
            agent: Kept::new(RwLock::new(Some(Arc::new(agent)))),
            wakes: Mutex::new(Vec::new()),
            events: OnceLock::new(),
            listener: Kept::new(Mutex::new(None)),
        });
        let mut all = ALL.lock();
        all.retain(|inner| inner.strong_count() > 0);
        all.push(Arc::downgrade(&inner));
        drop(all);
        inner
    }

    /// Calls `f` with the agent. Only for what never waits: the GIL may be held.
    pub(crate) fn with<R>(
        &self,
        f: impl FnOnce(&Arc<nixl::Agent>) -> nixl::Result<R>,
    ) -> nixl::Result<R> {
        match &*self.agent.get()?.read() {
            Some(agent) => f(agent),
            None => Err(Error::new(
                ErrorKind::ApiMisuse,
                format!("the agent {:?} is closed", self.name),
            )),
        }
    }

    /// Calls `f` with the agent and without the GIL.
    pub(crate) fn detached<R: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&Arc<nixl::Agent>) -> nixl::Result<R> + Send,
    ) -> PyResult<R> {
        py.detach(|| self.with(f)).or_raise(py)
    }

    /// A new source of events, woken by [`Inner::close`] too.
    pub(crate) fn new_events(&self) -> nixl::Result<Events> {
        let events = self.with(|agent| Events::of(agent))?;
        let mut wakes = self.wakes.lock();
        wakes.retain(|wake| wake.strong_count() > 0);
        wakes.push(events.wake());
        Ok(events)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.agent.get().is_ok_and(|agent| agent.read().is_none())
    }

    pub(crate) fn close(&self, timeout: Duration) -> nixl::Result<()> {
        // Waits for calls under way, which look up at the end of each slice.
        let taken = self.agent.get()?.write().take();
        drop(self.listener.lock().take());
        for wake in self.wakes.lock().drain(..) {
            if let Some(wake) = wake.upgrade() {
                wake.up();
            }
        }
        // A metadata listener borrows it for moments; then its last owner shuts it down.
        match taken.map(Arc::try_unwrap) {
            Some(Ok(agent)) => agent.shutdown(timeout),
            Some(Err(_)) | None => Ok(()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.agent.is_ours() && !self.is_closed() {
            // Nobody is left to tell of a failure, which the library has logged.
            Python::attach(|py| py.detach(|| self.close(Duration::from_secs(1)))).ok();
        }
    }
}
