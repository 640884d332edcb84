//! A connection as core holds it.

use std::sync::Arc;

use bytes::Bytes;
use nixl_core::{
    MemKind, PathName, RegionId, Result,
    backend::{Endpoint, Transfer},
    plan::Plan,
};

use crate::{
    engine::{Conn, Order, Rma, Rndv},
    fault::{closed_here, unsupported},
    paths::{Way, way_of_path},
};

/// The endpoint that core holds.
pub(crate) struct UcxEndpoint(pub(crate) Arc<Conn>);

impl UcxEndpoint {
    /// Errors unless `path` is what UCX uses for this connection.
    fn check_path(&self, path: PathName) -> Result<Way> {
        let Some((way, class)) = way_of_path(path) else {
            return Err(unsupported(format!("the ucx backend has no path {path:?}")));
        };
        let lanes = self.0.lanes();
        let has = match way {
            Way::Rma => lanes.class(),
            Way::Rendezvous => lanes.class_of_bulk(),
        };
        if way == Way::Rendezvous && self.0.is_foreign() {
            return Err(unsupported("NIXL's agents do not take part in rendezvous"));
        }
        if has == class {
            return Ok(way);
        }
        let how = if lanes.is_emulated() {
            ", by messages that the peer's processor copies from"
        } else {
            ""
        };
        Err(unsupported(format!(
            "UCX chose {lanes} for this peer{how}; what it may choose from is said by UCX_TLS and \
             UCX_NET_DEVICES on both sides, and by whether both see the same devices, processes and \
             shared memory"
        )))
    }
}

// SAFETY: INV-1, `Rma` keeps it.
unsafe impl Endpoint for UcxEndpoint {
    fn prepare(&self, path: PathName, plan: &Arc<Plan>) -> Result<Arc<dyn Transfer>> {
        let conn = &self.0;
        conn.gate.check()?;
        let kinds = (plan.local().kind(), plan.remote().kind());
        if kinds != (MemKind::Dram, MemKind::Dram) {
            let (ours, theirs) = kinds;
            return Err(unsupported(format!(
                "the ucx backend moves host memory so far, not {ours:?} to or from {theirs:?}"
            )));
        }
        if self.check_path(path)? == Way::Rendezvous {
            return Ok(Arc::new(Rndv::new(conn, plan)));
        }
        let transfer = Arc::new(Rma::new(conn, plan));
        // The keys are asked for now, so that a post finds them there.
        conn.engine.order(Order::Send(conn.clone()));
        Ok(transfer)
    }

    fn send(&self, message: Bytes) -> Result<()> {
        self.0.send(message)
    }

    fn unsent(&self) -> u64 {
        self.0.unsent()
    }

    fn forget(&self, region: RegionId) {
        self.0.imports.forget(region);
    }

    fn describe(&self, path: PathName) -> String {
        let lanes = self.0.lanes();
        match way_of_path(path) {
            Some((Way::Rendezvous, _)) => lanes.bulk_names(self.0.engine.rndv_scheme()),
            _ => lanes.to_string(),
        }
    }

    fn close(&self) {
        self.0.close(closed_here());
    }
}
