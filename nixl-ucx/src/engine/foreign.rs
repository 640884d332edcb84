//! Connections to NIXL's agents: no handshake and no frames of ours, keys from their metadata,
//! notifications as active messages of NIXL's own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use nixl_core::{Error, ErrorKind, Result, backend::ConnectDone, error::fail};

use super::{
    Conn, Engine, State, Upcall,
    conn::{Stage, Whose},
    mailbox::Event,
};
use crate::{
    fault::gone,
    foreign::BOTH,
    imports::Grant,
    shape,
    ucp::{Api, Done, Entered, Posted, Status},
};

/// Active messages of this number are notifications of NIXL's agents.
pub(super) const NOTIFICATION: u32 = 0;

/// How long the other side may take to be reached at all: versions that do not understand each
/// other say nothing. A little less than core waits, which cannot name the versions.
const PATIENCE: Duration = Duration::from_millis(900);

/// A connection to make to a NIXL agent.
pub(crate) struct Foreign {
    pub(crate) peer: String,
    /// Its worker's address, with the shape of one.
    pub(crate) address: Bytes,
    pub(crate) done: ConnectDone,
}

/// Waits for the flush that needs every lane to be connected.
struct Knock {
    engine: Arc<Engine>,
    tag: u64,
}

impl Done for Knock {
    fn api(&self) -> &Api {
        self.engine.settings.context.api()
    }

    fn done(self: Arc<Self>, status: Status) {
        let event = Event::Reached(self.tag, status.ok());
        self.engine.mailbox.push(event);
    }
}

impl Engine {
    /// Makes an endpoint to a NIXL agent's worker and waits until its lanes are connected.
    pub(super) fn reach(&self, state: &mut State, entered: &Entered<'_>, reach: Foreign) {
        let Foreign {
            peer,
            address,
            done,
        } = reach;
        let endpoint = match state.shut {
            true => Err(gone("the agent shut down")),
            false => entered.connect(&address, state.last + 1),
        };
        let (endpoint, engine) = match endpoint.and_then(|e| Ok((e, self.shared()?))) {
            Ok(begun) => begun,
            Err(why) => {
                let why = fail(
                    why.kind(),
                    format!("{}; {}", why.message(), self.versions()),
                );
                return state.upcalls.push_back(Upcall::Refused(done, why));
            }
        };
        let until = Instant::now() + self.settings.connect_timeout.min(PATIENCE);
        let stage = Stage::Reach(done, until);
        let Some(conn) = self.adopt(state, peer, Whose::Nixl, endpoint, stage) else {
            return;
        };
        let tag = conn.tag;
        let begun = match &conn.inner.lock().endpoint {
            Some(endpoint) => entered.flush(endpoint, &Arc::new(Knock { engine, tag })),
            None => Ok(Posted::Now),
        };
        match begun {
            Ok(Posted::Later) => {}
            Ok(Posted::Now) => self.mailbox.push(Event::Reached(tag, Ok(()))),
            Err(status) => self.mailbox.push(Event::Reached(tag, Err(status))),
        }
        state.timed.push(conn);
        self.due_at(until);
    }

    /// The flush is over.
    pub(super) fn reached(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        tag: u64,
        result: Result<(), Status>,
    ) {
        let Some(conn) = state.conns.get(&tag).cloned() else {
            return self.unpark(state, entered, tag);
        };
        conn.inner.lock().answered = true;
        if let Err(status) = result {
            let why = status.error(entered.api(), "the agent was not reached");
            let why = gone(format!("{}; {}", why.message(), self.versions()));
            return self.fail(state, entered, &conn, why);
        }
        let mut inner = conn.inner.lock();
        match std::mem::replace(&mut inner.stage, Stage::Open) {
            Stage::Reach(done, _) => {
                if let Some(endpoint) = &inner.endpoint {
                    conn.set_lanes(entered.lanes(endpoint));
                }
                tracing::debug!(peer = conn.peer, lanes = %conn.lanes(), "reached a NIXL agent over UCX");
                state
                    .upcalls
                    .push_back(Upcall::Connected(conn.clone(), done));
            }
            other => inner.stage = other,
        }
    }

    /// Makes usable what the agent's metadata said of regions that somebody wants.
    pub(super) fn take_keys(&self, state: &mut State, entered: &Entered<'_>, conn: &Arc<Conn>) {
        let mut any = false;
        while let Some((id, packed)) = conn.imports.told() {
            any = true;
            let grant = self.foreign_key(entered, conn, packed.as_deref());
            // The number was given out a moment ago.
            let _ = conn.imports.answered(id, grant);
        }
        if any {
            self.resume(state, conn);
        }
    }

    fn foreign_key(
        &self,
        entered: &Entered<'_>,
        conn: &Conn,
        packed: Option<&[u8]>,
    ) -> Result<Grant> {
        let packed = packed.ok_or_else(|| {
            let why = "the agent's metadata has no UCX key for the region";
            fail(ErrorKind::Unsupported, why)
        })?;
        shape::check_key(packed)?;
        let inner = conn.inner.lock();
        let endpoint = inner.endpoint.as_ref();
        let endpoint = endpoint.ok_or_else(|| gone("the connection is closed"))?;
        // By now every lane is connected.
        conn.set_lanes(entered.lanes(endpoint));
        let key = entered.unpack(endpoint, packed).map_err(|why| {
            fail(
                why.kind(),
                format!("{}; {}", why.message(), self.versions()),
            )
        })?;
        Ok(Grant::new(key, true))
    }

    /// Why a NIXL agent was given up.
    pub(super) fn not_reached(&self) -> Error {
        let why = format!(
            "the agent's UCX did not answer; it is stopped, or no transport of UCX reaches it \
             (UCX_TLS, UCX_NET_DEVICES, a firewall), or {}",
            self.versions()
        );
        fail(ErrorKind::Timeout, why)
    }

    fn versions(&self) -> String {
        let here = self.settings.version;
        let more = match here < BOTH {
            true => format!(", which needs {BOTH} or newer here unless both use UCX_TLS=tcp"),
            false => String::new(),
        };
        format!("UCX {here} here and the one of that NIXL do not understand each other{more}")
    }
}
