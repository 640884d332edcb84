//! The agent.

use std::sync::Arc;

use nixl::{
    Op, PeerAccess, Select,
    p2p::{self, NixlListener},
};
use pyo3::{
    prelude::*,
    types::{PyBytes, PyDict, PyList},
};

use crate::{
    buffer,
    config::configuration,
    descs::{indices, with_list},
    error::{OrRaise, misuse},
    events::Events,
    explain::{self, Explanation},
    fork::Kept,
    inner::{Inner, SLICE},
    memory::PyOwner,
    notification::Notification,
    prepared::{PreparedLocal, PreparedRemote},
    region::Region,
    request::Request,
    seconds,
};

/// A named endpoint with its memory, backends and peers. Thread-safe; several may live in one
/// process. `close()` it, or use it in a `with` statement.
#[pyclass(module = "nixl_rs", frozen, weakref)]
pub(crate) struct Agent {
    inner: Arc<Inner>,
}

#[pymethods]
impl Agent {
    #[new]
    #[pyo3(signature = (name, config = None))]
    fn new(py: Python<'_>, name: &str, config: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        crate::start_logging();
        let config = configuration(py, config)?;
        let agent = py.detach(|| config.agent(name)?.build()).or_raise(py)?;
        Ok(Self {
            inner: Inner::new(name, agent),
        })
    }

    /// Its name.
    #[getter]
    fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its random number: another agent of the same name has another.
    #[getter]
    fn generation(&self, py: Python<'_>) -> PyResult<u64> {
        let generation = |agent: &Arc<nixl::Agent>| Ok(agent.generation().0);
        self.inner.with(generation).or_raise(py)
    }

    /// Whether `close` was called.
    #[getter]
    fn closed(&self) -> bool {
        self.inner.is_closed()
    }

    // --- memory ---

    /// Allocates and registers zeroed host memory that peers on this host can map: the memory for
    /// the fastest same-host path.
    #[pyo3(signature = (nbytes, *, huge_pages = false, read_only = false))]
    fn allocate(
        &self,
        py: Python<'_>,
        nbytes: u64,
        huge_pages: bool,
        read_only: bool,
    ) -> PyResult<Region> {
        let pages = match huge_pages {
            true => nixl::HugePages::Try,
            false => nixl::HugePages::No,
        };
        let region = self.inner.detached(py, |agent| {
            agent.allocate_with(nbytes, pages, access(read_only))
        })?;
        Ok(Region::new(&self.inner, region))
    }

    /// Registers the memory of an object, which stays alive and in place until it is released: a
    /// torch tensor, or anything with the buffer protocol or DLPack.
    #[pyo3(signature = (obj, *, read_only = false))]
    fn register(
        &self,
        py: Python<'_>,
        obj: &Bound<'_, PyAny>,
        read_only: bool,
    ) -> PyResult<Region> {
        let owner = PyOwner::of(obj, !read_only)?;
        self.register_owner(py, owner, read_only)
    }

    /// Registers memory at an address. It must stay allocated until it is released or the agent is
    /// closed; `owner` is kept alive until then, and nothing is checked.
    #[pyo3(signature = (address, nbytes, *, owner = None, read_only = false))]
    fn register_address(
        &self,
        py: Python<'_>,
        address: u64,
        nbytes: u64,
        owner: Option<Py<PyAny>>,
        read_only: bool,
    ) -> PyResult<Region> {
        self.register_owner(py, PyOwner::vouched(address, nbytes, owner), read_only)
    }

    // --- peers ---

    /// Everything a peer needs to reach this agent. Give it only to agents that may read and write
    /// the registered memory.
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let blob = self.inner.detached(py, |agent| agent.metadata())?;
        Ok(PyBytes::new(py, &blob))
    }

    /// Some regions only, for a peer that knows this agent already or, with `with_card`, does not.
    #[pyo3(signature = (regions, *, with_card = false))]
    fn partial_metadata<'py>(
        &self,
        py: Python<'py>,
        regions: Vec<Bound<'py, Region>>,
        with_card: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let regions = cores(py, &regions)?;
        let blob = self
            .inner
            .detached(py, |agent| agent.partial_metadata(&regions, with_card))?;
        Ok(PyBytes::new(py, &blob))
    }

    /// Tells a peer that regions are gone; with none, that this agent is going.
    fn withdrawal<'py>(
        &self,
        py: Python<'py>,
        regions: Vec<Bound<'py, Region>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let regions = cores(py, &regions)?;
        let blob = self
            .inner
            .detached(py, |agent| agent.withdrawal(&regions))?;
        Ok(PyBytes::new(py, &blob))
    }

    /// Loads or updates a peer from its metadata; returns its name.
    fn load_metadata(&self, py: Python<'_>, blob: &Bound<'_, PyAny>) -> PyResult<String> {
        let blob = buffer::to_vec(blob)?;
        self.inner.detached(py, |agent| agent.load_metadata(&blob))
    }

    /// Connects to a peer now, so that the first request need not wait.
    #[pyo3(signature = (peer, timeout = 5.0))]
    fn connect(&self, py: Python<'_>, peer: &str, timeout: f64) -> PyResult<()> {
        let timeout = seconds(timeout)?;
        self.inner
            .detached(py, |agent| agent.connect(peer, timeout))
    }

    /// Tries every path to a peer, so that `explain` shows what works.
    #[pyo3(signature = (peer, op = "read", timeout = 5.0))]
    fn prove(&self, py: Python<'_>, peer: &str, op: &str, timeout: f64) -> PyResult<()> {
        let (op, timeout) = (direction(op)?, seconds(timeout)?);
        self.inner.detached(py, |agent| {
            // What cannot be reached stands in the explanation, with its reason.
            agent.connect(peer, timeout).ok();
            agent.prove(peer, op, timeout)
        })
    }

    /// Forgets a peer: its requests end with PeerGoneError.
    fn remove_peer(&self, py: Python<'_>, peer: &str) -> PyResult<()> {
        self.inner.detached(py, |agent| agent.remove_peer(peer))
    }

    /// Names of the peers that are loaded, sorted.
    fn peers(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.inner.with(|agent| Ok(agent.peers())).or_raise(py)
    }

    /// The paths to a peer for a transfer, best first, with the reason for each one rejected.
    #[pyo3(signature = (peer, op = "read", *, nbytes = 1 << 20, blocks = 1, shareable = true))]
    fn explain(
        &self,
        py: Python<'_>,
        peer: &str,
        op: &str,
        nbytes: u64,
        blocks: u64,
        shareable: bool,
    ) -> PyResult<Explanation> {
        let demand = explain::demand(direction(op)?, nbytes, blocks, shareable);
        let found = self
            .inner
            .detached(py, |agent| agent.explain(peer, &demand))?;
        Ok(Explanation::new(found))
    }

    // --- transfers ---

    /// Resolves blocks of this agent's memory once, for use in many requests.
    fn prepare_local(&self, py: Python<'_>, blocks: &Bound<'_, PyAny>) -> PyResult<PreparedLocal> {
        with_list(blocks, |list| {
            let made = self.inner.detached(py, |agent| agent.prepare_local(list))?;
            Ok(PreparedLocal(Kept::new(made)))
        })
    }

    /// Resolves blocks of a peer's memory once, for use in many requests.
    fn prepare_remote(
        &self,
        py: Python<'_>,
        peer: &str,
        blocks: &Bound<'_, PyAny>,
    ) -> PyResult<PreparedRemote> {
        with_list(blocks, |list| {
            let made = self
                .inner
                .detached(py, |agent| agent.prepare_remote(peer, list))?;
            Ok(PreparedRemote(Kept::new(made)))
        })
    }

    /// Prepares a transfer: `op` is "read" (the peer's memory into ours) or "write".
    ///
    /// Both sides are prepared lists, or what `Descriptors` takes; then `peer` is needed.
    #[pyo3(signature = (op, local, remote, *, peer = None, local_indices = None, remote_indices = None))]
    #[allow(clippy::too_many_arguments)] // keywords in Python
    fn request(
        &self,
        py: Python<'_>,
        op: &str,
        local: &Bound<'_, PyAny>,
        remote: &Bound<'_, PyAny>,
        peer: Option<&str>,
        local_indices: Option<&Bound<'_, PyAny>>,
        remote_indices: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Request> {
        let op = direction(op)?;
        let local = match local.cast::<PreparedLocal>() {
            Ok(made) => made.clone(),
            Err(_) => Bound::new(py, self.prepare_local(py, local)?)?,
        };
        let remote = match (remote.cast::<PreparedRemote>(), peer) {
            (Ok(made), _) => made.clone(),
            (Err(_), Some(peer)) => Bound::new(py, self.prepare_remote(py, peer, remote)?)?,
            (Err(_), None) => return Err(misuse("peer= is needed where `remote` is not prepared")),
        };
        let (here, there) = (indices(local_indices)?, indices(remote_indices)?);
        let local = local.get().0.get().or_raise(py)?;
        let remote = remote.get().0.get().or_raise(py)?;
        let made = self.inner.detached(py, |agent| {
            agent.request(op, local, chosen(&here), remote, chosen(&there))
        })?;
        Ok(Request::new(&self.inner, made))
    }

    // --- notifications ---

    /// Sends bytes to a peer, after everything that became deliverable before.
    fn notify(&self, py: Python<'_>, peer: &str, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = buffer::to_vec(data)?;
        self.inner.detached(py, |agent| agent.notify(peer, &data))
    }

    /// Takes all notifications that have arrived, oldest first.
    fn notifications(&self, py: Python<'_>) -> PyResult<Vec<Notification>> {
        let taken = self.inner.with(|agent| Ok(agent.notifications()));
        let taken = taken.or_raise(py)?;
        Ok(taken.into_iter().map(Notification).collect())
    }

    /// Takes all notifications into a dict of lists, by sender.
    fn _notifications_into<'py>(
        &self,
        py: Python<'py>,
        into: Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let taken = self.inner.with(|agent| Ok(agent.notifications()));
        for got in taken.or_raise(py)? {
            let list = match into.get_item(&*got.from)? {
                Some(list) => list.cast_into::<PyList>()?,
                None => {
                    let list = PyList::empty(py);
                    into.set_item(&*got.from, &list)?;
                    list
                }
            };
            list.append(PyBytes::new(py, &got.data))?;
        }
        Ok(into)
    }

    /// Takes the oldest notification, waiting for one if there is none; None at the timeout.
    #[pyo3(signature = (timeout = None))]
    fn wait_notification(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
    ) -> PyResult<Option<Notification>> {
        let mut left = timeout.map(seconds).transpose()?;
        loop {
            let slice = left.map_or(SLICE, |left| left.min(SLICE));
            let got = self
                .inner
                .detached(py, |agent| Ok(agent.wait_notification(slice)))?;
            py.check_signals()?;
            if let Some(got) = got {
                return Ok(Some(Notification(got)));
            }
            if let Some(left) = &mut left {
                *left -= slice;
                if left.is_zero() {
                    return Ok(None);
                }
            }
        }
    }

    // --- events ---

    /// A new source of events for an event loop, independent of all others.
    fn events(&self, py: Python<'_>) -> PyResult<Events> {
        self.inner.new_events().or_raise(py)
    }

    /// A file descriptor that is readable when a request ended or a notification arrived since the
    /// last `drain()`: for select, epoll and event loops.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        Ok(self.own_events(py)?.get().fileno())
    }

    /// Takes the events that made `fileno()` readable; true if there were any.
    fn drain(&self, py: Python<'_>) -> PyResult<bool> {
        self.own_events(py)?.get().drain(py)
    }

    /// Takes the oldest notification, awaiting one if there is none.
    fn next_notification(this: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        let waiting = this.py().import("nixl_rs._aio")?;
        waiting.call_method1("next_notification", (this,))
    }

    /// A number that the objects of this agent share.
    #[getter]
    fn _key(&self) -> usize {
        Arc::as_ptr(&self.inner) as usize
    }

    /// Answers NIXL's metadata calls on `port`; returns the port bound.
    fn _listen_for_nixl(&self, py: Python<'_>, port: u16) -> PyResult<u16> {
        let listener = self
            .inner
            .detached(py, |agent| NixlListener::start(agent, port))?;
        let bound = listener.local_addr().port();
        *self.inner.listener.lock() = Some(listener);
        Ok(bound)
    }

    /// Makes one of NIXL's metadata calls at `address`: "send" (all, or some regions), "fetch" or
    /// "invalidate".
    #[pyo3(signature = (call, address, regions = None))]
    fn _call_nixl(
        &self,
        py: Python<'_>,
        call: &str,
        address: &str,
        regions: Option<Vec<Bound<'_, Region>>>,
    ) -> PyResult<()> {
        let regions = regions.map(|some| cores(py, &some)).transpose()?;
        self.inner.detached(py, |agent| match call {
            "send" => p2p::send(agent, address, regions.as_deref()),
            "fetch" => p2p::fetch(agent, address).map(drop),
            _ => p2p::invalidate(agent, address),
        })
    }

    /// Advances the work by a millisecond at most. Needed only with `copy_threads = 0`.
    #[pyo3(signature = (wait = 0.0))]
    fn progress(&self, py: Python<'_>, wait: f64) -> PyResult<bool> {
        let wait = seconds(wait)?.min(SLICE);
        self.inner.detached(py, |agent| Ok(agent.progress(wait)))
    }

    /// Everything it counts, as plain data.
    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let snapshot = self.inner.with(|agent| Ok(agent.snapshot()));
        explain::snapshot(py, &snapshot.or_raise(py)?)
    }

    /// Stops posts, cancels what is active, withdraws the memory from peers and ends the threads.
    #[pyo3(signature = (timeout = 5.0))]
    fn close(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        let timeout = seconds(timeout)?;
        py.detach(|| self.inner.close(timeout)).or_raise(py)
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close(py, 5.0)
    }

    fn __repr__(&self) -> String {
        let shown = self.inner.with(|agent| {
            let counts = agent.snapshot();
            Ok(format!(
                "peers [{}], {} active requests",
                agent.peers().join(", "),
                counts.active_requests
            ))
        });
        let shown = shown.unwrap_or_else(|error| error.message().to_owned());
        format!("<Agent {:?}: {shown}>", self.inner.name)
    }
}

impl Agent {
    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    fn register_owner(&self, py: Python<'_>, owner: PyOwner, read_only: bool) -> PyResult<Region> {
        let region = self
            .inner
            .detached(py, |agent| agent.register_with(owner, access(read_only)))?;
        Ok(Region::new(&self.inner, region))
    }

    fn own_events<'py>(&'py self, py: Python<'py>) -> PyResult<&'py Py<Events>> {
        if let Some(events) = self.inner.events.get() {
            return Ok(events);
        }
        let made = Py::new(py, self.events(py)?)?;
        Ok(self.inner.events.get_or_init(|| made))
    }
}

fn access(read_only: bool) -> PeerAccess {
    match read_only {
        true => PeerAccess::ReadOnly,
        false => PeerAccess::ReadWrite,
    }
}

fn direction(op: &str) -> PyResult<Op> {
    match op {
        "read" | "READ" => Ok(Op::Read),
        "write" | "WRITE" => Ok(Op::Write),
        _ => Err(misuse(format!("{op:?} is no operation: read or write"))),
    }
}

pub(crate) fn chosen(indices: &Option<Vec<u32>>) -> Select<'_> {
    indices.as_deref().map_or(Select::All, Select::Indices)
}

pub(crate) fn cores(py: Python<'_>, regions: &[Bound<'_, Region>]) -> PyResult<Vec<nixl::Region>> {
    let core = |region: &Bound<'_, Region>| region.get().core().cloned().or_raise(py);
    regions.iter().map(core).collect()
}
