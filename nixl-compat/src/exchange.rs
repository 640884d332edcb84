//! Metadata.

use std::{
    ffi::{CString, c_char, c_void},
    sync::Arc,
};

use nixl::p2p;

use crate::{
    agent::Agent,
    args::options,
    ffi::{Array, Out, Text},
    handle::Handle,
    list::{RegList, XferList},
    status::{Result, Status, call},
};

/// The agent, if it has a backend whose metadata there could be.
fn agent(agent: Handle) -> Result<Arc<Agent>> {
    let agent = agent.get::<Agent>()?;
    agent.check_backend(Status::InvalidParam)?;
    Ok(agent)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_get_local_md(
    handle: Handle,
    data: Out<*mut c_void>,
    len: Out<usize>,
) -> Status {
    call(|| {
        data.check()?;
        len.check()?;
        data.give(&len, &agent(handle)?.core.metadata()?)
    })
}

/// Of the regions listed, with how to reach the agent; of an empty list only the latter.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_get_local_partial_md(
    handle: Handle,
    list: Handle,
    data: Out<*mut c_void>,
    len: Out<usize>,
    args: Handle,
) -> Status {
    call(|| {
        data.check()?;
        len.check()?;
        options(args)?;
        let agent = agent(handle)?;
        let regions = agent.registered(&*list.get::<RegList>()?)?;
        let blob = agent.core.partial_metadata(&regions, true)?;
        data.give(&len, &blob)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_load_remote_md(
    handle: Handle,
    data: Array<u8>,
    len: usize,
    name: Out<*mut c_char>,
) -> Status {
    call(|| {
        name.check()?;
        let agent = handle.get::<Agent>()?;
        let blob = data.get(len)?;
        if blob.is_empty() {
            return Err(Status::InvalidParam);
        }
        let peer = agent.core.load_metadata(blob)?;
        name.give(&CString::new(peer).map_err(|_| Status::Backend)?)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_invalidate_remote_md(handle: Handle, peer: Text) -> Status {
    call(|| {
        handle.get::<Agent>()?.core.remove_peer(peer.get()?)?;
        Ok(())
    })
}

/// Whether metadata of the peer is loaded and covers every block of the list, if there is one.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_check_remote_md(
    handle: Handle,
    peer: Text,
    list: Handle,
) -> Status {
    call(|| {
        let agent = handle.get::<Agent>()?;
        let peer = peer.get()?;
        if !agent.knows(peer) {
            return Err(Status::NotFound);
        }
        match list.optional::<XferList>()? {
            Some(list) if !list.items.lock().is_empty() => {
                let list = list.descriptors()?;
                agent.core.prepare_remote(peer, &list)?;
                Ok(())
            }
            _ => Ok(()),
        }
    })
}

// --- from agent to agent ---

/// NIXL's default port.
const PORT: u16 = 8888;

/// Where the options point. Errors: `InvalidParam` for nowhere: metadata servers (etcd, TCPStore)
/// are not used by these calls.
fn address(args: Handle) -> Result<String> {
    let options = options(args)?.ok_or(Status::InvalidParam)?;
    let ip = options.ip.filter(|ip| !ip.is_empty());
    let ip = ip.ok_or(Status::InvalidParam)?;
    let port = options.port.filter(|port| *port != 0).unwrap_or(PORT);
    Ok(match ip.contains(':') {
        true => format!("[{ip}]:{port}"),
        false => format!("{ip}:{port}"),
    })
}

/// As NIXL's, these calls only begin: what they come to shows in `nixl_capi_check_remote_md`,
/// here or at the other agent.
fn begin(
    what: &'static str,
    address: String,
    run: impl FnOnce(&str) -> nixl::Result<()> + Send + 'static,
) -> Result {
    let work = move || {
        if let Err(e) = run(&address) {
            tracing::warn!(address, "{what}: {e}");
        }
    };
    let thread = std::thread::Builder::new().name("nixl-p2p".to_owned());
    thread.spawn(work).map_err(|_| Status::Backend)?;
    Ok(())
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_send_local_md(handle: Handle, args: Handle) -> Status {
    call(|| {
        let (core, to) = (agent(handle)?.core.clone(), address(args)?);
        begin("sending metadata", to, move |to| p2p::send(&core, to, None))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_send_local_partial_md(
    handle: Handle,
    list: Handle,
    args: Handle,
) -> Status {
    call(|| {
        let agent = agent(handle)?;
        let regions = agent.registered(&*list.get::<RegList>()?)?;
        let (core, to) = (agent.core.clone(), address(args)?);
        begin("sending metadata", to, move |to| {
            p2p::send(&core, to, Some(&regions))
        })
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_fetch_remote_md(
    handle: Handle,
    peer: Text,
    args: Handle,
) -> Status {
    call(|| {
        let (core, from) = (agent(handle)?.core.clone(), address(args)?);
        peer.get()?;
        begin("fetching metadata", from, move |from| {
            p2p::fetch(&core, from).map(drop)
        })
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_invalidate_local_md(handle: Handle, args: Handle) -> Status {
    call(|| {
        let (core, to) = (agent(handle)?.core.clone(), address(args)?);
        begin("withdrawing metadata", to, move |to| {
            p2p::invalidate(&core, to)
        })
    })
}
