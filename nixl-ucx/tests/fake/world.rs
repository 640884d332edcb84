//! A libucp in Rust: workers of one process, which reach each other by their number.
//!
//! Handles are numbers, never pointers to anything. Nothing happens outside of
//! `ucp_worker_progress`. What UCX would do to memory is done as late as possible, and checked:
//! an operation whose local registration is gone by then aborts the test.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    os::fd::{AsRawFd, OwnedFd},
    sync::{Mutex, MutexGuard},
};

use rustix::event::{EventfdFlags, eventfd};
use ucx_sys::{
    ucp_am_recv_callback_t, ucp_err_handler_cb_t, ucp_send_nbx_callback_t, ucs_status_t,
};

/// What goes wrong.
#[derive(Default)]
pub(crate) struct Faults {
    /// So many one-sided operations are refused for lack of room.
    pub(crate) no_resource: usize,
    /// So many are taken, and the next one is refused for this reason.
    pub(crate) refuse_after: Option<(usize, ucs_status_t)>,
    /// Operations are taken and not carried out.
    pub(crate) hold: bool,
    /// Those to this worker are not either, nor do they end with their endpoint: they end late.
    pub(crate) stuck: Option<usize>,
    /// What operations of more bytes than a probe end with, in place of their own status.
    pub(crate) status: Option<ucs_status_t>,
    /// So many attempts to arm a worker find it busy.
    pub(crate) busy_arms: usize,
    /// No key can be unpacked.
    pub(crate) refuse_keys: bool,
    /// No memory can be registered, for this reason.
    pub(crate) map: Option<ucs_status_t>,
    /// No worker can be made, for this reason.
    pub(crate) worker: Option<ucs_status_t>,
    /// No endpoint can be made, for this reason.
    pub(crate) connect: Option<ucs_status_t>,
    /// Who is stopped does not hear that the other end of an endpoint was closed.
    pub(crate) stopped: bool,
    /// Why endpoints break; `None`: their peer closed them.
    pub(crate) breach: Option<ucs_status_t>,
}

/// A C function's argument, as a number.
pub(crate) type Pointer = usize;

/// How the caller wants to hear of the end.
#[derive(Clone, Copy)]
pub(crate) struct Callback {
    pub(crate) request: usize,
    pub(crate) call: ucp_send_nbx_callback_t,
    pub(crate) data: Pointer,
}

/// A one-sided operation that was taken.
#[derive(Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) endpoint: usize,
    /// The worker at its other end.
    pub(crate) peer: usize,
    pub(crate) get: bool,
    pub(crate) local: Pointer,
    pub(crate) len: usize,
    pub(crate) memory: usize,
    pub(crate) remote: Pointer,
    pub(crate) key: usize,
    pub(crate) callback: Callback,
}

/// Something that `progress` does.
pub(crate) enum Work {
    Message {
        id: u32,
        head: Vec<u8>,
        body: Vec<u8>,
        /// The receiver's endpoint to the sender, if it may answer.
        reply: Option<usize>,
    },
    Done(Callback, ucs_status_t),
    Failed(usize),
}

pub(crate) struct Worker {
    pub(crate) handlers: HashMap<u32, (ucp_am_recv_callback_t, Pointer)>,
    pub(crate) work: VecDeque<Work>,
    pub(crate) operations: VecDeque<Operation>,
    pub(crate) bell: OwnedFd,
}

pub(crate) struct Endpoint {
    pub(crate) worker: usize,
    pub(crate) peer: usize,
    pub(crate) handler: ucp_err_handler_cb_t,
    pub(crate) argument: Pointer,
    pub(crate) broken: bool,
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) faults: Faults,
    /// There is CMA in place of RDMA.
    pub(crate) cma: bool,
    next: usize,
    pub(crate) workers: HashMap<usize, Worker>,
    pub(crate) endpoints: HashMap<usize, Endpoint>,
    /// Registered memory: address and length.
    pub(crate) memory: HashMap<usize, (Pointer, usize)>,
    /// Unpacked keys, each with the registration that it leads to.
    pub(crate) keys: HashMap<usize, usize>,
    pub(crate) contexts: HashSet<usize>,
    pub(crate) requests: HashSet<usize>,
    /// Registration and key that each request uses until its callback begins.
    pub(crate) uses: HashMap<usize, (usize, usize)>,
}

static WORLD: Mutex<Option<World>> = Mutex::new(None);

/// The world, for a moment: callbacks are called without it.
pub(crate) fn with<T>(look: impl FnOnce(&mut World) -> T) -> T {
    let mut world: MutexGuard<'_, _> = WORLD.lock().unwrap_or_else(|e| e.into_inner());
    look(world.get_or_insert_default())
}

impl World {
    /// A number that nothing had before; as a pointer it is neither null nor a status.
    pub(crate) fn number(&mut self) -> usize {
        self.next += 1;
        0x1_0000 + self.next * 16
    }

    pub(crate) fn add_worker(&mut self) -> usize {
        let number = self.number();
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let worker = Worker {
            handlers: HashMap::new(),
            work: VecDeque::new(),
            operations: VecDeque::new(),
            bell: bell.expect("an eventfd can be had"),
        };
        self.workers.insert(number, worker);
        number
    }

    pub(crate) fn bell(&self, worker: usize) -> i32 {
        self.workers[&worker].bell.as_raw_fd()
    }

    /// Something happens at a worker, if it lives.
    pub(crate) fn at(&mut self, worker: usize, work: Work) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.work.push_back(work);
            let _ = rustix::io::write(&worker.bell, &1u64.to_ne_bytes());
        }
    }

    /// What was made and not given back yet, for an assertion.
    pub(crate) fn left(&self) -> String {
        let kinds = [
            ("contexts", self.contexts.len()),
            ("workers", self.workers.len()),
            ("registrations", self.memory.len()),
            ("keys", self.keys.len()),
        ];
        let left = kinds.iter().filter(|(_, count)| *count > 0);
        left.map(|(what, count)| format!("{count} {what} "))
            .collect()
    }

    /// Requests that use this registration or key.
    pub(crate) fn users_of(&self, handle: usize) -> usize {
        let uses = self.uses.values();
        uses.filter(|(m, k)| *m == handle || *k == handle).count()
    }

    /// Why a one-sided operation is refused at once, if it is.
    pub(crate) fn refusal(&mut self) -> Option<ucs_status_t> {
        let faults = &mut self.faults;
        if faults.no_resource > 0 {
            faults.no_resource -= 1;
            return Some(ucs_status_t::UCS_ERR_NO_RESOURCE);
        }
        match &mut faults.refuse_after {
            None => None,
            Some((0, _)) => faults.refuse_after.take().map(|(_, status)| status),
            Some((more, _)) => {
                *more -= 1;
                None
            }
        }
    }

    /// Wakes every worker.
    pub(crate) fn ring(&self) {
        for worker in self.workers.values() {
            let _ = rustix::io::write(&worker.bell, &1u64.to_ne_bytes());
        }
    }

    /// Whether a worker has something to do.
    pub(crate) fn is_busy(&self, worker: usize) -> bool {
        let found = &self.workers[&worker];
        !found.work.is_empty() || found.operations.iter().any(|op| self.may_go(op))
    }

    /// Whether an operation may be carried out.
    fn may_go(&self, op: &Operation) -> bool {
        !self.faults.hold && self.faults.stuck != Some(op.peer)
    }

    /// Takes the next operation that may be carried out.
    pub(crate) fn next_operation(&mut self, worker: usize) -> Option<Operation> {
        let operations = &self.workers[&worker].operations;
        let at = operations.iter().position(|op| self.may_go(op))?;
        self.workers.get_mut(&worker)?.operations.remove(at)
    }

    /// Once a worker has closed its last endpoint to another, those that lead back break.
    pub(crate) fn closed(&mut self, gone: &Endpoint) {
        let leads = |e: &Endpoint, from: usize, to: usize| {
            e.handler.is_some() && e.worker == from && e.peer == to
        };
        let (from, to) = (gone.worker, gone.peer);
        let mut others = self.endpoints.values();
        if !self.faults.stopped && !others.any(|e| leads(e, from, to)) {
            self.break_endpoints(|e| leads(e, to, from));
        }
    }

    /// Breaks every endpoint of a worker, as if its peers had died.
    pub(crate) fn break_endpoints(&mut self, of: impl Fn(&Endpoint) -> bool) {
        let found = self.endpoints.iter().filter(|(_, e)| of(e));
        let found: Vec<_> = found.map(|(number, _)| *number).collect();
        for number in found {
            self.break_endpoint(number);
        }
    }

    /// Breaks an endpoint, as if its peer had died or closed it.
    pub(crate) fn break_endpoint(&mut self, number: usize) {
        let Some(endpoint) = self.endpoints.get_mut(&number).filter(|e| !e.broken) else {
            return;
        };
        endpoint.broken = true;
        let worker = endpoint.worker;
        self.at(worker, Work::Failed(number));
        self.cancel(number);
    }

    /// Ends what is under way on an endpoint.
    pub(crate) fn cancel(&mut self, endpoint: usize) {
        let Some(worker) = self.endpoints.get(&endpoint).map(|e| e.worker) else {
            return;
        };
        let Some(found) = self.workers.get_mut(&worker) else {
            return;
        };
        let stuck = self.faults.stuck;
        let mine = |op: &Operation| op.endpoint == endpoint && stuck != Some(op.peer);
        let ended: Vec<_> = found.operations.iter().copied().filter(mine).collect();
        found.operations.retain(|op| !mine(op));
        for op in ended {
            let status = ucs_status_t::UCS_ERR_CANCELED;
            self.at(worker, Work::Done(op.callback, status));
        }
    }

    /// The worker that reaches `peer` from `worker` backwards: any endpoint will do to answer on.
    pub(crate) fn way_back(&mut self, from: usize, to: usize) -> usize {
        let number = self.number();
        let endpoint = Endpoint {
            worker: from,
            peer: to,
            handler: None,
            argument: 0,
            broken: false,
        };
        self.endpoints.insert(number, endpoint);
        number
    }
}
