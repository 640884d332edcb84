//! Optional arguments, parameters, and lists of strings and memory types.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, c_char, c_void},
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    agent::Backend,
    ffi::{Array, Kept, Out, Text},
    handle::Handle,
    status::{Result, Status, call},
};

/// `nixl_capi_opt_args_s`
#[derive(Clone, Default)]
pub(crate) struct Options {
    /// NIXL's callers name backends; here each is the same, so they only have to be live.
    backends: usize,
    message: Vec<u8>,
    notify: bool,
    custom: Vec<u8>,
    keep_apart: bool,
    pub(crate) ip: Option<String>,
    pub(crate) port: Option<u16>,
}

impl Options {
    /// The notification to send, if one is wanted.
    pub(crate) fn notification(&self) -> Option<Bytes> {
        self.notify.then(|| Bytes::copy_from_slice(&self.message))
    }
}

type Shared = Mutex<Options>;

/// A copy of the options behind a handle that may be null.
pub(crate) fn options(args: Handle) -> Result<Option<Options>> {
    let found = args.optional::<Shared>()?;
    Ok(found.map(|options| options.lock().clone()))
}

fn change(args: Handle, set: impl FnOnce(&mut Options) -> Result) -> Status {
    call(|| set(&mut args.get::<Shared>()?.lock()))
}

fn look<T>(args: Handle, out: Out<T>, read: impl FnOnce(&Options) -> T) -> Status {
    call(|| out.put(read(&args.get::<Shared>()?.lock())))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_create_opt_args(out: Out<Handle>) -> Status {
    call(|| {
        out.check()?;
        out.put(Handle::new(Shared::default()))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_destroy_opt_args(args: Handle) -> Status {
    call(|| args.take::<Shared>().map(drop))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_opt_args_add_backend(args: Handle, backend: Handle) -> Status {
    change(args, |options| {
        backend.get::<Backend>()?;
        options.backends += 1;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_opt_args_set_notif_msg(
    args: Handle,
    data: Array<u8>,
    len: usize,
) -> Status {
    change(args, |options| {
        options.message = data.get(len)?.to_vec();
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_opt_args_get_notif_msg(
    args: Handle,
    data: Out<*mut c_void>,
    len: Out<usize>,
) -> Status {
    call(|| data.give(&len, &args.get::<Shared>()?.lock().message))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_opt_args_set_custom_param(
    args: Handle,
    data: Array<u8>,
    len: usize,
) -> Status {
    change(args, |options| {
        options.custom = data.get(len)?.to_vec();
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_opt_args_get_custom_param(
    args: Handle,
    data: Out<*mut c_void>,
    len: Out<usize>,
) -> Status {
    call(|| data.give(&len, &args.get::<Shared>()?.lock().custom))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_opt_args_set_has_notif(args: Handle, notify: bool) -> Status {
    change(args, |options| {
        options.notify = notify;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_opt_args_get_has_notif(args: Handle, out: Out<bool>) -> Status {
    look(args, out, |options| options.notify)
}

/// Merging changes no result here, so the wish is only remembered.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_opt_args_set_skip_desc_merge(
    args: Handle,
    skip: bool,
) -> Status {
    change(args, |options| {
        options.keep_apart = skip;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_opt_args_get_skip_desc_merge(
    args: Handle,
    out: Out<bool>,
) -> Status {
    look(args, out, |options| options.keep_apart)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_opt_args_set_ip_addr(args: Handle, ip: Text) -> Status {
    change(args, |options| {
        options.ip = Some(ip.get()?.to_owned());
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_opt_args_set_port(args: Handle, port: u16) -> Status {
    change(args, |options| {
        options.port = Some(port);
        Ok(())
    })
}

// --- parameters ---

pub(crate) type Params = Mutex<BTreeMap<CString, CString>>;

/// The parameters of `pairs`, behind a new handle.
pub(crate) fn params(pairs: &[(&CStr, &CStr)]) -> Handle {
    let owned = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    Handle::new(Params::new(owned.collect()))
}

/// The pairs that were there when it was made, and how many of them were seen.
struct Iter(Vec<(CString, CString)>, Mutex<usize>);

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_create_params(out: Out<Handle>) -> Status {
    call(|| {
        out.check()?;
        out.put(params(&[]))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_destroy_params(params: Handle) -> Status {
    call(|| params.take::<Params>().map(drop))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_params_add(params: Handle, key: Text, value: Text) -> Status {
    call(|| {
        let owned = |text: Text| CString::new(text.get()?).map_err(|_| Status::InvalidParam);
        let (key, value) = (owned(key)?, owned(value)?);
        params.get::<Params>()?.lock().insert(key, value);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_params_is_empty(params: Handle, out: Out<bool>) -> Status {
    call(|| out.put(params.get::<Params>()?.lock().is_empty()))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_params_create_iterator(
    params: Handle,
    out: Out<Handle>,
) -> Status {
    call(|| {
        out.check()?;
        let pairs = params.get::<Params>()?.lock().clone();
        out.put(Handle::new(Iter(
            pairs.into_iter().collect(),
            Mutex::new(0),
        )))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_params_iterator_next(
    iter: Handle,
    key: Out<Kept<c_char>>,
    value: Out<Kept<c_char>>,
    has_next: Out<bool>,
) -> Status {
    call(|| {
        let iter = iter.get::<Iter>()?;
        let mut seen = iter.1.lock();
        if let Some((k, v)) = iter.0.get(*seen) {
            key.put(Kept::text(k))?;
            value.put(Kept::text(v))?;
            *seen += 1;
        }
        has_next.put(*seen < iter.0.len())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_params_destroy_iterator(iter: Handle) -> Status {
    call(|| iter.take::<Iter>().map(drop))
}

// --- lists of strings and of memory types ---

pub(crate) struct Strings(pub(crate) Vec<CString>);

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_destroy_string_list(list: Handle) -> Status {
    call(|| list.take::<Strings>().map(drop))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_string_list_size(list: Handle, out: Out<usize>) -> Status {
    call(|| out.put(list.get::<Strings>()?.0.len()))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_string_list_get(
    list: Handle,
    index: usize,
    out: Out<Kept<c_char>>,
) -> Status {
    call(|| {
        let list = list.get::<Strings>()?;
        out.put(Kept::text(list.0.get(index).ok_or(Status::InvalidParam)?))
    })
}

pub(crate) struct MemTypes(pub(crate) Vec<u32>);

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_destroy_mem_list(list: Handle) -> Status {
    call(|| list.take::<MemTypes>().map(drop))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_mem_list_is_empty(list: Handle, out: Out<bool>) -> Status {
    call(|| out.put(list.get::<MemTypes>()?.0.is_empty()))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_mem_list_size(list: Handle, out: Out<usize>) -> Status {
    call(|| out.put(list.get::<MemTypes>()?.0.len()))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_mem_list_get(
    list: Handle,
    index: usize,
    out: Out<u32>,
) -> Status {
    call(|| {
        let list = list.get::<MemTypes>()?;
        out.put(*list.0.get(index).ok_or(Status::InvalidParam)?)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_mem_type_to_string(kind: u32, out: Out<Kept<c_char>>) -> Status {
    const NAMES: [&CStr; 6] = [c"DRAM", c"VRAM", c"BLOCK", c"OBJECT", c"FILE", c"UNKNOWN"];
    call(|| {
        let name = NAMES.get(kind as usize).ok_or(Status::InvalidParam)?;
        out.put(Kept::text(name))
    })
}
