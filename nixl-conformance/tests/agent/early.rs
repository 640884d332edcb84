//! A backend whose posts meet other threads: what core does when a call comes in between.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use nixl_conformance::sim::SimBackend;
use nixl_core::{
    BackendName, PathCaps, PathName, RegionId, Result,
    backend::{Backend, ConnectDone, Context, Endpoint, PeerAddress, Refused, Transfer},
    inflight::Completion,
    mem::{Region, Registration},
    plan::Plan,
};
use parking_lot::Mutex;

/// May keep the token: then the post never ends.
pub(crate) type Hook = Arc<Mutex<Option<Box<dyn Fn(Completion) -> Option<Completion> + Send>>>>;

/// A simulated backend that calls its hook at the beginning of every post.
pub(crate) struct Early {
    pub(crate) inner: SimBackend,
    pub(crate) hook: Hook,
}

impl Backend for Early {
    fn name(&self) -> BackendName {
        self.inner.name()
    }

    fn paths(&self) -> &[PathCaps] {
        self.inner.paths()
    }

    fn start(&self, ctx: Context) -> Result<Bytes> {
        self.inner.start(ctx)
    }

    fn register(&self, region: &Region) -> Result<Option<Box<dyn Registration>>> {
        self.inner.register(region)
    }

    fn connect(&self, peer: Arc<PeerAddress>, done: ConnectDone) {
        let hook = self.hook.clone();
        let done = ConnectDone::new(move |result| match result {
            Ok(inner) => done.connected(Arc::new(EarlyEnd { inner, hook })),
            Err(why) => {
                done.failed(why);
                None
            }
        });
        self.inner.connect(peer, done);
    }

    fn tick(&self, now: Instant) -> Option<Instant> {
        self.inner.tick(now)
    }

    fn shutdown(&self) {
        self.inner.shutdown();
    }
}

struct EarlyEnd {
    inner: Arc<dyn Endpoint>,
    hook: Hook,
}

// SAFETY: INV-1, the simulated backend keeps it.
unsafe impl Endpoint for EarlyEnd {
    fn prepare(&self, path: PathName, plan: &Arc<Plan>) -> Result<Arc<dyn Transfer>> {
        let (inner, hook) = (self.inner.prepare(path, plan)?, self.hook.clone());
        Ok(Arc::new(EarlyTransfer { inner, hook }))
    }

    fn send(&self, message: Bytes) -> Result<()> {
        self.inner.send(message)
    }

    fn forget(&self, region: RegionId) {
        self.inner.forget(region);
    }

    fn describe(&self, path: PathName) -> String {
        self.inner.describe(path)
    }

    fn close(&self) {
        self.inner.close();
    }
}

struct EarlyTransfer {
    inner: Arc<dyn Transfer>,
    hook: Hook,
}

// SAFETY: INV-1, the simulated backend keeps it.
unsafe impl Transfer for EarlyTransfer {
    fn post(self: Arc<Self>, done: Completion) -> Result<(), Refused> {
        let token = match &*self.hook.lock() {
            Some(hook) => hook(done),
            None => Some(done),
        };
        token.map_or(Ok(()), |done| self.inner.clone().post(done))
    }

    fn cancel(&self) {
        self.inner.cancel();
    }

    fn moved(&self) -> u64 {
        self.inner.moved()
    }

    fn fenced(&self) -> bool {
        self.inner.fenced()
    }
}
