//! What arrives on connections, ours to the peer and the peers' to us.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use super::{Link, Peer, encode_ack};
use crate::{
    BackendName, Error, RegionId,
    agent::Shared,
    auth::PeerIdentity,
    backend::{ConnHandler, Endpoint},
    flip,
    notify::Message,
};

/// Handler of a connection that we made.
pub(crate) struct LinkHandler {
    pub(super) peer: Arc<Peer>,
    pub(super) link: Arc<Link>,
}

impl ConnHandler for LinkHandler {
    fn message(&self, bytes: &[u8]) {
        let handled = Message::decode(bytes).and_then(|message| match message {
            Message::Ack(ack) => self.peer.acked(ack),
            Message::Revoke(id) => {
                self.peer.give_back(id, &self.link);
                Ok(())
            }
            Message::Probed { id, ok } => {
                self.peer.probe_answered(id, ok);
                Ok(())
            }
            Message::Flipped { id, status } => {
                self.peer.flipped(id, status);
                Ok(())
            }
            other => Err(other.unexpected()),
        });
        if let Err(error) = handled {
            tracing::warn!(peer = %self.peer.name, %error, "closing the connection");
            self.link.endpoint.close();
        }
    }

    fn closed(&self, why: Error) {
        self.peer.link_closed(&self.link, why);
    }
}

/// A connection that a peer made to us.
pub(crate) struct Incoming {
    shared: Weak<Shared>,
    pub(crate) backend: BackendName,
    pub(crate) from: Arc<str>,
    pub(crate) identity: PeerIdentity,
    endpoint: Arc<dyn Endpoint>,
    open: AtomicBool,
    /// Regions that the peer was asked to let go of.
    asked: Mutex<Vec<RegionId>>,
}

impl Incoming {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        backend: BackendName,
        identity: PeerIdentity,
        endpoint: Arc<dyn Endpoint>,
    ) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            backend,
            from: identity.name.as_str().into(),
            identity,
            endpoint,
            open: AtomicBool::new(true),
            asked: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(crate) fn close(&self) {
        self.endpoint.close();
    }

    /// Asks the peer to let go of a region.
    pub(crate) fn revoke(&self, id: RegionId) {
        self.asked.lock().push(id);
        // A closed connection is an answer too.
        let _ = self.endpoint.send(Message::Revoke(id).encode());
    }

    /// Sends a message; lost if the connection is closed.
    pub(crate) fn send(&self, message: &Message<'_>) {
        let _ = self.endpoint.send(message.encode());
    }

    /// Whether the peer may still touch the region.
    pub(crate) fn holds(&self, id: RegionId) -> bool {
        self.is_open() && self.asked.lock().contains(&id)
    }

    /// What the peer was asked to let go of and may still touch.
    pub(crate) fn held(&self) -> Vec<RegionId> {
        if self.is_open() {
            self.asked.lock().clone()
        } else {
            Vec::new()
        }
    }

    /// Sends the acknowledgement that is due, if one is.
    pub(crate) fn acknowledge(&self, shared: &Shared) {
        let owed = shared
            .inbox
            .lock()
            .owed(&self.from, self.identity.generation);
        if let Some(ack) = owed {
            // Lost with the connection, it is owed again on the next one.
            let _ = self.endpoint.send(encode_ack(ack));
        }
    }
}

/// Handler of an [`Incoming`].
pub(crate) struct IncomingHandler(pub(crate) Arc<Incoming>);

impl ConnHandler for IncomingHandler {
    fn message(&self, bytes: &[u8]) {
        let Some(shared) = self.0.shared.upgrade() else {
            return;
        };
        let handled = Message::decode(bytes).and_then(|message| match message {
            Message::Notify { seq, data } => shared.notified(&self.0, seq, data),
            Message::Revoked(id) => {
                self.0.asked.lock().retain(|r| *r != id);
                Ok(())
            }
            Message::Probe {
                id,
                region,
                offset,
                nonce,
            } => {
                let ok = shared.probe_memory.holds(region, offset, nonce);
                self.0.endpoint.send(Message::Probed { id, ok }.encode())
            }
            Message::Flip(order) => flip::perform(&shared, &self.0, order),
            Message::Unflip(id) => {
                shared.flips.cancel(&self.0, id);
                Ok(())
            }
            other => Err(other.unexpected()),
        });
        if let Err(error) = handled {
            tracing::warn!(peer = %self.0.from, %error, "closing the connection");
            self.0.endpoint.close();
        }
    }

    fn closed(&self, why: Error) {
        self.0.open.store(false, Ordering::Release);
        if let Some(shared) = self.0.shared.upgrade() {
            tracing::debug!(peer = %self.0.from, backend = self.0.backend, %why, "peer disconnected");
            shared.incoming_closed(&self.0);
            shared.flips.incoming_closed(&self.0);
        }
    }
}
