//! Prepared lists and transfer requests.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use nixl::{
    Op, PostOptions, PreparedLocal, PreparedRemote, Request, Select, negotiate::CostSource,
};
use parking_lot::Mutex;

use crate::{
    agent::{Agent, Backend},
    args::{Options, options},
    ffi::{Array, Out, Text},
    handle::Handle,
    list::XferList,
    status::{Result, Status, call},
};

/// `nixl_capi_xfer_telemetry_s`
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Telemetry {
    start_time_us: u64,
    post_duration_us: u64,
    xfer_duration_us: u64,
    total_bytes: u64,
    desc_count: u64,
}

/// `nixl_capi_xfer_dlist_handle_s`
enum Prepared {
    Local(PreparedLocal),
    Remote(PreparedRemote),
}

/// `nixl_capi_xfer_req_s`: without its request once that is released.
struct Transfer {
    request: Mutex<Option<Arc<Request>>>,
    /// Sent with every post that does not say otherwise.
    notification: Option<Bytes>,
    posted: Mutex<Option<SystemTime>>,
}

impl Transfer {
    fn create(request: Request, args: Option<Options>) -> Handle {
        Handle::new(Self {
            request: Mutex::new(Some(Arc::new(request))),
            notification: args.and_then(|a| a.notification()),
            posted: Mutex::default(),
        })
    }

    fn request(&self) -> Result<Arc<Request>> {
        self.request.lock().clone().ok_or(Status::InvalidParam)
    }
}

fn operation(number: u32) -> Result<Op> {
    match number {
        0 => Ok(Op::Read),
        1 => Ok(Op::Write),
        _ => Err(Status::InvalidParam),
    }
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_prep_xfer_dlist(
    agent: Handle,
    owner: Text,
    list: Handle,
    out: Out<Handle>,
    args: Handle,
) -> Status {
    call(|| {
        out.check()?;
        let agent = agent.get::<Agent>()?;
        let list = list.get::<XferList>()?.descriptors()?;
        options(args)?;
        let prepared = match owner.get()? {
            "" => Prepared::Local(agent.core.prepare_local(&list)?),
            peer => Prepared::Remote(agent.core.prepare_remote(peer, &list)?),
        };
        out.put(Handle::new(prepared))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_release_xfer_dlist_handle(
    agent: Handle,
    prepared: Handle,
) -> Status {
    call(|| {
        agent.get::<Agent>()?;
        prepared.take::<Prepared>().map(drop)
    })
}

fn indices(list: Array<i32>, len: usize) -> Result<Vec<u32>> {
    let all = list.get(len)?.iter();
    all.map(|i| u32::try_from(*i).map_err(|_| Status::InvalidParam))
        .collect()
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_make_xfer_req(
    agent: Handle,
    op: u32,
    local: Handle,
    local_indices: Array<i32>,
    local_count: usize,
    remote: Handle,
    remote_indices: Array<i32>,
    remote_count: usize,
    out: Out<Handle>,
    args: Handle,
) -> Status {
    call(|| {
        out.check()?;
        let agent = agent.get::<Agent>()?;
        let (local, remote) = (local.get::<Prepared>()?, remote.get::<Prepared>()?);
        let (Prepared::Local(local), Prepared::Remote(remote)) = (&*local, &*remote) else {
            return Err(Status::InvalidParam);
        };
        let here = indices(local_indices, local_count)?;
        let there = indices(remote_indices, remote_count)?;
        if here.is_empty() {
            return Err(Status::InvalidParam);
        }
        let (here, there) = (Select::Indices(&here), Select::Indices(&there));
        let request = agent
            .core
            .request(operation(op)?, local, here, remote, there)
            .map_err(|e| agent.judge(remote.peer(), e))?;
        out.put(Transfer::create(request, options(args)?))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_create_xfer_req(
    agent: Handle,
    op: u32,
    local: Handle,
    remote: Handle,
    peer: Text,
    out: Out<Handle>,
    args: Handle,
) -> Status {
    call(|| {
        out.check()?;
        let agent = agent.get::<Agent>()?;
        let local = local.get::<XferList>()?.descriptors()?;
        let remote = remote.get::<XferList>()?.descriptors()?;
        let (op, peer) = (operation(op)?, peer.get()?);
        let request = agent.core.create_request(op, &local, peer, &remote)?;
        out.put(Transfer::create(request, options(args)?))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_post_xfer_req(
    agent: Handle,
    transfer: Handle,
    args: Handle,
) -> Status {
    call(|| {
        let agent = agent.get::<Agent>()?;
        let transfer = transfer.get::<Transfer>()?;
        let request = transfer.request()?;
        let notification = match options(args)?.and_then(|a| a.notification()) {
            Some(now) => Some(now),
            None => transfer.notification.clone(),
        };
        *transfer.posted.lock() = Some(SystemTime::now());
        let options = PostOptions {
            notification,
            ..PostOptions::default()
        };
        let posted = request.post_with(options);
        posted.map_err(|e| agent.judge(request.peer(), e))?;
        state(&request)
    })
}

fn state(request: &Request) -> Result {
    use nixl::Status::{Active, Cancelled, Done, Failed, Prepared, Stalled};
    match request.status() {
        Done => Ok(()),
        Active | Stalled => Err(Status::InProgress),
        Prepared | Cancelled => Err(Status::Backend),
        Failed(e) => Err(e.into()),
    }
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_get_xfer_status(agent: Handle, transfer: Handle) -> Status {
    call(|| {
        agent.get::<Agent>()?;
        state(&*transfer.get::<Transfer>()?.request()?)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_query_xfer_backend(
    agent: Handle,
    transfer: Handle,
    out: Out<Handle>,
) -> Status {
    call(|| {
        out.check()?;
        agent.get::<Agent>()?;
        transfer.get::<Transfer>()?.request()?;
        out.put(Handle::new(Backend))
    })
}

/// An active request is cancelled; its memory stays registered until nothing touches it.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_release_xfer_req(agent: Handle, transfer: Handle) -> Status {
    call(|| {
        agent.get::<Agent>()?;
        let transfer = transfer.get::<Transfer>()?;
        let released = transfer.request.lock().take();
        released.map(drop).ok_or(Status::InvalidParam)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_destroy_xfer_req(transfer: Handle) -> Status {
    call(|| {
        if transfer.get::<Transfer>()?.request.lock().is_some() {
            return Err(Status::InvalidState);
        }
        transfer.take::<Transfer>().map(drop)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_get_xfer_telemetry(
    agent: Handle,
    transfer: Handle,
    out: Out<Telemetry>,
) -> Status {
    call(|| {
        out.check()?;
        let agent = agent.get::<Agent>()?;
        let transfer = transfer.get::<Transfer>()?;
        if !agent.telemetry {
            return Err(Status::NoTelemetry);
        }
        let request = transfer.request()?;
        state(&request)?;
        let receipt = request.receipt().ok_or(Status::NoTelemetry)?;
        let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let start = transfer.posted.lock().map(since).unwrap_or_default();
        out.put(Telemetry {
            start_time_us: start.as_micros() as u64,
            post_duration_us: receipt.post_time.as_micros() as u64,
            xfer_duration_us: receipt.total_time.as_micros() as u64,
            total_bytes: receipt.bytes,
            desc_count: receipt.descriptors,
        })
    })
}

/// The negotiator's estimate for the best path. The margin is the estimate itself until transfers
/// to this peer were measured, and half of it from then on.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_estimate_xfer_cost(
    agent: Handle,
    transfer: Handle,
    args: Handle,
    duration_us: Out<i64>,
    margin_us: Out<i64>,
    method: Out<u32>,
) -> Status {
    const ANALYTICAL: u32 = 0;
    call(|| {
        let agent = agent.get::<Agent>()?;
        let request = transfer.get::<Transfer>()?.request()?;
        options(args)?;
        let found = agent.core.explain(request.peer(), &request.plan().demand());
        let found = found.map_err(|e| agent.judge(request.peer(), e))?;
        let best = found.ranked.first().ok_or(Status::NotFound)?;
        let estimate = i64::try_from(best.estimate_ns / 1000).unwrap_or(i64::MAX);
        duration_us.put(estimate)?;
        margin_us.put(match best.source {
            CostSource::Measured => estimate / 2,
            CostSource::Advertised => estimate,
        })?;
        method.put(ANALYTICAL)
    })
}
