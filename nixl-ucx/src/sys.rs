//! Stand-in for `ucx-sys` until that is merged.
#![allow(non_camel_case_types, missing_docs, dead_code)]
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::path::Path;

#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ucs_status_t(pub i8);
impl ucs_status_t {
    pub const UCS_OK: Self = Self(0);
}
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct ucs_thread_mode_t(pub c_uint);
impl ucs_thread_mode_t {
    pub const UCS_THREAD_MODE_SERIALIZED: Self = Self(1);
}
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct ucp_err_handling_mode_t(pub c_uint);
impl ucp_err_handling_mode_t {
    pub const UCP_ERR_HANDLING_MODE_PEER: Self = Self(1);
}
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct ucs_memory_type_t(pub c_uint);
pub type ucs_status_ptr_t = *mut c_void;
pub type ucp_datatype_t = u64;
macro_rules! opaque { ($($n:ident $h:ident),*) => { $(#[repr(C)] pub struct $n { _p: [u8; 0] } pub type $h = *mut $n;)* } }
opaque!(ucp_context ucp_context_h, ucp_worker ucp_worker_h, ucp_ep ucp_ep_h, ucp_mem ucp_mem_h, ucp_rkey ucp_rkey_h);
#[repr(C)]
pub struct ucp_config_t {
    _p: [u8; 0],
}
#[repr(C)]
pub struct ucp_address_t {
    _p: [u8; 0],
}
#[repr(C)]
pub struct FILE {
    _p: [u8; 0],
}
#[repr(C)]
pub struct ucp_params_t {
    pub field_mask: u64,
    pub features: u64,
    pub request_size: usize,
    a: usize,
    b: usize,
    tag: u64,
    pub mt_workers_shared: c_int,
    pub estimated_num_eps: usize,
    ppn: usize,
    pub name: *const c_char,
    id: usize,
}
#[repr(C)]
pub struct ucp_worker_params_t {
    pub field_mask: u64,
    pub thread_mode: ucs_thread_mode_t,
    cpu: [u64; 16],
    pub events: c_uint,
    ud: *mut c_void,
    fd: c_int,
    flags: u64,
    name: *const c_char,
    al: usize,
    client: u64,
}
pub type ucp_err_handler_cb_t = Option<unsafe extern "C" fn(*mut c_void, ucp_ep_h, ucs_status_t)>;
#[repr(C)]
pub struct ucp_err_handler_t {
    pub cb: ucp_err_handler_cb_t,
    pub arg: *mut c_void,
}
#[repr(C)]
pub struct ucp_ep_params_t {
    pub field_mask: u64,
    pub address: *const ucp_address_t,
    pub err_mode: ucp_err_handling_mode_t,
    pub err_handler: ucp_err_handler_t,
    pub user_data: *mut c_void,
    pub flags: c_uint,
    sa: [usize; 2],
    cr: *mut c_void,
    name: *const c_char,
    lsa: [usize; 2],
}
#[repr(C)]
pub struct ucp_mem_map_params_t {
    pub field_mask: u64,
    pub address: *mut c_void,
    pub length: usize,
    pub flags: c_uint,
    pub prot: c_uint,
    pub memory_type: ucs_memory_type_t,
    ex: *const c_void,
}
pub type ucp_am_recv_callback_t = Option<
    unsafe extern "C" fn(
        *mut c_void,
        *const c_void,
        usize,
        *mut c_void,
        usize,
        *const ucp_am_recv_param_t,
    ) -> ucs_status_t,
>;
#[repr(C)]
pub struct ucp_am_handler_param_t {
    pub field_mask: u64,
    pub id: c_uint,
    pub flags: u32,
    pub cb: ucp_am_recv_callback_t,
    pub arg: *mut c_void,
}
#[repr(C)]
pub struct ucp_am_recv_param_t {
    pub recv_attr: u64,
    pub reply_ep: ucp_ep_h,
}
pub type ucp_send_nbx_callback_t =
    Option<unsafe extern "C" fn(*mut c_void, ucs_status_t, *mut c_void)>;
#[repr(C)]
#[derive(Clone, Copy)]
pub union cb_t {
    pub send: ucp_send_nbx_callback_t,
    p: *mut c_void,
}
#[repr(C)]
pub struct ucp_request_param_t {
    pub op_attr_mask: u32,
    pub flags: u32,
    pub request: *mut c_void,
    pub cb: cb_t,
    pub datatype: ucp_datatype_t,
    pub user_data: *mut c_void,
    pub reply_buffer: *mut c_void,
    pub memory_type: ucs_memory_type_t,
    ri: *mut c_void,
    pub memh: ucp_mem_h,
    more: [u64; 8],
}

macro_rules! table { ($($n:ident : fn($($t:ty),*) $(-> $r:ty)?;)*) => {
    pub struct Ucp { $(pub $n: unsafe extern "C" fn($($t),*) $(-> $r)?,)* }
    impl Ucp { pub fn load(path: &Path) -> Result<Self, String> {
        let p = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        let h = unsafe { libc::dlopen(p.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if h.is_null() { return Err(format!("cannot load {path:?}")); }
        $(let name = std::ffi::CString::new(stringify!($n)).unwrap();
        let f = unsafe { libc::dlsym(h, name.as_ptr()) };
        if f.is_null() { return Err(format!("no {}", stringify!($n))); }
        let $n = unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($t),*) $(-> $r)?>(f) };)*
        Ok(Self { $($n),* })
    } }
} }
table! {
    ucp_get_version: fn(*mut c_uint, *mut c_uint, *mut c_uint);
    ucs_status_string: fn(ucs_status_t) -> *const c_char;
    ucp_config_read: fn(*const c_char, *const c_char, *mut *mut ucp_config_t) -> ucs_status_t;
    ucp_config_modify: fn(*mut ucp_config_t, *const c_char, *const c_char) -> ucs_status_t;
    ucp_config_release: fn(*mut ucp_config_t);
    ucp_init_version: fn(c_uint, c_uint, *const ucp_params_t, *const ucp_config_t, *mut ucp_context_h) -> ucs_status_t;
    ucp_cleanup: fn(ucp_context_h);
    ucp_context_print_info: fn(ucp_context_h, *mut FILE);
    ucp_ep_print_info: fn(ucp_ep_h, *mut FILE);
    ucp_worker_create: fn(ucp_context_h, *const ucp_worker_params_t, *mut ucp_worker_h) -> ucs_status_t;
    ucp_worker_destroy: fn(ucp_worker_h);
    ucp_worker_get_address: fn(ucp_worker_h, *mut *mut ucp_address_t, *mut usize) -> ucs_status_t;
    ucp_worker_release_address: fn(ucp_worker_h, *mut ucp_address_t);
    ucp_worker_get_efd: fn(ucp_worker_h, *mut c_int) -> ucs_status_t;
    ucp_worker_arm: fn(ucp_worker_h) -> ucs_status_t;
    ucp_worker_progress: fn(ucp_worker_h) -> c_uint;
    ucp_worker_set_am_recv_handler: fn(ucp_worker_h, *const ucp_am_handler_param_t) -> ucs_status_t;
    ucp_ep_create: fn(ucp_worker_h, *const ucp_ep_params_t, *mut ucp_ep_h) -> ucs_status_t;
    ucp_ep_close_nbx: fn(ucp_ep_h, *const ucp_request_param_t) -> ucs_status_ptr_t;
    ucp_ep_flush_nbx: fn(ucp_ep_h, *const ucp_request_param_t) -> ucs_status_ptr_t;
    ucp_ep_rkey_unpack: fn(ucp_ep_h, *const c_void, *mut ucp_rkey_h) -> ucs_status_t;
    ucp_rkey_destroy: fn(ucp_rkey_h);
    ucp_rkey_pack: fn(ucp_context_h, ucp_mem_h, *mut *mut c_void, *mut usize) -> ucs_status_t;
    ucp_rkey_buffer_release: fn(*mut c_void);
    ucp_mem_map: fn(ucp_context_h, *const ucp_mem_map_params_t, *mut ucp_mem_h) -> ucs_status_t;
    ucp_mem_unmap: fn(ucp_context_h, ucp_mem_h) -> ucs_status_t;
    ucp_am_send_nbx: fn(ucp_ep_h, c_uint, *const c_void, usize, *const c_void, usize, *const ucp_request_param_t) -> ucs_status_ptr_t;
    ucp_get_nbx: fn(ucp_ep_h, *mut c_void, usize, u64, ucp_rkey_h, *const ucp_request_param_t) -> ucs_status_ptr_t;
    ucp_put_nbx: fn(ucp_ep_h, *const c_void, usize, u64, ucp_rkey_h, *const ucp_request_param_t) -> ucs_status_ptr_t;
    ucp_request_free: fn(*mut c_void);
}
