//! Receiving active messages.

use std::{ffi::c_void, marker::PhantomData, ptr, sync::Arc};

use bytes::Bytes;
use nixl_core::Result;
use ucx_sys as sys;

use super::{
    Api, Status,
    request::{Params, Parcel, launch},
    worker::argument,
};

/// Where a worker reports what happens. Called inside of UCX: must be quick and not call it.
pub(crate) trait Sink: Send + Sync + 'static {
    /// An active message with number `id`; eager, whole.
    fn received(&self, id: u32, head: &[u8], body: &[u8], reply: &Reply<'_>);

    /// The endpoint that was made with `tag` failed.
    fn failed(&self, tag: u64, status: Status);
}

/// Answers a message from inside of [`Sink::received`], where the sender asked for that.
pub(crate) struct Reply<'a> {
    api: &'a Api,
    endpoint: Option<sys::ucp_ep_h>,
    id: u32,
    _call: PhantomData<&'a ()>,
}

/// Names an endpoint that UCX made for a peer's by itself. Only compared, never followed: UCX may
/// have freed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way(usize);

impl Way {
    pub(super) fn of(endpoint: sys::ucp_ep_h) -> Self {
        Self(endpoint.addr())
    }
}

impl Reply<'_> {
    /// The way back, if the sender left one.
    pub(crate) fn way(&self) -> Option<Way> {
        self.endpoint.map(Way::of)
    }

    /// Sends an answer under the same number; lost if the sender left no way back.
    pub(crate) fn send(&self, head: &[u8], body: Vec<u8>) {
        let Some(endpoint) = self.endpoint else {
            return;
        };
        let parcel = Parcel::new(self.api.clone(), head, Bytes::from(body), &Arc::default());
        if let Err(status) = send(self.api, endpoint, self.id, &parcel, 0) {
            tracing::debug!(%status, "an answer was not sent");
        }
    }
}

/// One active message number of one worker.
pub(super) struct Receiver {
    id: u32,
    worker: sys::ucp_worker_h,
    api: Api,
    sink: Arc<dyn Sink>,
}

mod field {
    use ucx_sys::ucp_am_handler_param_field as of;

    pub(super) const ALL: u64 = of::UCP_AM_HANDLER_PARAM_FIELD_ID.0 as u64
        | of::UCP_AM_HANDLER_PARAM_FIELD_FLAGS.0 as u64
        | of::UCP_AM_HANDLER_PARAM_FIELD_CB.0 as u64
        | of::UCP_AM_HANDLER_PARAM_FIELD_ARG.0 as u64;
}

/// The receiver may answer.
pub(super) const WITH_REPLY: u32 = sys::ucp_send_am_flags::UCP_AM_SEND_FLAG_REPLY.0;
/// Never by rendezvous, whatever the threshold.
const EAGER: u32 = sys::ucp_send_am_flags::UCP_AM_SEND_FLAG_EAGER.0;
/// The sender left a way back.
const HAS_REPLY: u64 = sys::ucp_am_recv_attr_t::UCP_AM_RECV_ATTR_FIELD_REPLY_EP.0 as u64;
/// What came is no data but a promise of it.
const PROMISE: u64 = sys::ucp_am_recv_attr_t::UCP_AM_RECV_ATTR_FLAG_RNDV.0 as u64;

impl Receiver {
    pub(super) fn new(id: u32, worker: sys::ucp_worker_h, api: &Api, sink: &Arc<dyn Sink>) -> Self {
        Self {
            id,
            worker,
            api: api.clone(),
            sink: sink.clone(),
        }
    }

    /// Has UCX call [`receive`] from now on.
    pub(super) fn install(&self, api: &Api) -> Result<()> {
        // SAFETY: INV-5, a plain C structure in which zero means that no field is set.
        let mut param: sys::ucp_am_handler_param_t = unsafe { std::mem::zeroed() };
        param.field_mask = field::ALL;
        param.id = self.id;
        param.flags = sys::ucp_am_cb_flags::UCP_AM_FLAG_WHOLE_MSG.0;
        param.cb = Some(receive);
        param.arg = argument(self);
        // SAFETY: INV-5, the worker lives, and so does the receiver for as long as it does.
        let status = unsafe { (api.fns().ucp_worker_set_am_recv_handler)(self.worker, &param) };
        Status::of(status)
            .ok()
            .map_err(|s| s.error(api, "listening to UCX active messages"))
    }
}

/// What UCX calls for an active message.
unsafe extern "C" fn receive(
    arg: *mut c_void,
    head: *const c_void,
    head_len: usize,
    data: *mut c_void,
    len: usize,
    param: *const sys::ucp_am_recv_param_t,
) -> sys::ucs_status_t {
    // SAFETY: INV-1, the receiver that was installed, which outlives its worker.
    let receiver = unsafe { &*arg.cast::<Receiver>().cast_const() };
    // SAFETY: INV-5, UCX passes a structure that lives for the call.
    let param = unsafe { &*param };
    if param.recv_attr & PROMISE != 0 {
        // Nobody of ours sends these; without a fetch UCX lets the sender know that it is not taken.
        return sys::ucs_status_t::UCS_OK;
    }
    // SAFETY: INV-5, UCX says that so many bytes stand there for the call.
    let head = unsafe { bytes(head, head_len) };
    // SAFETY: INV-5, as above.
    let body = unsafe { bytes(data.cast_const(), len) };
    let endpoint = (param.recv_attr & HAS_REPLY != 0).then_some(param.reply_ep);
    let reply = Reply {
        api: &receiver.api,
        endpoint,
        id: receiver.id,
        _call: PhantomData,
    };
    receiver.sink.received(receiver.id, head, body, &reply);
    sys::ucs_status_t::UCS_OK
}

/// # Safety
///
/// `len` bytes stand at `start` for as long as the slice is used.
unsafe fn bytes<'a>(start: *const c_void, len: usize) -> &'a [u8] {
    if len == 0 || start.is_null() {
        return &[];
    }
    // SAFETY: INV-5, the caller says so.
    unsafe { std::slice::from_raw_parts(start.cast(), len) }
}

/// Sends `parcel` to a live endpoint of a worker that this thread has.
pub(super) fn send(
    api: &Api,
    endpoint: sys::ucp_ep_h,
    id: u32,
    parcel: &Arc<Parcel>,
    flags: u32,
) -> Result<(), Status> {
    let params = Params::new().bytes().flags(EAGER | flags);
    let (head, body) = (&parcel.head, &parcel.body);
    let start = |params: &sys::ucp_request_param_t| {
        let head_at = if head.is_empty() {
            ptr::null()
        } else {
            head.as_ptr()
        };
        // SAFETY: INV-1, the parcel holds both and `launch` gave UCX a reference to it.
        unsafe {
            (api.fns().ucp_am_send_nbx)(
                endpoint,
                id,
                head_at.cast(),
                head.len(),
                body.as_ptr().cast(),
                body.len(),
                params,
            )
        }
    };
    launch(parcel, params, start).map(drop)
}
