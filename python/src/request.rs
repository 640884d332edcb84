//! Requests.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use nixl::{Error, ErrorKind, PostOptions, Status};
use pyo3::prelude::*;

use crate::{
    buffer,
    error::{OrRaise, raise},
    events::Events,
    fork::Kept,
    inner::{Inner, SLICE},
    receipt::Receipt,
    seconds,
};

/// A prepared transfer: post it as often as you like, wait for it, or await it.
///
/// Dropping it while it is active cancels it; its memory stays registered until nothing touches it.
#[pyclass(module = "nixl_rs", frozen, weakref)]
pub(crate) struct Request {
    agent: Arc<Inner>,
    request: Kept<nixl::Request>,
}

impl Request {
    pub(crate) fn new(agent: &Arc<Inner>, request: nixl::Request) -> Self {
        Self {
            agent: agent.clone(),
            request: Kept::new(request),
        }
    }

    fn core(&self, py: Python<'_>) -> PyResult<&nixl::Request> {
        self.request.get().or_raise(py)
    }

    fn is_active(&self) -> bool {
        matches!(self.request.status(), Status::Active | Status::Stalled)
    }

    /// Waits for its end; false at the timeout.
    fn settle(&self, py: Python<'_>, timeout: Option<Duration>) -> PyResult<bool> {
        let request = self.core(py)?;
        let mut left = timeout;
        while self.is_active() {
            let slice = left.map_or(SLICE, |left| left.min(SLICE));
            // Its outcome is looked at by the caller.
            py.detach(|| request.wait(slice)).ok();
            py.check_signals()?;
            if let Some(left) = &mut left {
                *left -= slice;
                if left.is_zero() {
                    return Ok(!self.is_active());
                }
            }
        }
        Ok(true)
    }
}

#[pymethods]
impl Request {
    /// Starts the transfer; returns itself. `notification` reaches the peer after the data is there;
    /// `deadline` is the time in seconds until it must have ended.
    #[pyo3(signature = (notification = None, *, deadline = None))]
    fn post<'py>(
        this: Bound<'py, Self>,
        notification: Option<&Bound<'py, PyAny>>,
        deadline: Option<f64>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = this.py();
        let notification = notification.map(buffer::to_vec).transpose()?;
        let options = PostOptions {
            notification: notification.map(Bytes::from),
            deadline: deadline.map(seconds).transpose()?,
        };
        let request = this.get().core(py)?;
        py.detach(|| request.post_with(options)).or_raise(py)?;
        Ok(this)
    }

    /// Waits until it ends. Raises what it failed with, or TimedOutError while it is still active.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let limit = timeout.map(seconds).transpose()?;
        if self.settle(py, limit)? {
            return self.result(py);
        }
        let text = format!(
            "still active after {:?}; it goes on",
            limit.unwrap_or_default()
        );
        let error = Error::new(ErrorKind::Timeout, text).with_peer(self.request.peer());
        Err(raise(py, &error))
    }

    /// Raises what it failed with; nothing if it is done.
    fn result(&self, py: Python<'_>) -> PyResult<()> {
        // Nothing is waited for: it has ended, or this says that it has not.
        self.core(py)?.wait(Duration::ZERO).or_raise(py)
    }

    /// "prepared", "active", "stalled", "done", "failed" or "cancelled".
    #[getter]
    fn status(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(word(&self.core(py)?.status()))
    }

    /// Whether it ended, well or not.
    #[getter]
    fn ended(&self, py: Python<'_>) -> PyResult<bool> {
        let status = self.core(py)?.status();
        Ok(!matches!(
            status,
            Status::Prepared | Status::Active | Status::Stalled
        ))
    }

    /// Asks for an early end. It ends as "cancelled", or as it would have, once no late access can
    /// land.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        let request = self.core(py)?;
        py.detach(|| request.cancel());
        Ok(())
    }

    /// The account of the last completed post; None before.
    #[getter]
    fn receipt(&self, py: Python<'_>) -> PyResult<Option<Receipt>> {
        Ok(self.core(py)?.receipt().map(Receipt))
    }

    /// Bytes that the present or last post has moved so far.
    #[getter]
    fn moved(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.core(py)?.moved())
    }

    /// The peer's name.
    #[getter]
    fn peer(&self) -> &str {
        self.request.peer()
    }

    /// "read" or "write".
    #[getter]
    fn op(&self) -> &'static str {
        self.request.plan().op().as_str()
    }

    /// Bytes to move.
    #[getter]
    fn nbytes(&self) -> u64 {
        self.request.plan().bytes()
    }

    /// Blocks asked for.
    #[getter]
    fn descriptors(&self) -> u64 {
        self.request.plan().asked()
    }

    /// Blocks left after merging adjacent ones.
    #[getter]
    fn merged(&self) -> u64 {
        self.request.plan().merged()
    }

    /// A source of events that tells of its end. For event loops.
    fn events(&self, py: Python<'_>) -> PyResult<Events> {
        self.agent.new_events().or_raise(py)
    }

    /// A number that the objects of its agent share.
    #[getter]
    fn _key(&self) -> usize {
        Arc::as_ptr(&self.agent) as usize
    }

    fn __await__(this: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        let waiting = this.py().import("nixl_rs._aio")?;
        waiting
            .call_method1("ended", (this,))?
            .call_method0("__await__")
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    /// Cancels it if it is active, and waits until nothing touches its memory.
    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.is_active() {
            self.cancel(py)?;
            self.settle(py, None)?;
        }
        Ok(())
    }

    fn __repr__(&self) -> String {
        let Ok(request) = self.request.get() else {
            return "<Request of a process that was forked>".to_owned();
        };
        let plan = request.plan();
        let status = request.status();
        let more = match &status {
            Status::Failed(error) => format!(": {error}"),
            Status::Active | Status::Stalled => format!(", {} bytes moved", request.moved()),
            _ => String::new(),
        };
        format!(
            "<Request: {} of {} bytes in {} blocks, peer {:?}, {}{more}>",
            plan.op().as_str(),
            plan.bytes(),
            plan.merged(),
            request.peer(),
            word(&status)
        )
    }
}

fn word(status: &Status) -> &'static str {
    match status {
        Status::Prepared => "prepared",
        Status::Active => "active",
        Status::Stalled => "stalled",
        Status::Done => "done",
        Status::Failed(_) => "failed",
        Status::Cancelled => "cancelled",
    }
}
