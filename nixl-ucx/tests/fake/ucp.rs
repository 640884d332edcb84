//! The functions of the fake libucp.

use std::{
    ffi::{c_char, c_int, c_uint, c_void},
    ptr,
};

use ucx_sys::*;

use super::{
    memory::*,
    world::{Callback, Endpoint, Operation, Pointer, Work, with},
};

/// A function that nobody calls, in whatever shape.
macro_rules! nobody {
    () => {
        // SAFETY: INV-7, it is never called, and would abort.
        unsafe { std::mem::transmute::<*const (), _>(never as *const ()) }
    };
}

extern "C" fn never() {
    eprintln!("a function of libucp that the fake does not have was called");
    std::process::abort();
}

/// The library.
pub(crate) fn library() -> Library {
    // SAFETY: INV-7, they are the functions below.
    unsafe { Library::from_symbols(symbols()) }.expect("a version that will do")
}

#[expect(
    clippy::missing_transmute_annotations,
    reason = "the field says what it is"
)]
fn symbols() -> Symbols {
    Symbols {
        ucp_get_version,
        ucp_get_version_string: nobody!(),
        ucp_lib_query: nobody!(),
        ucp_config_read,
        ucp_config_modify,
        ucp_config_print: nobody!(),
        ucp_config_release,
        ucp_init_version,
        ucp_context_query: nobody!(),
        ucp_context_print_info,
        ucp_cleanup,
        ucp_worker_create,
        ucp_worker_query,
        ucp_worker_print_info: nobody!(),
        ucp_worker_progress,
        ucp_worker_arm,
        ucp_worker_signal: nobody!(),
        ucp_worker_get_efd,
        ucp_worker_fence: nobody!(),
        ucp_worker_flush_nbx: nobody!(),
        ucp_worker_address_query: nobody!(),
        ucp_worker_release_address,
        ucp_worker_destroy,
        ucp_ep_create,
        ucp_ep_query: nobody!(),
        ucp_ep_print_info,
        ucp_ep_flush_nbx,
        ucp_ep_close_nbx,
        ucp_mem_map,
        ucp_mem_query: nobody!(),
        ucp_mem_advise: nobody!(),
        ucp_mem_unmap,
        ucp_rkey_pack,
        ucp_rkey_buffer_release,
        ucp_ep_rkey_unpack,
        ucp_rkey_ptr: nobody!(),
        ucp_rkey_destroy,
        ucp_put_nbx,
        ucp_get_nbx,
        ucp_am_send_nbx,
        ucp_worker_set_am_recv_handler,
        ucp_am_recv_data_nbx: nobody!(),
        ucp_am_data_release: nobody!(),
        ucp_tag_send_nbx: nobody!(),
        ucp_tag_send_sync_nbx: nobody!(),
        ucp_tag_recv_nbx: nobody!(),
        ucp_tag_probe_nb: nobody!(),
        ucp_tag_msg_recv_nbx: nobody!(),
        ucp_request_check_status: nobody!(),
        ucp_request_query: nobody!(),
        ucp_request_cancel: nobody!(),
        ucp_request_free,
        ucs_status_string,
        ucp_memh_pack: None,
        ucp_memh_buffer_release: None,
    }
}

pub(crate) const OK: ucs_status_t = ucs_status_t::UCS_OK;

pub(crate) fn number<T>(handle: *mut T) -> usize {
    handle.addr()
}

pub(crate) fn handle<T>(number: usize) -> *mut T {
    ptr::without_provenance_mut(number)
}

/// Writes to an out-pointer.
pub(crate) fn give<T>(to: *mut T, value: T) {
    // SAFETY: INV-5, the caller's variable.
    unsafe { to.write(value) };
}

fn failure(status: ucs_status_t) -> ucs_status_ptr_t {
    ptr::without_provenance_mut(usize::from_ne_bytes(isize::from(status.0).to_ne_bytes()))
}

/// Notes an operation's callback, and gives it a number.
fn callback(param: *const ucp_request_param_t) -> Callback {
    // SAFETY: INV-5, the caller's structure.
    let param = unsafe { &*param };
    // SAFETY: INV-5, every caller of ours sets this one of the union.
    let call = unsafe { param.cb.send };
    let data = param.user_data.expose_provenance();
    let request = with(|world| {
        let request = world.number();
        world.requests.insert(request);
        request
    });
    Callback {
        request,
        call,
        data,
    }
}

pub(crate) fn copied(from: *const c_void, len: usize) -> Vec<u8> {
    if len == 0 {
        return Vec::new();
    }
    // SAFETY: INV-5, the caller says that so many bytes stand there.
    unsafe { std::slice::from_raw_parts(from.cast::<u8>(), len) }.to_vec()
}

unsafe extern "C" fn ucp_get_version(a: *mut c_uint, b: *mut c_uint, c: *mut c_uint) {
    give(a, 1);
    give(b, 22);
    give(c, 0);
}

unsafe extern "C" fn ucs_status_string(_: ucs_status_t) -> *const c_char {
    c"something of the fake's".as_ptr()
}

unsafe extern "C" fn ucp_worker_create(
    _: ucp_context_h,
    _: *const ucp_worker_params_t,
    worker: *mut ucp_worker_h,
) -> ucs_status_t {
    with(|world| match world.faults.worker {
        Some(refused) => refused,
        None => {
            give(worker, handle(world.add_worker()));
            OK
        }
    })
}

/// An address: header, the worker's number as its uuid, no device.
unsafe extern "C" fn ucp_worker_query(
    worker: ucp_worker_h,
    attr: *mut ucp_worker_attr_t,
) -> ucs_status_t {
    let mut address = vec![0x20];
    address.extend((number(worker) as u64).to_le_bytes());
    address.push(0xff);
    let address = Box::leak(address.into_boxed_slice());
    // SAFETY: INV-5, the caller's structure.
    let attr = unsafe { &mut *attr };
    attr.address_length = address.len();
    attr.address = address.as_mut_ptr().cast();
    OK
}

unsafe extern "C" fn ucp_worker_release_address(_: ucp_worker_h, address: *mut ucp_address_t) {
    let bytes = ptr::slice_from_raw_parts_mut(address.cast::<u8>(), 10);
    // SAFETY: INV-5, what `ucp_worker_query` leaked, once.
    drop(unsafe { Box::from_raw(bytes) });
}

unsafe extern "C" fn ucp_worker_get_efd(worker: ucp_worker_h, fd: *mut c_int) -> ucs_status_t {
    give(fd, with(|world| world.bell(number(worker))));
    OK
}

unsafe extern "C" fn ucp_worker_arm(worker: ucp_worker_h) -> ucs_status_t {
    with(|world| {
        let refused = world.faults.busy_arms > 0;
        world.faults.busy_arms -= usize::from(refused);
        if refused || world.is_busy(number(worker)) {
            return ucs_status_t::UCS_ERR_BUSY;
        }
        let _ = rustix::io::read(&world.workers[&number(worker)].bell, &mut [0u8; 8]);
        OK
    })
}

unsafe extern "C" fn ucp_worker_destroy(worker: ucp_worker_h) {
    with(|world| {
        let worker = number(worker);
        world.break_endpoints(|endpoint| endpoint.peer == worker && endpoint.worker != worker);
        let gone = world.workers.remove(&worker);
        let open = gone.map_or(0, |worker| worker.operations.len());
        assert_eq!(open, 0, "a worker was destroyed under operations");
    });
}

unsafe extern "C" fn ucp_worker_set_am_recv_handler(
    worker: ucp_worker_h,
    param: *const ucp_am_handler_param_t,
) -> ucs_status_t {
    // SAFETY: INV-5, the caller's structure.
    let param = unsafe { &*param };
    with(|world| {
        let found = world.workers.get_mut(&number(worker));
        let handlers = &mut found.expect("the worker lives").handlers;
        handlers.insert(param.id, (param.cb, param.arg.expose_provenance()));
    });
    OK
}

unsafe extern "C" fn ucp_worker_progress(worker: ucp_worker_h) -> c_uint {
    let worker = number(worker);
    let work = with(|world| {
        let found = world.workers.get_mut(&worker).expect("the worker lives");
        if let Some(work) = found.work.pop_front() {
            return Some(work);
        }
        let op = world.next_operation(worker)?;
        let status = super::carry_out(world, &op);
        Some(Work::Done(op.callback, status))
    });
    let Some(work) = work else { return 0 };
    match work {
        Work::Done(callback, status) => finish(callback, status),
        Work::Failed(endpoint) => tell_failure(endpoint),
        Work::Message {
            id,
            head,
            body,
            reply,
        } => deliver(worker, id, &head, body, reply),
    }
    1
}

fn finish(callback: Callback, status: ucs_status_t) {
    with(|world| world.uses.remove(&callback.request));
    let Some(call) = callback.call else { return };
    let data = ptr::with_exposed_provenance_mut(callback.data);
    // SAFETY: INV-7, the callback that came with the operation, called once.
    unsafe { call(handle(callback.request), status, data) };
}

fn tell_failure(endpoint: usize) {
    let found = with(|world| {
        let found = world.endpoints.get(&endpoint)?;
        Some((found.handler?, found.argument, world.faults.breach))
    });
    let Some((call, argument, breach)) = found else {
        return;
    };
    let argument = ptr::with_exposed_provenance_mut(argument);
    let status = breach.unwrap_or(ucs_status_t::UCS_ERR_CONNECTION_RESET);
    // SAFETY: INV-7, the handler of a live endpoint.
    unsafe { call(argument, handle(endpoint), status) };
}

fn deliver(worker: usize, id: u32, head: &[u8], mut body: Vec<u8>, reply: Option<usize>) {
    let handler = with(|world| world.workers[&worker].handlers.get(&id).copied());
    let Some((Some(call), argument)) = handler else {
        return;
    };
    let param = ucp_am_recv_param_t {
        recv_attr: reply.map_or(0, |_| {
            ucp_am_recv_attr_t::UCP_AM_RECV_ATTR_FIELD_REPLY_EP.0.into()
        }),
        reply_ep: handle(reply.unwrap_or(0)),
    };
    let argument = ptr::with_exposed_provenance_mut(argument);
    // SAFETY: INV-7, the handler of a live worker; everything outlives the call.
    unsafe {
        call(
            argument,
            head.as_ptr().cast(),
            head.len(),
            body.as_mut_ptr().cast(),
            body.len(),
            &param,
        )
    };
}

unsafe extern "C" fn ucp_ep_create(
    worker: ucp_worker_h,
    params: *const ucp_ep_params_t,
    endpoint: *mut ucp_ep_h,
) -> ucs_status_t {
    if let Some(refused) = with(|world| world.faults.connect) {
        return refused;
    }
    // SAFETY: INV-5, the caller's structure.
    let params = unsafe { &*params };
    let address = copied(params.address.cast(), 9);
    let uuid: [u8; 8] = address[1..].try_into().expect("eight bytes");
    let new = Endpoint {
        worker: number(worker),
        peer: u64::from_le_bytes(uuid) as usize,
        handler: params.err_handler.cb,
        argument: params.err_handler.arg.expose_provenance(),
        broken: false,
    };
    with(|world| {
        let alive = world.workers.contains_key(&new.peer);
        let at = new.worker;
        let number = world.number();
        world.endpoints.insert(number, new);
        if !alive {
            world.at(at, Work::Failed(number));
        }
        give(endpoint, handle(number));
    });
    OK
}

unsafe extern "C" fn ucp_ep_close_nbx(
    endpoint: ucp_ep_h,
    _: *const ucp_request_param_t,
) -> ucs_status_ptr_t {
    with(|world| {
        let endpoint = number(endpoint);
        world.cancel(endpoint);
        let gone = world.endpoints.remove(&endpoint);
        let gone = gone.expect("an endpoint is closed once");
        let worker = world.workers.get_mut(&gone.worker);
        if let Some(worker) = worker {
            let of_it = |work: &Work| matches!(work, Work::Failed(e) if *e == endpoint);
            worker.work.retain(|work| !of_it(work));
        }
        world.closed(&gone);
    });
    ptr::null_mut()
}

unsafe extern "C" fn ucp_ep_flush_nbx(
    endpoint: ucp_ep_h,
    param: *const ucp_request_param_t,
) -> ucs_status_ptr_t {
    let callback = callback(param);
    // Behind whatever was begun: a get of nothing.
    take(Operation {
        endpoint: number(endpoint),
        peer: 0,
        get: true,
        local: 0,
        len: 0,
        memory: 0,
        remote: 0,
        key: 0,
        callback,
    })
}

fn take(mut op: Operation) -> ucs_status_ptr_t {
    with(|world| {
        world.uses.insert(op.callback.request, (op.memory, op.key));
        let endpoint = &world.endpoints[&op.endpoint];
        let worker = endpoint.worker;
        op.peer = endpoint.peer;
        if endpoint.broken {
            world.at(
                worker,
                Work::Done(op.callback, ucs_status_t::UCS_ERR_CONNECTION_RESET),
            );
        } else if let Some(worker) = world.workers.get_mut(&worker) {
            worker.operations.push_back(op);
        }
        handle(op.callback.request)
    })
}

fn begin(
    endpoint: ucp_ep_h,
    get: bool,
    (local, len): (Pointer, usize),
    (remote, key): (u64, ucp_rkey_h),
    param: *const ucp_request_param_t,
) -> ucs_status_ptr_t {
    if let Some(refusal) = with(|world| world.refusal()) {
        return failure(refusal);
    }
    // SAFETY: INV-5, the caller's structure.
    let memory = number(unsafe { (*param).memh });
    take(Operation {
        endpoint: number(endpoint),
        peer: 0,
        get,
        local,
        len,
        memory,
        remote: remote as usize,
        key: number(key),
        callback: callback(param),
    })
}

unsafe extern "C" fn ucp_put_nbx(
    endpoint: ucp_ep_h,
    buffer: *const c_void,
    count: usize,
    remote: u64,
    key: ucp_rkey_h,
    param: *const ucp_request_param_t,
) -> ucs_status_ptr_t {
    let local = (buffer.expose_provenance(), count);
    begin(endpoint, false, local, (remote, key), param)
}

unsafe extern "C" fn ucp_get_nbx(
    endpoint: ucp_ep_h,
    buffer: *mut c_void,
    count: usize,
    remote: u64,
    key: ucp_rkey_h,
    param: *const ucp_request_param_t,
) -> ucs_status_ptr_t {
    let local = (buffer.expose_provenance(), count);
    begin(endpoint, true, local, (remote, key), param)
}

unsafe extern "C" fn ucp_am_send_nbx(
    endpoint: ucp_ep_h,
    id: c_uint,
    head: *const c_void,
    head_len: usize,
    buffer: *const c_void,
    count: usize,
    param: *const ucp_request_param_t,
) -> ucs_status_ptr_t {
    let (head, body) = (copied(head, head_len), copied(buffer, count));
    // SAFETY: INV-5, the caller's structure.
    let flags = unsafe { (*param).flags };
    let answer = flags & ucp_send_am_flags::UCP_AM_SEND_FLAG_REPLY.0 != 0;
    let callback = callback(param);
    with(|world| {
        let sender = &world.endpoints[&number(endpoint)];
        let (from, to, broken) = (sender.worker, sender.peer, sender.broken);
        let mut status = ucs_status_t::UCS_ERR_CONNECTION_RESET;
        if !broken && world.workers.contains_key(&to) {
            status = OK;
            let reply = answer.then(|| world.way_back(to, from));
            let message = Work::Message {
                id,
                head,
                body,
                reply,
            };
            world.at(to, message);
        }
        world.at(from, Work::Done(callback, status));
    });
    handle(callback.request)
}

unsafe extern "C" fn ucp_request_free(request: *mut c_void) {
    let known = with(|world| world.requests.remove(&number(request)));
    assert!(known, "a request is freed once");
}
