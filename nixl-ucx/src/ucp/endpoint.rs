//! Endpoints, remote keys, and the operations on them.

use std::{ffi::c_void, ptr, sync::Arc};

use bytes::Bytes;
use nixl_core::{Error, Result};
use ucx_sys as sys;

use super::{
    Api, MemHandle, Status, am,
    am::{Sink, Way},
    request::{Done, Params, Parcel, Posted, Tally, launch, mask},
    worker::{Entered, Grave, Inner, argument},
};
use crate::fault::unsupported;

/// A connection to a peer's worker. Dropped, it is closed by force.
pub(crate) struct Endpoint {
    raw: sys::ucp_ep_h,
    /// UCX holds its address. Taken when the endpoint closes.
    watcher: Option<Box<Watcher>>,
    worker: Arc<Inner>,
}

// SAFETY: INV-6, `raw` is used only by whoever holds the worker's lock.
unsafe impl Send for Endpoint {}
// SAFETY: INV-6, as above.
unsafe impl Sync for Endpoint {}

/// Whom to tell of an endpoint's failure.
pub(super) struct Watcher {
    tag: u64,
    sink: Arc<dyn Sink>,
}

mod field {
    use ucx_sys::ucp_ep_params_field as of;

    pub(super) const ALL: u64 = of::UCP_EP_PARAM_FIELD_REMOTE_ADDRESS.0 as u64
        | of::UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE.0 as u64
        | of::UCP_EP_PARAM_FIELD_ERR_HANDLER.0 as u64;
}

/// What is under way ends at once.
const FORCE: u32 = sys::ucp_ep_close_flags_t::UCP_EP_CLOSE_FLAG_FORCE.0;

/// What UCX calls when an endpoint failed.
unsafe extern "C" fn failed(arg: *mut c_void, _: sys::ucp_ep_h, status: sys::ucs_status_t) {
    // SAFETY: INV-1, the watcher that the endpoint was made with; it lives until that is closed.
    let watcher = unsafe { &*arg.cast::<Watcher>().cast_const() };
    watcher.sink.failed(watcher.tag, Status::of(status));
}

impl Endpoint {
    pub(super) fn new(entered: &Entered<'_>, address: &[u8], tag: u64) -> Result<Self> {
        let (api, worker) = (entered.api(), entered.inner);
        let watcher = Box::new(Watcher {
            tag,
            sink: worker.sink.clone(),
        });
        // SAFETY: INV-5, a plain C structure in which zero means that no field is set.
        let mut params: sys::ucp_ep_params_t = unsafe { std::mem::zeroed() };
        params.field_mask = field::ALL;
        params.address = address.as_ptr().cast();
        params.err_mode = sys::ucp_err_handling_mode_t::UCP_ERR_HANDLING_MODE_PEER;
        params.err_handler.cb = Some(failed);
        params.err_handler.arg = argument(&*watcher);
        let mut raw = ptr::null_mut();
        // SAFETY: INV-5, the worker is ours, the address was walked to its end (`shape`), and
        // `params` and `raw` outlive the call.
        let status = unsafe { (api.fns().ucp_ep_create)(worker.raw, &params, &mut raw) };
        match Status::of(status) {
            Status::UNREACHABLE => Err(unsupported(
                "UCX finds no transport that both sides have and that reports failures; compare \
                 UCX_TLS and UCX_NET_DEVICES on both sides",
            )),
            status => status
                .ok()
                .map_err(|s| s.error(api, "connecting to the peer's worker")),
        }?;
        Ok(Self {
            raw,
            watcher: Some(watcher),
            worker: worker.clone(),
        })
    }

    /// Whether UCX had made it by itself, as the way back to a peer's endpoint.
    pub(crate) fn is(&self, way: Way) -> bool {
        Way::of(self.raw) == way
    }

    pub(super) fn raw(&self) -> sys::ucp_ep_h {
        self.raw
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            self.worker.bury_later(Grave::Endpoint(self.raw, watcher));
        }
    }
}

/// Keeps an endpoint's watcher until UCX has closed it.
struct Closing {
    api: Api,
    _watcher: Box<Watcher>,
}

impl Done for Closing {
    fn api(&self) -> &Api {
        &self.api
    }

    fn done(self: Arc<Self>, _: Status) {}
}

/// Closes an endpoint by force: what is under way on it ends with an error. The caller has the
/// worker, and nobody else has the endpoint.
pub(super) fn force(api: &Api, raw: sys::ucp_ep_h, watcher: Box<Watcher>) {
    let closing = Arc::new(Closing {
        api: api.clone(),
        _watcher: watcher,
    });
    let start = |params: &sys::ucp_request_param_t| {
        // SAFETY: INV-1, the endpoint is closed once; operations under way keep what they use.
        unsafe { (api.fns().ucp_ep_close_nbx)(raw, params) }
    };
    if let Err(status) = launch(&closing, Params::new().flags(FORCE), start) {
        tracing::debug!(%status, "an endpoint did not close");
    }
}

/// A peer's packed key, usable on one endpoint.
pub(crate) struct RemoteKey {
    raw: sys::ucp_rkey_h,
    worker: Arc<Inner>,
}

// SAFETY: INV-6, `raw` is used only by whoever holds the worker's lock.
unsafe impl Send for RemoteKey {}
// SAFETY: INV-6, as above.
unsafe impl Sync for RemoteKey {}

impl RemoteKey {
    pub(super) fn new(entered: &Entered<'_>, endpoint: &Endpoint, key: &[u8]) -> Result<Self> {
        entered.check(&endpoint.worker)?;
        // UCX reads the key without its length, and where it is shorter than some versions expect
        // what follows has to read as the end of it.
        let mut padded = key.to_vec();
        padded.extend([0xff; 16]);
        let mut raw = ptr::null_mut();
        // SAFETY: INV-5, the endpoint lives, the key was walked to its end (`shape`).
        let status = unsafe {
            (entered.api().fns().ucp_ep_rkey_unpack)(endpoint.raw, padded.as_ptr().cast(), &mut raw)
        };
        Status::of(status)
            .ok()
            .map_err(|s| s.error(entered.api(), "reading the peer's remote key"))?;
        Ok(Self {
            raw,
            worker: entered.inner.clone(),
        })
    }
}

impl Drop for RemoteKey {
    fn drop(&mut self) {
        self.worker.bury_later(Grave::Key(self.raw));
    }
}

/// One block of a one-sided operation.
pub(crate) struct Block<'a> {
    /// First byte here, and how many.
    pub(crate) local: u64,
    pub(crate) len: u64,
    /// The local registration that covers it.
    pub(crate) memory: &'a MemHandle,
    /// First byte in the peer's process.
    pub(crate) remote: u64,
    pub(crate) key: &'a RemoteKey,
    /// More blocks are about to follow.
    pub(crate) many: bool,
}

impl Entered<'_> {
    /// Begins to fetch the peer's bytes into local memory; complete when they are there.
    ///
    /// # Safety
    ///
    /// `owner` keeps the local block allocated and registered for as long as it lives.
    pub(crate) unsafe fn get<T: Done>(
        &self,
        endpoint: &Endpoint,
        block: &Block<'_>,
        owner: &Arc<T>,
    ) -> Result<Posted, Status> {
        let get = self.api().fns().ucp_get_nbx;
        let start = |params: &sys::ucp_request_param_t| {
            // SAFETY: INV-1, the caller vouches for the block; UCX holds `owner` until it is done.
            unsafe {
                get(
                    endpoint.raw,
                    block.local as *mut c_void,
                    block.len as usize,
                    block.remote,
                    block.key.raw,
                    params,
                )
            }
        };
        launch(owner, block.params(), start)
    }

    /// Begins to store local bytes in the peer's memory; complete when the local memory may change.
    ///
    /// # Safety
    ///
    /// As [`Entered::get`].
    pub(crate) unsafe fn put<T: Done>(
        &self,
        endpoint: &Endpoint,
        block: &Block<'_>,
        owner: &Arc<T>,
    ) -> Result<Posted, Status> {
        let put = self.api().fns().ucp_put_nbx;
        let start = |params: &sys::ucp_request_param_t| {
            // SAFETY: INV-1, the caller vouches for the block; UCX holds `owner` until it is done.
            unsafe {
                put(
                    endpoint.raw,
                    block.local as *const c_void,
                    block.len as usize,
                    block.remote,
                    block.key.raw,
                    params,
                )
            }
        };
        launch(owner, block.params(), start)
    }

    /// Begins to wait until everything begun so far on `endpoint` is complete at the peer.
    pub(crate) fn flush<T: Done>(
        &self,
        endpoint: &Endpoint,
        owner: &Arc<T>,
    ) -> Result<Posted, Status> {
        let start = |params: &sys::ucp_request_param_t| {
            // SAFETY: INV-5, the endpoint lives and its worker is ours.
            unsafe { (self.api().fns().ucp_ep_flush_nbx)(endpoint.raw, params) }
        };
        launch(owner, Params::new(), start)
    }

    /// Sends an active message, counted in `tally` until it is handed over.
    pub(crate) fn send(
        &self,
        endpoint: &Endpoint,
        id: u32,
        (head, body): (&[u8], Bytes),
        reply: bool,
        tally: &Arc<Tally>,
    ) -> Result<(), Error> {
        self.check(&endpoint.worker)?;
        let parcel = Parcel::new(self.api().clone(), head, body, tally);
        let flags = if reply { am::WITH_REPLY } else { 0 };
        am::send(self.api(), endpoint.raw, id, &parcel, flags)
            .map_err(|s| s.error(self.api(), "sending a message"))
    }

    /// Closes an endpoint by force.
    pub(crate) fn close(&self, mut endpoint: Endpoint) {
        if let Some(watcher) = endpoint.watcher.take() {
            force(self.api(), endpoint.raw, watcher);
        }
    }
}

impl Block<'_> {
    fn params(&self) -> Params {
        let mut params = Params::new();
        params.set(mask::MEMH | mask::MEMORY_TYPE);
        params.0.memh = self.memory.raw();
        params.0.memory_type = sys::ucs_memory_type::UCS_MEMORY_TYPE_HOST;
        if self.many {
            params.set(mask::MULTI_SEND);
        }
        params
    }
}
