//! Notifications.

use std::{
    collections::BTreeMap,
    ffi::{CString, c_char, c_void},
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    agent::Agent,
    args::options,
    ffi::{Array, Kept, Out, Text},
    handle::Handle,
    status::{Result, Status, call},
};

/// Who sent what. C is given pointers into it, so it changes only where C asks for that.
type Notifications = Mutex<BTreeMap<CString, Vec<Bytes>>>;

fn look<T>(map: Handle, agent: Text, read: impl FnOnce(&[Bytes]) -> Result<T>) -> Result<T> {
    let map = map.get::<Notifications>()?;
    let agent = CString::new(agent.get()?).map_err(|_| Status::InvalidParam)?;
    let map = map.lock();
    read(map.get(&agent).ok_or(Status::InvalidParam)?)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_create_notif_map(out: Out<Handle>) -> Status {
    call(|| {
        out.check()?;
        out.put(Handle::new(Notifications::default()))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_destroy_notif_map(map: Handle) -> Status {
    call(|| map.take::<Notifications>().map(drop))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_notif_map_clear(map: Handle) -> Status {
    call(|| {
        map.get::<Notifications>()?.lock().clear();
        Ok(())
    })
}

/// Adds what has come since the last call.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_get_notifs(agent: Handle, map: Handle, args: Handle) -> Status {
    call(|| {
        let agent = agent.get::<Agent>()?;
        let map = map.get::<Notifications>()?;
        options(args)?;
        let mut map = map.lock();
        for new in agent.core.notifications() {
            // A name with a zero byte in it is nothing that C could be told.
            if let Ok(from) = CString::new(&*new.from) {
                map.entry(from).or_default().push(new.data);
            }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_gen_notif(
    agent: Handle,
    peer: Text,
    data: Array<u8>,
    len: usize,
    args: Handle,
) -> Status {
    call(|| {
        let agent = agent.get::<Agent>()?;
        options(args)?;
        let peer = peer.get()?;
        let sent = agent.core.notify(peer, data.get(len)?);
        sent.map_err(|e| agent.judge(peer, e))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_notif_map_size(map: Handle, out: Out<usize>) -> Status {
    call(|| out.put(map.get::<Notifications>()?.lock().len()))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_notif_map_get_agent_at(
    map: Handle,
    index: usize,
    out: Out<Kept<c_char>>,
) -> Status {
    call(|| {
        let map = map.get::<Notifications>()?;
        let map = map.lock();
        let agent = map.keys().nth(index).ok_or(Status::InvalidParam)?;
        out.put(Kept::text(agent))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_notif_map_get_notifs_size(
    map: Handle,
    agent: Text,
    out: Out<usize>,
) -> Status {
    call(|| look(map, agent, |all| out.put(all.len())))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_notif_map_get_notif(
    map: Handle,
    agent: Text,
    index: usize,
    data: Out<Kept<c_void>>,
    len: Out<usize>,
) -> Status {
    call(|| {
        look(map, agent, |all| {
            let one = all.get(index).ok_or(Status::InvalidParam)?;
            data.put(Kept::bytes(one))?;
            len.put(one.len())
        })
    })
}
