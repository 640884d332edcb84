//! A connection over the Unix socket as core holds it.

use std::sync::Arc;

use bytes::Bytes;
use nixl_core::{
    ErrorKind, PathName, RegionId, Result,
    backend::{Endpoint, Transfer},
    error::fail,
    plan::Plan,
};

use crate::{
    backend::{CMA, LOCAL, SHM, check_plan},
    fault,
    link::Link,
    mover::Mover,
    remote::{Remote, Way},
};

/// The endpoint that core holds.
pub(crate) struct SocketEndpoint(pub(crate) Arc<Link>);

impl SocketEndpoint {
    fn way(&self, path: PathName, plan: &Plan) -> Result<Way> {
        match path {
            SHM => match plan.remote().regions().iter().find(|r| !r.shareable) {
                None => Ok(Way::Mapped),
                Some(r) => Err(fail(
                    ErrorKind::Unsupported,
                    format!(
                        "the peer's region at {:#x} was not allocated by its agent, so it cannot be \
                         mapped",
                        r.addr
                    ),
                )),
            },
            CMA => match self.0.met.get() {
                Some(met) => met.cma.clone().map(Way::Cross),
                None => Err(fail(ErrorKind::Unsupported, "no CMA: not connected yet")),
            },
            LOCAL => Err(fail(ErrorKind::Unsupported, "the peer is another process")),
            other => Err(fail(
                ErrorKind::Unsupported,
                format!("the ipc backend has no path {other:?}"),
            )),
        }
    }
}

// SAFETY: INV-1, `Mover` keeps it.
unsafe impl Endpoint for SocketEndpoint {
    fn prepare(&self, path: PathName, plan: &Arc<Plan>) -> Result<Arc<dyn Transfer>> {
        let link = &self.0;
        link.gate().check()?;
        check_plan(plan)?;
        let way = self.way(path, plan)?;
        let inline = link.node.is_inline(path, plan);
        let side = Remote::new(link.clone(), way, plan);
        let runtime = link.node.ctx.runtime.clone();
        Ok(Arc::new(Mover::new(plan.clone(), side, runtime, inline)))
    }

    fn send(&self, message: Bytes) -> Result<()> {
        self.0.send(message)
    }

    fn forget(&self, region: RegionId) {
        self.0.imports().forget(region);
    }

    fn describe(&self, path: PathName) -> String {
        path.to_owned()
    }

    fn close(&self) {
        self.0.shut(fault::gone("the connection was closed here"));
    }
}
