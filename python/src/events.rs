//! Events for select, epoll and asyncio.
//!
//! The agent has one eventfd. Nobody reads it: each [`Events`] watches it with an epoll instance of
//! its own, edge-triggered, so that what one consumer takes is not lost to another.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Weak},
};

use nixl::Error;
use pyo3::prelude::*;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

use crate::error::OrRaise;

/// Wakes the consumer of an [`Events`].
pub(crate) struct Wake(OwnedFd);

impl Wake {
    pub(crate) fn up(&self) {
        // It can fail only once it was woken 2^64 - 2 times.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

/// A file descriptor that is readable when something happened at the agent since the last `drain()`.
#[pyclass(module = "nixl_rs", frozen)]
pub(crate) struct Events {
    epoll: OwnedFd,
    wake: Arc<Wake>,
}

impl Events {
    pub(crate) fn of(agent: &nixl::Agent) -> nixl::Result<Self> {
        let failed = |call| move |e| Error::os(call, e);
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(failed("eventfd (see ulimit -n)"))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(failed("epoll_create1 (see ulimit -n)"))?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(0);
        epoll::add(&epoll, agent.event_fd()?, data, edge).map_err(failed("epoll_ctl"))?;
        epoll::add(&epoll, &wake, data, edge).map_err(failed("epoll_ctl"))?;
        Ok(Self {
            epoll,
            wake: Arc::new(Wake(wake)),
        })
    }

    pub(crate) fn wake(&self) -> Weak<Wake> {
        Arc::downgrade(&self.wake)
    }
}

#[pymethods]
impl Events {
    /// The file descriptor. It is closed with this object.
    pub(crate) fn fileno(&self) -> i32 {
        self.epoll.as_raw_fd()
    }

    /// Takes the events; true if there were any.
    pub(crate) fn drain(&self, py: Python<'_>) -> PyResult<bool> {
        let mut events = Vec::with_capacity(2);
        let none = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let waited = epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&none),
        );
        let waited = waited.map_err(|e| Error::os("epoll_wait", e)).or_raise(py);
        Ok(waited? > 0)
    }

    fn __repr__(&self) -> String {
        format!("<Events on file descriptor {}>", self.fileno())
    }
}
