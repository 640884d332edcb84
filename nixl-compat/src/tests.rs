//! What C gets wrong: a status each time, never a crash.

use std::ptr::{null, null_mut};

use crate::{
    agent::*, args::*, exchange::*, ffi::*, handle::Handle, list::*, memory::*, notify::*,
    query::*, request::*, status::Status,
};

fn out<T>(place: &mut T) -> Out<T> {
    Out::to(place)
}

fn made(create: impl FnOnce(Out<Handle>) -> Status) -> Handle {
    let mut handle = Handle::NULL;
    assert_eq!(create(out(&mut handle)), Status::Success);
    assert_ne!(handle, Handle::NULL);
    handle
}

fn agent() -> Handle {
    made(|out| nixl_capi_create_agent(Text::of(c"agent"), out))
}

fn backend(agent: Handle) -> Handle {
    let params = made(|out| nixl_capi_create_params(out));
    made(|out| nixl_capi_create_backend(agent, Text::of(c"UCX"), params, out))
}

/// Handles that are none: null, never made, destroyed, of another kind.
fn wrong(other: Handle) -> Vec<Handle> {
    let gone = made(|out| nixl_capi_create_params(out));
    assert_eq!(nixl_capi_destroy_params(gone), Status::Success);
    vec![Handle::NULL, Handle::invented(usize::MAX), gone, other]
}

#[test]
fn handles_that_are_none_are_refused() {
    let agent = agent();
    let null_args = Handle::NULL;
    for bad in wrong(agent) {
        let (mut n, mut yes, mut handle) = (0, false, Handle::NULL);
        let calls = [
            nixl_capi_destroy_params(bad),
            nixl_capi_params_is_empty(bad, out(&mut yes)),
            nixl_capi_destroy_opt_args(bad),
            nixl_capi_opt_args_set_has_notif(bad, true),
            nixl_capi_destroy_string_list(bad),
            nixl_capi_mem_list_size(bad, out(&mut n)),
            nixl_capi_destroy_backend(bad),
            nixl_capi_destroy_xfer_dlist(bad),
            nixl_capi_xfer_dlist_add_desc(bad, 1, 1, 0),
            nixl_capi_reg_dlist_desc_count(bad, out(&mut n)),
            nixl_capi_register_mem(agent, bad, null_args),
            nixl_capi_deregister_mem(agent, bad, null_args),
            nixl_capi_prep_xfer_dlist(agent, Text::of(c""), bad, out(&mut handle), null_args),
            nixl_capi_release_xfer_dlist_handle(agent, bad),
            nixl_capi_post_xfer_req(agent, bad, null_args),
            nixl_capi_get_xfer_status(agent, bad),
            nixl_capi_release_xfer_req(agent, bad),
            nixl_capi_destroy_xfer_req(bad),
            nixl_capi_get_notifs(agent, bad, null_args),
            nixl_capi_destroy_notif_map(bad),
            nixl_capi_destroy_query_resp_list(bad),
            nixl_capi_release_mem_view(agent, bad),
        ];
        assert_eq!(calls, [Status::InvalidParam; 22], "{bad:?}");
    }
    for bad in wrong(backend(agent)) {
        assert_eq!(nixl_capi_destroy_agent(bad), Status::InvalidParam);
        let mut plugins = Handle::NULL;
        let status = nixl_capi_get_available_plugins(bad, out(&mut plugins));
        assert_eq!(status, Status::InvalidParam);
    }
    assert_eq!(nixl_capi_destroy_agent(agent), Status::Success);
    assert_eq!(nixl_capi_destroy_agent(agent), Status::InvalidParam);
}

#[test]
fn null_pointers_and_bad_names_are_refused() {
    let nowhere = || Out::<Handle>::raw(null_mut());
    let mut agent = Handle::NULL;
    let no_text = Text::raw(null());
    let calls = [
        nixl_capi_create_agent(no_text, out(&mut agent)),
        nixl_capi_create_agent(Text::of(c"a"), nowhere()),
        nixl_capi_create_agent(Text::of(c"\xff"), out(&mut agent)),
        nixl_capi_create_agent(Text::of(c""), out(&mut agent)),
        nixl_capi_create_configured_agent(Text::of(c"a"), In::raw(null()), out(&mut agent)),
        nixl_capi_create_opt_args(nowhere()),
        nixl_capi_create_xfer_dlist(0, nowhere()),
        nixl_capi_create_xfer_dlist(6, out(&mut agent)),
        nixl_capi_mem_type_to_string(6, Out::raw(null_mut())),
    ];
    assert_eq!(calls, [Status::InvalidParam; 9]);
    let args = made(|out| nixl_capi_create_opt_args(out));
    let no_bytes = || Array::raw(null());
    for len in [1, usize::MAX] {
        let status = nixl_capi_opt_args_set_notif_msg(args, no_bytes(), len);
        assert_eq!(status, Status::InvalidParam);
    }
    let status = nixl_capi_opt_args_set_notif_msg(args, no_bytes(), 0);
    assert_eq!(status, Status::Success);
}

#[test]
fn lists_keep_to_their_bounds() {
    let list = made(|out| nixl_capi_create_xfer_dlist(0, out));
    assert_eq!(
        nixl_capi_xfer_dlist_add_desc(list, 4096, 64, 0),
        Status::Success
    );
    for index in [-1, 1, i32::MAX] {
        let status = nixl_capi_xfer_dlist_rem_desc(list, index);
        assert_eq!(status, Status::Backend, "{index}");
    }
    assert_eq!(
        nixl_capi_xfer_dlist_resize(list, usize::MAX),
        Status::Backend
    );
    let mut count = 0;
    nixl_capi_xfer_dlist_desc_count(list, out(&mut count));
    assert_eq!(count, 1);
    assert_eq!(nixl_capi_xfer_dlist_resize(list, 3), Status::Success);
    nixl_capi_xfer_dlist_len(list, out(&mut count));
    assert_eq!(count, 3);
}

fn reg_list(blocks: &[(usize, usize)]) -> Handle {
    let list = made(|out| nixl_capi_create_reg_dlist(0, out));
    for (addr, len) in blocks {
        let status = nixl_capi_reg_dlist_add_desc(list, *addr, *len, 0, Array::raw(null()), 0);
        assert_eq!(status, Status::Success);
    }
    list
}

/// As NIXL 1.5.1 does: `docs/nixl-compat.md`.
#[test]
fn memory_is_registered_as_often_as_it_is_deregistered() {
    let agent = agent();
    let memory = vec![0u8; 8192];
    let base = memory.as_ptr() as usize;
    let no_args = Handle::NULL;
    let whole = reg_list(&[(base, 4096)]);
    let register = |list| nixl_capi_register_mem(agent, list, no_args);
    let deregister = |list| nixl_capi_deregister_mem(agent, list, no_args);
    assert_eq!(
        register(whole),
        Status::NotFound,
        "before there is a backend"
    );
    backend(agent);
    assert_eq!(register(reg_list(&[])), Status::Backend);
    assert_eq!(register(whole), Status::Success);
    assert_eq!(register(whole), Status::Success);
    let overlapping = reg_list(&[(base + 2048, 4096)]);
    assert_eq!(register(overlapping), Status::Success);
    assert_eq!(deregister(reg_list(&[(base, 100)])), Status::NotFound);
    assert_eq!(deregister(whole), Status::Success);
    assert_eq!(deregister(whole), Status::Success);
    assert_eq!(deregister(whole), Status::NotFound);
    assert_eq!(deregister(overlapping), Status::Success);
    let wrapping = reg_list(&[(base, 4096), (usize::MAX - 10, 4096)]);
    assert_eq!(register(wrapping), Status::InvalidParam);
    assert_eq!(
        deregister(whole),
        Status::NotFound,
        "all of a list or nothing"
    );
    assert_eq!(nixl_capi_destroy_agent(agent), Status::Success);
}

#[test]
fn there_is_one_backend() {
    let agent = agent();
    let (mut data, mut len) = (null_mut(), 0);
    let status = nixl_capi_get_local_md(agent, out(&mut data), out(&mut len));
    assert_eq!(status, Status::InvalidParam);
    let params = made(|out| nixl_capi_create_params(out));
    let mut handle = Handle::NULL;
    let mut create = |name| nixl_capi_create_backend(agent, name, params, out(&mut handle));
    assert_eq!(create(Text::of(c"GDS")), Status::Backend);
    assert_eq!(create(Text::of(c"UCX")), Status::Success);
    assert_eq!(create(Text::of(c"UCX")), Status::Backend);
    let status = nixl_capi_get_local_md(agent, out(&mut data), out(&mut len));
    assert_eq!(status, Status::Success);
    let blob = Array::raw(data.cast::<u8>().cast_const());
    let mut name = null_mut();
    let status = nixl_capi_load_remote_md(agent, blob, len, out(&mut name));
    assert_eq!(status, Status::InvalidParam, "its own metadata");
    // SAFETY: INV-8, it was made for C to free.
    unsafe { libc::free(data) };
}
