//! The library, a context, and registered memory.

use std::{
    ffi::{CStr, CString, c_void},
    ptr,
    sync::Arc,
};

use bytes::Bytes;
use nixl_core::{ErrorKind, Result, error::fail};
use ucx_sys as sys;

use super::{Status, status::forget_words};

/// The functions of one loaded libucp.
#[derive(Clone)]
pub(crate) struct Api(Arc<sys::Library>);

impl Api {
    pub(crate) fn new(library: sys::Library) -> Self {
        Self(Arc::new(library))
    }

    pub(super) fn fns(&self) -> &sys::Symbols {
        self.0.symbols()
    }

    /// Which libucp it is.
    pub(crate) fn library(&self) -> &sys::Library {
        &self.0
    }

    /// UCX's words for a status.
    pub(super) fn describe(&self, status: Status) -> String {
        // SAFETY: INV-5, UCX returns a string of its own for any code.
        let text = unsafe { (self.fns().ucs_status_string)(status.raw()) };
        if text.is_null() {
            return status.to_string();
        }
        // SAFETY: INV-5, as above; it ends with a zero byte and is never freed.
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned()
    }

    /// Gives back the handle of an operation.
    pub(super) fn free(&self, request: *mut c_void) {
        // SAFETY: INV-5, called once, from the callback of the operation that it belongs to.
        unsafe { (self.fns().ucp_request_free)(request) };
    }
}

/// A UCX context: what transports and devices there are, and the memory registered with them.
#[derive(Clone)]
pub(crate) struct Context(Arc<Inner>);

struct Inner {
    raw: sys::ucp_context_h,
    api: Api,
}

// SAFETY: INV-6, the context was created with `mt_workers_shared`, so UCX locks it itself.
unsafe impl Send for Inner {}
// SAFETY: INV-6, as above.
unsafe impl Sync for Inner {}

/// Settings that were tried: name without the prefix `UCX_`, and value.
pub(crate) type Settings = [(String, String)];

mod field {
    use ucx_sys::{ucp_mem_map_params_field as map, ucp_params_field as context};

    pub(super) const CONTEXT: u64 = context::UCP_PARAM_FIELD_FEATURES.0 as u64
        | context::UCP_PARAM_FIELD_MT_WORKERS_SHARED.0 as u64;
    pub(super) const MAP: u64 = map::UCP_MEM_MAP_PARAM_FIELD_ADDRESS.0 as u64
        | map::UCP_MEM_MAP_PARAM_FIELD_LENGTH.0 as u64;
}

/// One-sided operations, both sizes of atomics (so that lanes are chosen as NIXL's agents choose
/// them), wake-up, active messages.
const FEATURES: sys::ucp_feature = {
    use sys::ucp_feature as of;
    of(of::UCP_FEATURE_RMA.0
        | of::UCP_FEATURE_AMO32.0
        | of::UCP_FEATURE_AMO64.0
        | of::UCP_FEATURE_WAKEUP.0
        | of::UCP_FEATURE_AM.0)
};

/// UCX's configuration, freed when dropped.
struct Config<'a> {
    api: &'a Api,
    raw: *mut sys::ucp_config_t,
}

impl<'a> Config<'a> {
    fn read(api: &'a Api) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: INV-5, no prefix, no file, and `raw` outlives the call.
        let status = unsafe { (api.fns().ucp_config_read)(ptr::null(), ptr::null(), &mut raw) };
        Status::of(status)
            .ok()
            .map_err(|s| s.error(api, "reading UCX's configuration"))?;
        Ok(Self { api, raw })
    }

    /// Sets one value; false if this libucp has no such setting or refuses the value.
    fn set(&self, name: &str, value: &str) -> bool {
        let (Ok(name), Ok(value)) = (CString::new(name), CString::new(value)) else {
            return false;
        };
        // SAFETY: INV-5, the configuration lives, both strings outlive the call.
        let status =
            unsafe { (self.api.fns().ucp_config_modify)(self.raw, name.as_ptr(), value.as_ptr()) };
        !Status::of(status).is_err()
    }
}

impl Drop for Config<'_> {
    fn drop(&mut self) {
        // SAFETY: INV-5, made by `read`, released once.
        unsafe { (self.api.fns().ucp_config_release)(self.raw) };
    }
}

impl Context {
    /// A context with `settings`; also returns the names of those that this libucp does not take.
    pub(crate) fn new(api: &Api, settings: &Settings) -> Result<(Self, Vec<String>)> {
        api.library().listen();
        forget_words();
        let config = Config::read(api)?;
        let refused = settings
            .iter()
            .filter(|(name, value)| !config.set(name, value));
        let refused = refused.map(|(name, _)| name.clone()).collect();
        // SAFETY: INV-5, a plain C structure in which zero means that no field is set.
        let mut params: sys::ucp_params_t = unsafe { std::mem::zeroed() };
        params.field_mask = field::CONTEXT;
        params.features = FEATURES.0.into();
        params.mt_workers_shared = 1;
        let mut raw = ptr::null_mut();
        // Any newer one would be complained of; the fields that are set are in all of them.
        let version = api.library().version();
        // SAFETY: INV-5, everything outlives the call.
        let status = unsafe {
            (api.fns().ucp_init_version)(
                version.major,
                version.minor,
                &params,
                config.raw,
                &mut raw,
            )
        };
        Status::of(status)
            .ok()
            .map_err(|s| s.error(api, "starting UCX (see UCX_TLS and UCX_NET_DEVICES)"))?;
        let api = api.clone();
        Ok((Self(Arc::new(Inner { raw, api })), refused))
    }

    pub(crate) fn api(&self) -> &Api {
        &self.0.api
    }

    pub(super) fn raw(&self) -> sys::ucp_context_h {
        self.0.raw
    }

    /// Registers host memory with every transport that wants that.
    ///
    /// # Safety
    ///
    /// The memory stays allocated for as long as the handle lives.
    pub(crate) unsafe fn register(&self, addr: u64, len: u64) -> Result<MemHandle> {
        forget_words();
        // SAFETY: INV-5, a plain C structure in which zero means that no field is set.
        let mut params: sys::ucp_mem_map_params_t = unsafe { std::mem::zeroed() };
        params.field_mask = field::MAP;
        params.address = addr as *mut c_void;
        params.length = usize::try_from(len)
            .map_err(|_| fail(ErrorKind::ApiMisuse, "memory larger than the address space"))?;
        let mut raw = ptr::null_mut();
        // SAFETY: INV-1, the caller vouches for the memory, and the handle keeps the context.
        let status = unsafe { (self.0.api.fns().ucp_mem_map)(self.0.raw, &params, &mut raw) };
        let what = || format!("registering {len} bytes at {addr:#x} (for RDMA see ulimit -l)");
        Status::of(status)
            .ok()
            .map_err(|s| s.error(&self.0.api, what()))?;
        Ok(MemHandle {
            raw,
            context: self.clone(),
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: INV-1, every worker and every registration holds the context, so none is left.
        unsafe { (self.api.fns().ucp_cleanup)(self.raw) };
    }
}

/// Registered memory. Dropped, it is deregistered.
pub(crate) struct MemHandle {
    raw: sys::ucp_mem_h,
    context: Context,
}

// SAFETY: INV-6, immutable once made; UCX locks the context itself.
unsafe impl Send for MemHandle {}
// SAFETY: INV-6, as above.
unsafe impl Sync for MemHandle {}

impl MemHandle {
    pub(super) fn raw(&self) -> sys::ucp_mem_h {
        self.raw
    }

    /// The key that lets a peer use the memory.
    pub(crate) fn pack(&self) -> Result<Bytes> {
        let api = self.context.api();
        let (mut raw, mut len) = (ptr::null_mut(), 0);
        // SAFETY: INV-5, context and handle live, both out-pointers outlive the call.
        let status =
            unsafe { (api.fns().ucp_rkey_pack)(self.context.raw(), self.raw, &mut raw, &mut len) };
        Status::of(status)
            .ok()
            .map_err(|s| s.error(api, "packing a remote key"))?;
        // SAFETY: INV-5, UCX says that `len` bytes stand there until they are released below.
        let key = unsafe { std::slice::from_raw_parts(raw.cast::<u8>().cast_const(), len) };
        let key = Bytes::copy_from_slice(key);
        // SAFETY: INV-5, made by the call above, released once.
        unsafe { (api.fns().ucp_rkey_buffer_release)(raw) };
        Ok(key)
    }
}

impl Drop for MemHandle {
    fn drop(&mut self) {
        let api = self.context.api();
        // SAFETY: INV-1, operations under way hold the handle, so none is left.
        let status = unsafe { (api.fns().ucp_mem_unmap)(self.context.raw(), self.raw) };
        if let Err(status) = Status::of(status).ok() {
            tracing::error!(%status, "UCX did not deregister memory");
        }
    }
}
