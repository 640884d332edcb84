//! Two-sided data: a sender that offers, a receiver that says into which memory.

use std::{ffi::c_void, sync::Arc};

use ucx_sys as sys;

use super::{
    Endpoint, Status,
    request::{Done, Params, Posted, mask},
    worker::Entered,
};

/// Data of a peer's that UCX fetches once it is told where to. Must go to [`Entered::receive`] or
/// [`Entered::refuse`]: the peer's send is not over before.
#[must_use]
pub(crate) struct Promise {
    desc: *mut c_void,
    len: usize,
}

// SAFETY: INV-6, `desc` is handed to UCX only by whoever has the worker.
unsafe impl Send for Promise {}

impl Promise {
    pub(super) fn new(desc: *mut c_void, len: usize) -> Self {
        Self { desc, len }
    }

    /// Bytes that the peer offers.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// Bytes of an operation: where they begin, and how many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes {
    pub(crate) at: *mut u8,
    pub(crate) len: usize,
}

fn params() -> Params {
    let mut params = Params::new().bytes();
    params.set(mask::MEMORY_TYPE);
    params.0.memory_type = sys::ucs_memory_type::UCS_MEMORY_TYPE_HOST;
    params
}

impl Entered<'_> {
    /// Begins to send `data` under number `id`, by rendezvous from the threshold on that UCX is
    /// configured to have; complete when the memory may change.
    ///
    /// # Safety
    ///
    /// `owner` keeps `head` and `data` allocated for as long as it lives.
    pub(crate) unsafe fn send_data<T: Done>(
        &self,
        endpoint: &Endpoint,
        id: u32,
        head: &[u8],
        data: Bytes,
        owner: &Arc<T>,
    ) -> Result<Posted, Status> {
        let send = self.api().fns().ucp_am_send_nbx;
        let start = |params: &sys::ucp_request_param_t| {
            let (head_at, data_at) = (head.as_ptr().cast(), data.at.cast_const().cast());
            // SAFETY: INV-1, the caller vouches for both; UCX holds `owner` until it is done.
            unsafe {
                send(
                    endpoint.raw(),
                    id,
                    head_at,
                    head.len(),
                    data_at,
                    data.len,
                    params,
                )
            }
        };
        super::request::launch(owner, params(), start)
    }

    /// Begins to fetch what was promised into `into`, which has room for all of it; complete when
    /// it is there.
    ///
    /// # Safety
    ///
    /// `owner` keeps `into` allocated for as long as it lives.
    pub(crate) unsafe fn receive<T: Done>(
        &self,
        promise: Promise,
        into: Bytes,
        owner: &Arc<T>,
    ) -> Result<Posted, Status> {
        let receive = self.api().fns().ucp_am_recv_data_nbx;
        let mut params = params();
        params.set(mask::CALLBACK | mask::USER_DATA);
        params.0.cb.recv_am = Some(landed::<T>);
        let data = Arc::into_raw(owner.clone());
        params.0.user_data = data.cast_mut().cast();
        let (worker, to) = (self.inner.raw, into.at.cast());
        // SAFETY: INV-1, the promise is used once; the caller vouches for the memory, and UCX holds
        // `owner` until it is done.
        let begun = unsafe { receive(worker, promise.desc, to, into.len, &params.0) };
        let outcome = Status::of_pointer(begun);
        if outcome != Ok(Posted::Later) {
            // SAFETY: INV-1, UCX kept nothing, so the reference made above is ours again.
            drop(unsafe { Arc::from_raw(data) });
        }
        outcome
    }

    /// Lets the sender know that nobody takes what it promised.
    pub(crate) fn refuse(&self, promise: Promise) {
        // SAFETY: INV-5, the worker is ours, and the promise is used once.
        unsafe { (self.api().fns().ucp_am_data_release)(self.inner.raw, promise.desc) };
    }
}

/// What UCX calls when data that was promised is there.
unsafe extern "C" fn landed<T: Done>(
    request: *mut c_void,
    status: sys::ucs_status_t,
    _: usize,
    data: *mut c_void,
) {
    // SAFETY: INV-1, the reference that `receive` made for this operation, given back once.
    let owner = unsafe { Arc::from_raw(data.cast::<T>().cast_const()) };
    owner.api().free(request);
    owner.done(Status::of(status));
}
