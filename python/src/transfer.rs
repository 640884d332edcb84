//! A request as the package `nixl` uses it: states are numbers, and a notification is kept for posts
//! that bring none.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use nixl::{ErrorKind, Op, PostOptions, Status};
use pyo3::{
    prelude::*,
    types::{PyBytes, PyString},
};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    agent::{Agent, chosen},
    buffer,
    descs::indices,
    error::OrRaise,
    fork::Kept,
    prepared::{PreparedLocal, PreparedRemote},
};

/// Start, time of the post and of the whole in microseconds, bytes and blocks.
type Telemetry = (u64, u64, u64, u64, u64);

/// A transfer of prepared blocks.
#[pyclass(module = "nixl_rs", name = "_Transfer", frozen)]
pub(crate) struct Transfer {
    request: Kept<nixl::Request>,
    notification: Option<Bytes>,
    /// Whether NIXL would have merged adjacent blocks, and counted them so.
    merges: bool,
    /// When it was last posted, in microseconds of the monotonic clock.
    started: AtomicU64,
}

/// What a transfer is made of.
pub(crate) struct Wanted<'a, 'py> {
    pub(crate) agent: &'a Bound<'py, Agent>,
    pub(crate) read: bool,
    pub(crate) local: &'a Bound<'py, PreparedLocal>,
    /// None choose all blocks.
    pub(crate) local_indices: Option<&'a Bound<'py, PyAny>>,
    pub(crate) remote: &'a Bound<'py, PreparedRemote>,
    pub(crate) remote_indices: Option<&'a Bound<'py, PyAny>>,
    pub(crate) notification: Option<&'a Bound<'py, PyAny>>,
    pub(crate) merges: bool,
}

/// Makes a transfer. No indices choose all blocks.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // what Python gives
pub(crate) fn _transfer(
    agent: &Bound<'_, Agent>,
    read: bool,
    local: &Bound<'_, PreparedLocal>,
    local_indices: Option<&Bound<'_, PyAny>>,
    remote: &Bound<'_, PreparedRemote>,
    remote_indices: Option<&Bound<'_, PyAny>>,
    notification: Option<&Bound<'_, PyAny>>,
    merges: bool,
) -> PyResult<Transfer> {
    Transfer::make(Wanted {
        agent,
        read,
        local,
        local_indices,
        remote,
        remote_indices,
        notification,
        merges,
    })
}

/// What a message of bytes or text holds; `None` for an empty one.
fn message(given: &Bound<'_, PyAny>) -> PyResult<Option<Bytes>> {
    let held = if let Ok(bytes) = given.cast::<PyBytes>() {
        Bytes::copy_from_slice(bytes.as_bytes())
    } else if let Ok(text) = given.cast::<PyString>() {
        Bytes::copy_from_slice(text.to_cow()?.as_bytes())
    } else {
        Bytes::from(buffer::to_vec(given)?)
    };
    Ok((!held.is_empty()).then_some(held))
}

impl Transfer {
    pub(crate) fn make(wanted: Wanted<'_, '_>) -> PyResult<Self> {
        let py = wanted.agent.py();
        let here = indices(wanted.local_indices)?;
        let there = indices(wanted.remote_indices)?;
        let notification = match wanted.notification {
            Some(given) => message(given)?,
            None => None,
        };
        let local = wanted.local.get().0.get().or_raise(py)?;
        let remote = wanted.remote.get().0.get().or_raise(py)?;
        let op = if wanted.read { Op::Read } else { Op::Write };
        let request = wanted.agent.get().inner().detached(py, |agent| {
            agent.request(op, local, chosen(&here), remote, chosen(&there))
        })?;
        Ok(Self {
            request: Kept::new(request),
            notification,
            merges: wanted.merges,
            started: AtomicU64::new(0),
        })
    }

    fn status(&self, py: Python<'_>) -> PyResult<i32> {
        Ok(match self.request.get().or_raise(py)?.status() {
            Status::Done => 0,
            Status::Active | Status::Stalled => 1,
            Status::Prepared => ErrorKind::NotPosted.status(),
            Status::Cancelled => ErrorKind::Cancelled.status(),
            Status::Failed(error) => error.kind().status(),
        })
    }
}

#[pymethods]
impl Transfer {
    /// Posts it, and says how it stands. A message that is not empty goes in place of the one kept.
    fn post(&self, py: Python<'_>, notification: &Bound<'_, PyAny>) -> PyResult<i32> {
        let request = self.request.get().or_raise(py)?;
        let options = PostOptions {
            notification: message(notification)?.or_else(|| self.notification.clone()),
            deadline: None,
        };
        let now = clock_gettime(ClockId::Monotonic);
        py.detach(|| request.post_with(options)).or_raise(py)?;
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let micros = seconds * 1_000_000 + u64::try_from(now.tv_nsec / 1000).unwrap_or(0);
        self.started.store(micros, Ordering::Relaxed);
        self.status(py)
    }

    /// NIXL's number for how it stands: 0 done, 1 active, below 0 what it failed of.
    fn code(&self, py: Python<'_>) -> PyResult<i32> {
        self.status(py)
    }

    /// Raises what it failed with; nothing if it is done.
    fn result(&self, py: Python<'_>) -> PyResult<()> {
        // Nothing is waited for: it has ended, or this says that it has not.
        let request = self.request.get().or_raise(py)?;
        request.wait(Duration::ZERO).or_raise(py)
    }

    /// `None` unless it is done.
    fn telemetry(&self, py: Python<'_>) -> PyResult<Option<Telemetry>> {
        let request = self.request.get().or_raise(py)?;
        let done = matches!(request.status(), Status::Done);
        let Some(receipt) = request.receipt().filter(|_| done) else {
            return Ok(None);
        };
        let plan = request.plan();
        let blocks = match self.merges {
            true => plan.merged(),
            false => plan.asked(),
        };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // Nothing takes no time, and what ended during its post took as long as that.
        let post = micros(receipt.post_time).max(1);
        let whole = micros(receipt.total_time).max(post);
        let started = self.started.load(Ordering::Relaxed);
        Ok(Some((started, post, whole, plan.bytes(), blocks)))
    }

    /// The peer's name.
    #[getter]
    fn peer(&self) -> &str {
        self.request.peer()
    }

    /// What `Agent.explain` needs to say what it costs: "read" or "write", bytes and blocks.
    fn shape(&self) -> (&'static str, u64, u64) {
        let plan = self.request.plan();
        (plan.op().as_str(), plan.bytes(), plan.merged())
    }
}
