//! Lets an agent answer on a metadata listener.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use nixl_core::{Agent, Error, ErrorKind, Result};
use nixl_meta::{
    DEFAULT_LABEL,
    tcp::{MetaHandler, Origin},
};

/// What a [`nixl_meta::tcp::MetaServer`] needs to serve `agent`: peers fetch its metadata, send
/// theirs, and ask to be forgotten. Keeps the agent only weakly.
pub fn metadata_handler(agent: &Arc<Agent>) -> Arc<dyn MetaHandler> {
    Arc::new(Handler(Arc::downgrade(agent)))
}

struct Handler(Weak<Agent>);

impl Handler {
    fn agent(&self) -> Result<Arc<Agent>> {
        self.0
            .upgrade()
            .ok_or_else(|| Error::new(ErrorKind::PeerGone, "this agent was shut down"))
    }
}

impl MetaHandler for Handler {
    fn local_blob(&self, label: &str, _: &Origin) -> Result<Bytes> {
        if label != DEFAULT_LABEL {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("this agent offers its metadata under {DEFAULT_LABEL:?} only"),
            ));
        }
        self.agent()?.metadata()
    }

    fn remote_blob(&self, blob: Bytes, _: &Origin) -> Result<String> {
        self.agent()?.load_metadata(&blob)
    }

    fn invalidate(&self, agent: &str, _: &Origin) -> Result<()> {
        self.agent()?.remove_peer(agent)
    }
}
