//! NIXL's agents: what they are told of this backend, and how a connection to one begins.

use std::sync::Arc;

use bytes::Bytes;
use nixl_core::{
    Result,
    backend::{Backend as _, ConnectDone, NixlFace, PeerAddress},
};
use ucx_sys::Version;

use crate::{
    backend::{UCX, UcxBackend},
    engine::{Engine, Foreign, Order},
    fault::unsupported,
    paths::one_sided,
    shape,
};

/// The first UCX from which the UCX of NIXL 1.4 and 1.5 takes one-sided operations.
const INITIATOR: Version = Version {
    major: 1,
    minor: 19,
    release: 0,
};
/// The first one that it understands in both roles and over whatever transport.
pub(crate) const BOTH: Version = Version {
    major: 1,
    minor: 22,
    release: 0,
};

impl UcxBackend {
    /// An agent that cannot be their target is not told to NIXL's agents: their requests would
    /// neither succeed nor fail.
    pub(crate) fn face(&self) -> NixlFace {
        let spoken = self.library().version() >= BOTH;
        NixlFace {
            name: "UCX",
            conn: self.worker_address().filter(|_| spoken),
            paths: one_sided(self.paths()),
        }
    }

    /// Connects to a NIXL agent, always from the worker that it was told of.
    pub(crate) fn reach(&self, engines: &[Arc<Engine>], peer: &PeerAddress, done: ConnectDone) {
        let address = match self.address_of(peer) {
            Ok(address) => address,
            Err(why) => return done.failed(why.with_peer(&peer.card.name)),
        };
        let peer = peer.card.name.clone();
        if let Some(engine) = engines.first() {
            engine.order(Order::Reach(Foreign {
                peer,
                address,
                done,
            }));
        }
    }

    fn address_of(&self, peer: &PeerAddress) -> Result<Bytes> {
        let version = self.library().version();
        if version < INITIATOR {
            return Err(unsupported(format!(
                "UCX {version} here and the one of NIXL do not understand each other; {INITIATOR} or \
                 newer is needed, {BOTH} for both directions"
            )));
        }
        let card = peer.card.backend(UCX);
        let card = card.ok_or_else(|| unsupported("the NIXL agent has no UCX"))?;
        shape::check_worker_address(&card.address)?;
        Ok(card.address.clone())
    }
}
