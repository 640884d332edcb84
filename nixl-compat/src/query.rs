//! What needs a storage plugin or a GPU: refused, as by a NIXL without them.

use crate::{
    agent::Agent,
    args::options,
    ffi::Out,
    handle::Handle,
    list::{RegList, RemoteList, XferList},
    status::{Result, Status, call},
};

/// Answers to a query: never any, since there is nothing that could be asked.
struct Answers;

fn refuse(what: &str) -> Result {
    tracing::warn!("{what} not supported by this library");
    Err(Status::Backend)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_create_query_resp_list(out: Out<Handle>) -> Status {
    call(|| {
        out.check()?;
        out.put(Handle::new(Answers))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_destroy_query_resp_list(list: Handle) -> Status {
    call(|| list.take::<Answers>().map(drop))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_query_resp_list_size(list: Handle, out: Out<usize>) -> Status {
    call(|| {
        list.get::<Answers>()?;
        out.put(0)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_query_resp_list_has_value(
    list: Handle,
    _index: usize,
    _out: Out<bool>,
) -> Status {
    no_answer(list)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_query_resp_list_get_params(
    list: Handle,
    _index: usize,
    _out: Out<Handle>,
) -> Status {
    no_answer(list)
}

fn no_answer(list: Handle) -> Status {
    call(|| {
        list.get::<Answers>()?;
        Err(Status::InvalidParam)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_query_mem(
    agent: Handle,
    list: Handle,
    answers: Handle,
    args: Handle,
) -> Status {
    call(|| {
        agent.get::<Agent>()?;
        list.get::<RegList>()?;
        answers.get::<Answers>()?;
        options(args)?;
        refuse("querying memory, which storage plugins answer, is")
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_prep_mem_view_local(
    agent: Handle,
    list: Handle,
    _view: Out<Handle>,
    args: Handle,
) -> Status {
    call(|| {
        agent.get::<Agent>()?;
        list.get::<XferList>()?;
        options(args)?;
        refuse("a memory view for GPU kernels is")
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_prep_mem_view_remote(
    agent: Handle,
    list: Handle,
    _view: Out<Handle>,
    args: Handle,
) -> Status {
    call(|| {
        let agent = agent.get::<Agent>()?;
        let list = list.get::<RemoteList>()?;
        options(args)?;
        let items = list.items.lock();
        let mut named = items.iter().filter_map(Option::as_deref);
        let first = named.next().ok_or(Status::NotFound)?;
        if !agent.knows(first) || named.any(|name| !agent.knows(name)) {
            return Err(Status::NotFound);
        }
        refuse("a memory view for GPU kernels is")
    })
}

/// There is no view that could be released.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_release_mem_view(agent: Handle, _view: Handle) -> Status {
    call(|| {
        agent.get::<Agent>()?;
        Err(Status::InvalidParam)
    })
}
