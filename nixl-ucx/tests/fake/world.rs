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
    /// Operations are taken and not carried out.
    pub(crate) hold: bool,
    /// What operations end with, in place of their own status.
    pub(crate) status: Option<ucs_status_t>,
    /// So many attempts to arm a worker find it busy.
    pub(crate) busy_arms: usize,
    /// No key can be unpacked.
    pub(crate) refuse_keys: bool,
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
    next: usize,
    pub(crate) workers: HashMap<usize, Worker>,
    pub(crate) endpoints: HashMap<usize, Endpoint>,
    /// Registered memory: address and length.
    pub(crate) memory: HashMap<usize, (Pointer, usize)>,
    /// Unpacked keys, each with the registration that it leads to.
    pub(crate) keys: HashMap<usize, usize>,
    pub(crate) contexts: HashSet<usize>,
    pub(crate) requests: HashSet<usize>,
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

    /// Wakes every worker.
    pub(crate) fn ring(&self) {
        for worker in self.workers.values() {
            let _ = rustix::io::write(&worker.bell, &1u64.to_ne_bytes());
        }
    }

    /// Whether a worker has something to do.
    pub(crate) fn is_busy(&self, worker: usize) -> bool {
        let worker = &self.workers[&worker];
        !worker.work.is_empty() || (!self.faults.hold && !worker.operations.is_empty())
    }

    /// Breaks every endpoint of a worker, as if its peers had died.
    pub(crate) fn break_endpoints(&mut self, of: impl Fn(&Endpoint) -> bool) {
        let found = self
            .endpoints
            .iter_mut()
            .filter(|(_, e)| !e.broken && of(e));
        let broken: Vec<_> = found
            .map(|(number, endpoint)| {
                endpoint.broken = true;
                (*number, endpoint.worker)
            })
            .collect();
        for (number, worker) in broken {
            self.at(worker, Work::Failed(number));
            self.cancel(number);
        }
    }

    /// Ends what is under way on an endpoint.
    pub(crate) fn cancel(&mut self, endpoint: usize) {
        let Some(worker) = self.endpoints.get(&endpoint).map(|e| e.worker) else {
            return;
        };
        let Some(found) = self.workers.get_mut(&worker) else {
            return;
        };
        let mine = |op: &Operation| op.endpoint == endpoint;
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
