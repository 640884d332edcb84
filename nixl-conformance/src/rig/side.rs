//! One end of a connection, with everything that the backend reported on it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use nixl_core::{
    Error, RegionId,
    auth::PeerIdentity,
    backend::{ConnHandler, Endpoint},
};
use parking_lot::Mutex;

use super::journal::Journal;

/// One end of a connection.
pub struct Side {
    journal: Arc<Journal>,
    endpoint: Mutex<Option<Arc<dyn Endpoint>>>,
    /// Who connected; `None` on the connecting side.
    pub(crate) peer: Option<PeerIdentity>,
    messages: Mutex<Vec<(Instant, Bytes)>>,
    closed: Mutex<Option<Error>>,
    /// Posts taken less tokens completed.
    open: AtomicI64,
    delivering: AtomicBool,
}

impl Side {
    pub(crate) fn new(
        journal: Arc<Journal>,
        endpoint: Arc<dyn Endpoint>,
        peer: Option<PeerIdentity>,
    ) -> Arc<Self> {
        Arc::new(Self {
            journal,
            endpoint: Mutex::new(Some(endpoint)),
            peer,
            messages: Mutex::new(Vec::new()),
            closed: Mutex::new(None),
            open: AtomicI64::new(0),
            delivering: AtomicBool::new(false),
        })
    }

    /// The endpoint. Panics after the rig was taken down.
    pub fn endpoint(&self) -> Arc<dyn Endpoint> {
        self.endpoint.lock().clone().expect("the rig is up")
    }

    /// Lets go of the endpoint, which refers back to this.
    pub(crate) fn release(&self) {
        self.endpoint.lock().take();
    }

    /// Sends `message`. Panics if the connection is closed.
    pub fn send(&self, message: impl Into<Bytes>) {
        if let Err(e) = self.endpoint().send(message.into()) {
            panic!(
                "sending failed: {e}; connections ended: {}",
                self.journal.ends()
            );
        }
    }

    /// `Endpoint::forget`.
    pub fn forget(&self, region: RegionId) {
        self.endpoint().forget(region);
    }

    /// Messages delivered so far.
    pub fn received(&self) -> usize {
        self.messages.lock().len()
    }

    /// Message number `n` and when it came.
    pub fn message(&self, n: usize) -> (Instant, Bytes) {
        self.messages.lock()[n].clone()
    }

    /// How the connection ended, if it did.
    pub fn closed(&self) -> Option<Error> {
        self.closed.lock().clone()
    }

    pub(crate) fn count_open(&self, change: i64) {
        self.open.fetch_add(change, Ordering::SeqCst);
    }
}

impl ConnHandler for Side {
    fn message(&self, message: &[u8]) {
        if self.delivering.swap(true, Ordering::SeqCst) {
            self.journal
                .violation("two threads delivered messages of one connection at once");
        }
        if self.closed.lock().is_some() {
            self.journal.violation("a message came after `closed`");
        }
        self.messages
            .lock()
            .push((Instant::now(), Bytes::copy_from_slice(message)));
        self.delivering.store(false, Ordering::SeqCst);
        self.journal.ring();
    }

    fn closed(&self, why: Error) {
        let open = self.open.load(Ordering::SeqCst);
        if open > 0 {
            self.journal.violation(format!(
                "`closed` was reported while {open} tokens of the connection were open"
            ));
        }
        let before = self.closed.lock().replace(why.clone());
        if let Some(before) = before {
            self.journal
                .violation(format!("`closed` was reported twice: {before}, then {why}"));
        }
        let end = if self.peer.is_some() { "far" } else { "near" };
        self.journal.end(format!("{end}: {why}"));
    }
}
