//! Configuration, contexts, memory and keys of the fake libucp.

use std::{
    ffi::{c_char, c_uint, c_void},
    ptr,
};

use ucx_sys::*;

use super::{
    ucp::{OK, copied, give, handle, number},
    world::with,
};

pub(crate) unsafe extern "C" fn ucp_config_read(
    _: *const c_char,
    _: *const c_char,
    config: *mut *mut ucp_config_t,
) -> ucs_status_t {
    give(config, handle(16));
    OK
}

pub(crate) unsafe extern "C" fn ucp_config_modify(
    _: *mut ucp_config_t,
    _: *const c_char,
    _: *const c_char,
) -> ucs_status_t {
    OK
}

pub(crate) unsafe extern "C" fn ucp_config_release(_: *mut ucp_config_t) {}

pub(crate) unsafe extern "C" fn ucp_init_version(
    _: c_uint,
    _: c_uint,
    _: *const ucp_params_t,
    _: *const ucp_config_t,
    context: *mut ucp_context_h,
) -> ucs_status_t {
    with(|world| {
        let number = world.number();
        world.contexts.insert(number);
        give(context, handle(number));
    });
    OK
}

pub(crate) unsafe extern "C" fn ucp_cleanup(context: ucp_context_h) {
    with(|world| {
        let known = world.contexts.remove(&number(context));
        assert!(known, "a context is cleaned up once");
        if world.contexts.is_empty() {
            let left = world.left();
            assert!(left.is_empty(), "the last context went before {left}");
        }
    });
}

fn print(stream: *mut libc::FILE, text: &std::ffi::CStr) {
    // SAFETY: INV-5, the caller's open stream, and a string that ends.
    unsafe { libc::fputs(text.as_ptr(), stream) };
}

pub(crate) unsafe extern "C" fn ucp_context_print_info(_: ucp_context_h, stream: *mut libc::FILE) {
    let text = match with(|world| world.cma) {
        true => c"#  resource 0  :  md 0  dev 0  flags -- cma/memory\n",
        false => c"#  resource 0  :  md 0  dev 0  flags -- rc_fake/fake0:1\n",
    };
    print(stream, text);
}

pub(crate) unsafe extern "C" fn ucp_ep_print_info(_: ucp_ep_h, stream: *mut libc::FILE) {
    let text = match with(|world| world.cma) {
        true => c"#  lane[0]:  0:cma/memory.0 md[0] -> md[0]/cma/sysdev[255] rma_bw#0 am\n",
        false => c"#  lane[0]:  0:rc_fake/fake0:1.0 md[0] -> md[0]/ib/sysdev[255] rma_bw#0 am\n",
    };
    print(stream, text);
}

pub(crate) unsafe extern "C" fn ucp_mem_map(
    _: ucp_context_h,
    params: *const ucp_mem_map_params_t,
    memory: *mut ucp_mem_h,
) -> ucs_status_t {
    // SAFETY: INV-5, the caller's structure.
    let params = unsafe { &*params };
    let span = (params.address.expose_provenance(), params.length);
    with(|world| {
        if let Some(refused) = world.faults.map {
            return refused;
        }
        let number = world.number();
        world.memory.insert(number, span);
        give(memory, handle(number));
        OK
    })
}

pub(crate) unsafe extern "C" fn ucp_mem_unmap(_: ucp_context_h, memory: ucp_mem_h) -> ucs_status_t {
    with(|world| {
        let users = world.users_of(number(memory));
        assert_eq!(users, 0, "memory is deregistered under operations");
        let known = world.memory.remove(&number(memory));
        assert!(known.is_some(), "memory is deregistered once");
    });
    OK
}

/// No domain, host memory, then the registration's number.
pub(crate) unsafe extern "C" fn ucp_rkey_pack(
    _: ucp_context_h,
    memory: ucp_mem_h,
    key: *mut *mut c_void,
    len: *mut usize,
) -> ucs_status_t {
    let mut bytes = vec![0; 9];
    bytes.extend((number(memory) as u64).to_le_bytes());
    let bytes = Box::leak(bytes.into_boxed_slice());
    give(len, bytes.len());
    give(key, bytes.as_mut_ptr().cast());
    OK
}

pub(crate) unsafe extern "C" fn ucp_rkey_buffer_release(key: *mut c_void) {
    let bytes = ptr::slice_from_raw_parts_mut(key.cast::<u8>(), 17);
    // SAFETY: INV-5, what `ucp_rkey_pack` leaked, once.
    drop(unsafe { Box::from_raw(bytes) });
}

pub(crate) unsafe extern "C" fn ucp_ep_rkey_unpack(
    _: ucp_ep_h,
    bytes: *const c_void,
    key: *mut ucp_rkey_h,
) -> ucs_status_t {
    let bytes = copied(bytes, 17);
    let memory: [u8; 8] = bytes[9..].try_into().expect("eight bytes");
    with(|world| {
        if world.faults.refuse_keys {
            return ucs_status_t::UCS_ERR_UNREACHABLE;
        }
        let number = world.number();
        world
            .keys
            .insert(number, u64::from_le_bytes(memory) as usize);
        give(key, handle(number));
        OK
    })
}

pub(crate) unsafe extern "C" fn ucp_rkey_destroy(key: ucp_rkey_h) {
    with(|world| {
        let users = world.users_of(number(key));
        assert_eq!(users, 0, "a key is destroyed under operations");
        let known = world.keys.remove(&number(key));
        assert!(known.is_some(), "a key is destroyed once");
    });
}
