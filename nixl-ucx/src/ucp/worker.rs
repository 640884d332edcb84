//! Workers and what belongs to one: endpoints, remote keys, operations.

use std::{ffi::c_void, fs::File, os::fd::BorrowedFd, ptr, sync::Arc};

use bytes::Bytes;
use nixl_core::{Error, ErrorKind, Result, error::fail};
use parking_lot::{Mutex, ReentrantMutex, ReentrantMutexGuard};
use ucx_sys as sys;

use super::{
    Api, Context, Status,
    am::{Receiver, Reply, Sink},
    endpoint::{Endpoint, RemoteKey, Watcher},
    rndv::Promise,
    status::forget_words,
};

/// A worker: one set of transports, their progress, and the address under which peers find them.
#[derive(Clone)]
pub(crate) struct Worker(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) raw: sys::ucp_worker_h,
    /// UCX wants one thread at a time inside of a worker.
    lock: ReentrantMutex<()>,
    /// What was dropped outside of the worker's turn, to be freed inside.
    graves: Mutex<Vec<Grave>>,
    pub(super) sink: Arc<dyn Sink>,
    /// UCX holds their addresses: the slice is never replaced.
    receivers: Box<[Receiver]>,
    pub(super) context: Context,
}

// SAFETY: INV-6, `raw` is used only under `lock`, and its worker was created for use by one thread
// at a time, whichever it is (UCS_THREAD_MODE_SERIALIZED).
unsafe impl Send for Inner {}
// SAFETY: INV-6, as above.
unsafe impl Sync for Inner {}

pub(super) enum Grave {
    Endpoint(sys::ucp_ep_h, Box<Watcher>),
    Key(sys::ucp_rkey_h),
}

// SAFETY: INV-6, the pointers are used only by whoever holds the worker's lock.
unsafe impl Send for Grave {}

/// Exclusive use of a worker by this thread.
pub(crate) struct Entered<'a> {
    pub(super) inner: &'a Arc<Inner>,
    _lock: ReentrantMutexGuard<'a, ()>,
}

/// File descriptors of a worker, and of each transport and device.
const DESCRIPTORS: [usize; 2] = [8, 4];

/// Errors with `Exhausted` where a worker may run out of descriptors while it is made. UCX 1.22 does
/// not come back from that: its clean-up waits for a lock that was not made yet.
fn check_descriptors(resources: usize) -> Result<()> {
    let wanted = DESCRIPTORS[0] + DESCRIPTORS[1] * resources;
    let spare = std::iter::from_fn(|| File::open("/").ok());
    let spare = spare.take(wanted).collect::<Vec<_>>().len();
    if spare == wanted {
        return Ok(());
    }
    Err(fail(
        ErrorKind::Exhausted,
        format!(
            "a UCX worker needs {wanted} file descriptors and this process may open {spare} more: \
             raise the limit (ulimit -n)"
        ),
    ))
}

impl Worker {
    /// Makes a worker and drops it: what a machine lacks is seen while the agent can still go on
    /// with other backends.
    ///
    /// Errors: as [`Worker::new`].
    pub(crate) fn check(context: &Context) -> Result<()> {
        struct Nobody;
        impl Sink for Nobody {
            fn received(&self, _: u32, _: &[u8], _: &[u8], _: &Reply<'_>) {}
            fn promised(&self, _: u32, _: &[u8], _: Promise) -> bool {
                false
            }
            fn failed(&self, _: u64, _: Status) {}
        }
        Self::new(context, Arc::new(Nobody), &[]).map(drop)
    }

    /// A worker that hands active messages with number `ids` to `sink`.
    pub(crate) fn new(context: &Context, sink: Arc<dyn Sink>, ids: &[u32]) -> Result<Self> {
        let api = context.api();
        check_descriptors(context.resources().len())?;
        forget_words();
        // SAFETY: INV-5, a plain C structure in which zero means that no field is set.
        let mut params: sys::ucp_worker_params_t = unsafe { std::mem::zeroed() };
        params.field_mask = sys::ucp_worker_params_field::UCP_WORKER_PARAM_FIELD_THREAD_MODE
            .0
            .into();
        params.thread_mode = sys::ucs_thread_mode_t::UCS_THREAD_MODE_SERIALIZED;
        let mut raw = ptr::null_mut();
        // SAFETY: INV-5, the context lives, `params` and `raw` outlive the call.
        let status = unsafe { (api.fns().ucp_worker_create)(context.raw(), &params, &mut raw) };
        Status::of(status).ok().map_err(|s| {
            s.error(
                api,
                "creating a UCX worker (its queues are pinned: see ulimit -l)",
            )
        })?;
        let receivers = ids.iter().map(|id| Receiver::new(*id, raw, api, &sink));
        let worker = Self(Arc::new(Inner {
            raw,
            lock: ReentrantMutex::new(()),
            graves: Mutex::default(),
            receivers: receivers.collect(),
            sink,
            context: context.clone(),
        }));
        for receiver in &*worker.0.receivers {
            receiver.install(api)?;
        }
        Ok(worker)
    }

    /// Takes the worker for this thread. Blocks while another thread has it.
    pub(crate) fn enter(&self) -> Entered<'_> {
        let lock = self.0.lock.lock();
        let entered = Entered {
            inner: &self.0,
            _lock: lock,
        };
        forget_words();
        entered.bury();
        entered
    }

    /// The address that peers connect to.
    pub(crate) fn address(&self) -> Result<Bytes> {
        let _entered = self.enter();
        let api = self.0.api();
        // SAFETY: INV-5, a plain C structure in which zero means that no field is set.
        let mut attr: sys::ucp_worker_attr_t = unsafe { std::mem::zeroed() };
        attr.field_mask = sys::ucp_worker_attr_field::UCP_WORKER_ATTR_FIELD_ADDRESS
            .0
            .into();
        // SAFETY: INV-5, the worker lives, `attr` outlives the call.
        let status = unsafe { (api.fns().ucp_worker_query)(self.0.raw, &mut attr) };
        Status::of(status)
            .ok()
            .map_err(|s| s.error(api, "asking for a UCX worker's address"))?;
        let (raw, len) = (attr.address, attr.address_length);
        // SAFETY: INV-5, UCX says that `len` bytes stand there until they are released below.
        let address = unsafe { std::slice::from_raw_parts(raw.cast::<u8>().cast_const(), len) };
        let address = Bytes::copy_from_slice(address);
        // SAFETY: INV-5, the address that the call above made, released once.
        unsafe { (api.fns().ucp_worker_release_address)(self.0.raw, raw) };
        Ok(address)
    }

    /// Becomes readable when the worker, once armed, has something to do.
    pub(crate) fn wake_fd(&self) -> Result<BorrowedFd<'_>> {
        let _entered = self.enter();
        let api = self.0.api();
        let mut fd = -1;
        // SAFETY: INV-5, the worker lives, `fd` outlives the call.
        let status = unsafe { (api.fns().ucp_worker_get_efd)(self.0.raw, &mut fd) };
        Status::of(status)
            .ok()
            .map_err(|s| s.error(api, "asking for a UCX worker's wake-up fd"))?;
        if fd < 0 {
            return Err(fail(ErrorKind::Backend, "UCX gave a wake-up fd below 0"));
        }
        // SAFETY: INV-3, the worker owns the fd and closes it when it is destroyed; it outlives
        // the borrow.
        Ok(unsafe { BorrowedFd::borrow_raw(fd) })
    }
}

impl Inner {
    pub(super) fn api(&self) -> &Api {
        self.context.api()
    }

    pub(super) fn bury_later(&self, grave: Grave) {
        self.graves.lock().push(grave);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let graves = std::mem::take(&mut *self.graves.lock());
        let api = self.context.api().clone();
        for grave in graves {
            grave.dig(&api);
        }
        // SAFETY: INV-1, nobody holds the worker any more: not an endpoint, not a key. UCX calls
        // back for what is still under way before it returns, and the receivers live until then.
        unsafe { (api.fns().ucp_worker_destroy)(self.raw) };
    }
}

impl Grave {
    /// Frees it. The caller has the worker.
    fn dig(self, api: &Api) {
        match self {
            Self::Endpoint(raw, watcher) => super::endpoint::force(api, raw, watcher),
            // SAFETY: INV-1, the key's last owner is gone, so no operation uses it.
            Self::Key(raw) => unsafe { (api.fns().ucp_rkey_destroy)(raw) },
        }
    }
}

impl Entered<'_> {
    pub(crate) fn api(&self) -> &Api {
        self.inner.api()
    }

    fn bury(&self) {
        loop {
            let Some(grave) = self.inner.graves.lock().pop() else {
                return;
            };
            grave.dig(self.api());
        }
    }

    /// Moves what can be moved; false if there was nothing.
    pub(crate) fn progress(&self) -> bool {
        // SAFETY: INV-5, the worker lives and is ours; never inside of a callback.
        unsafe { (self.api().fns().ucp_worker_progress)(self.inner.raw) > 0 }
    }

    /// Readies the wake-up fd. False: there is something to do already.
    pub(crate) fn arm(&self) -> Result<bool, Status> {
        // SAFETY: INV-5, the worker lives and is ours.
        let status = unsafe { (self.api().fns().ucp_worker_arm)(self.inner.raw) };
        match Status::of(status) {
            Status::BUSY => Ok(false),
            status => status.ok().map(|()| true),
        }
    }

    /// An endpoint to the worker with `address`, whose shape was checked. When it fails, the sink
    /// is told `tag`. May return before anything was heard of the peer.
    pub(crate) fn connect(&self, address: &[u8], tag: u64) -> Result<Endpoint> {
        Endpoint::new(self, address, tag)
    }

    /// Makes the peer's packed key usable on `endpoint`. Its shape was checked.
    pub(crate) fn unpack(&self, endpoint: &Endpoint, key: &[u8]) -> Result<RemoteKey> {
        RemoteKey::new(self, endpoint, key)
    }

    /// Errors unless `endpoint` belongs to this worker.
    pub(super) fn check(&self, owner: &Arc<Inner>) -> Result<(), Error> {
        if Arc::ptr_eq(self.inner, owner) {
            return Ok(());
        }
        Err(fail(
            ErrorKind::ApiMisuse,
            "an endpoint or key of another UCX worker",
        ))
    }
}

/// The pointer that UCX hands back to a callback.
pub(super) fn argument<T>(value: &T) -> *mut c_void {
    ptr::from_ref(value).cast_mut().cast()
}
