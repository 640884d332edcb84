//! Operations under way: whoever owns what they use is kept alive until UCX calls back.

use std::{
    ffi::c_void,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use ucx_sys as sys;

use super::{Api, Status};

/// The owner of what an operation touches. UCX holds one reference for each operation.
pub(crate) trait Done: Send + Sync + 'static {
    /// The functions that the operation was begun with.
    fn api(&self) -> &Api;

    /// UCX does not touch the operation's memory any more. Inside of `progress` or of the call that
    /// began another operation: must not call into UCX.
    fn done(self: Arc<Self>, status: Status);
}

/// How an operation began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Posted {
    /// It is over already; nobody is called.
    Now,
    /// [`Done::done`] is called when it is over.
    Later,
}

/// The fields that every operation sets.
pub(super) struct Params(pub(super) sys::ucp_request_param_t);

impl Params {
    pub(super) fn new() -> Self {
        // SAFETY: INV-5, a plain C structure in which zero means that no field is set.
        Self(unsafe { std::mem::zeroed() })
    }

    pub(super) fn set(&mut self, mask: u32) {
        self.0.op_attr_mask |= mask;
    }

    pub(super) fn flags(mut self, flags: u32) -> Self {
        self.set(mask::FLAGS);
        self.0.flags |= flags;
        self
    }

    pub(super) fn bytes(mut self) -> Self {
        self.set(mask::DATATYPE);
        self.0.datatype = sys::contig(1);
        self
    }
}

/// Bits of `op_attr_mask`.
pub(super) mod mask {
    use ucx_sys::ucp_op_attr_t as op;

    pub(crate) const CALLBACK: u32 = op::UCP_OP_ATTR_FIELD_CALLBACK.0;
    pub(crate) const USER_DATA: u32 = op::UCP_OP_ATTR_FIELD_USER_DATA.0;
    pub(crate) const DATATYPE: u32 = op::UCP_OP_ATTR_FIELD_DATATYPE.0;
    pub(crate) const FLAGS: u32 = op::UCP_OP_ATTR_FIELD_FLAGS.0;
    pub(crate) const MEMORY_TYPE: u32 = op::UCP_OP_ATTR_FIELD_MEMORY_TYPE.0;
    pub(crate) const MEMH: u32 = op::UCP_OP_ATTR_FIELD_MEMH.0;
    pub(crate) const MULTI_SEND: u32 = op::UCP_OP_ATTR_FLAG_MULTI_SEND.0;
}

/// Begins an operation with `start`, which hands the parameters to UCX.
pub(super) fn launch<T: Done>(
    owner: &Arc<T>,
    mut params: Params,
    start: impl FnOnce(&sys::ucp_request_param_t) -> sys::ucs_status_ptr_t,
) -> Result<Posted, Status> {
    let data = Arc::into_raw(owner.clone());
    params.set(mask::CALLBACK | mask::USER_DATA);
    params.0.cb.send = Some(finished::<T>);
    params.0.user_data = data.cast_mut().cast();
    let outcome = Status::of_pointer(start(&params.0));
    if outcome != Ok(Posted::Later) {
        // SAFETY: INV-1, UCX kept nothing, so the reference made above is ours again.
        drop(unsafe { Arc::from_raw(data) });
    }
    outcome
}

/// What UCX calls when an operation that began with [`launch`] is over.
unsafe extern "C" fn finished<T: Done>(
    request: *mut c_void,
    status: sys::ucs_status_t,
    data: *mut c_void,
) {
    // SAFETY: INV-1, the reference that `launch` made for this operation, given back once.
    let owner = unsafe { Arc::from_raw(data.cast::<T>().cast_const()) };
    owner.api().free(request);
    owner.done(Status::of(status));
}

/// An active message on its way: its bytes live here until UCX is done with them.
pub(crate) struct Parcel {
    api: Api,
    pub(super) head: Box<[u8]>,
    pub(super) body: Bytes,
    tally: Arc<Tally>,
}

/// What is on its way on one connection.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    parcels: AtomicUsize,
    bytes: AtomicUsize,
}

impl Tally {
    /// Messages on their way.
    pub(crate) fn parcels(&self) -> usize {
        self.parcels.load(Ordering::Acquire)
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Parcel {
    pub(super) fn new(api: Api, head: &[u8], body: Bytes, tally: &Arc<Tally>) -> Arc<Self> {
        tally.parcels.fetch_add(1, Ordering::Relaxed);
        tally.bytes.fetch_add(body.len(), Ordering::Relaxed);
        Arc::new(Self {
            api,
            head: head.into(),
            body,
            tally: tally.clone(),
        })
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        self.tally
            .bytes
            .fetch_sub(self.body.len(), Ordering::Relaxed);
        self.tally.parcels.fetch_sub(1, Ordering::Release);
    }
}

impl Done for Parcel {
    fn api(&self) -> &Api {
        &self.api
    }

    fn done(self: Arc<Self>, status: Status) {
        // A failed endpoint is reported by its own handler.
        if status.is_err() {
            tracing::debug!(%status, "a message was not sent");
        }
    }
}
