//! How connections begin: the client's steps, and the server's last one.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use nixl_core::{
    Error, ErrorKind, Result,
    auth::{self, ClientHandshake, SessionKey},
    error::fail,
};
use ucx_sys::Version;

use super::{
    CHANNEL, Conn, Dial, Engine, MESSAGES, State, Upcall,
    conn::{Dialling, Stage, Whose},
    mailbox::{Met, seal},
};
use crate::{
    fault::{gone, misbehaved},
    ucp::{Endpoint, Entered, Way},
    wire::{Finish, Head, Kind, Shake, Token, decode_error},
    witness::Witness,
};

/// What one side's name for the connection is derived with.
const TO_SERVER: &[u8] = b"ucx to server";
const TO_CLIENT: &[u8] = b"ucx to client";

/// A frame that comes after the handshake: number, kind, body.
type Numbered = (u64, Kind, Vec<u8>);

impl Engine {
    /// Takes the first step of a connection to a peer.
    pub(super) fn dial(&self, state: &mut State, entered: &Entered<'_>, dial: Dial) {
        let Dial {
            peer,
            address,
            worker,
            done,
        } = dial;
        let mut begin = || {
            if state.shut {
                return Err(gone("the agent shut down"));
            }
            let me = self.ctx.identity.clone();
            let (shake, hello) = ClientHandshake::new(CHANNEL, me, peer.identity())?;
            let from: Token = auth::random()?;
            let worker = &address.workers[worker % address.workers.len()];
            let endpoint = match state.spares.take(worker, state.last + 1) {
                Some(endpoint) => endpoint,
                None => entered.connect(worker, state.last + 1)?,
            };
            let head = Head {
                kind: Kind::Hello,
                to: Token::default(),
                number: 0,
            };
            let proof = &hello;
            let body = Shake { from, proof }.encode();
            self.shout(entered, &endpoint, &head, body)?;
            Ok((shake, from, endpoint, worker.clone()))
        };
        let (shake, from, endpoint, worker) = match begin() {
            Ok(begun) => begun,
            Err(why) => return state.upcalls.push_back(Upcall::Refused(done, why)),
        };
        let until = Instant::now() + self.patience(&address.version);
        let dialling = Dialling {
            done,
            until,
            theirs: address.version,
            worker,
        };
        let stage = Stage::Hello(Box::new(shake), dialling);
        let name = peer.card.name.clone();
        if let Some(conn) = self.adopt(state, name, Whose::Ours, endpoint, stage) {
            conn.inner.lock().mine.push(from);
            state.tokens.insert(from, conn.tag);
            state.timed.push(conn);
            self.due_at(until);
        }
    }

    /// How long the peer's first answer may take: versions that do not understand each other say
    /// nothing, so where they differ it is not waited for long.
    fn patience(&self, theirs: &Version) -> std::time::Duration {
        let limit = self.settings.connect_timeout;
        if *theirs == self.settings.version {
            limit
        } else {
            limit.min(std::time::Duration::from_millis(1900))
        }
    }

    pub(super) fn adopt(
        &self,
        state: &mut State,
        peer: String,
        whose: Whose,
        endpoint: Endpoint,
        stage: Stage,
    ) -> Option<Arc<Conn>> {
        state.last += 1;
        let conn = Arc::new(Conn::new(
            self.shared().ok()?,
            state.last,
            peer,
            whose,
            endpoint,
            stage,
        ));
        state.conns.insert(conn.tag, conn.clone());
        Some(conn)
    }

    /// Sends a frame of the handshake, which may be answered by whoever gets it.
    fn shout(
        &self,
        entered: &Entered<'_>,
        endpoint: &Endpoint,
        head: &Head,
        body: Vec<u8>,
    ) -> Result<()> {
        let frame = (&head.encode()[..], Bytes::from(body));
        entered.send(endpoint, MESSAGES, frame, true, &Arc::default())
    }

    /// Takes a frame's part in the handshake; `Some`: it comes after it.
    pub(super) fn greeted(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        conn: &Arc<Conn>,
        head: Head,
        body: Vec<u8>,
    ) -> Result<Option<Numbered>> {
        let (due, shaking) = {
            let inner = conn.inner.lock();
            let due = matches!(inner.stage, Stage::Hello(..) | Stage::Finish(_));
            let first = inner.mine.first() == Some(&head.to);
            let shaking = matches!(inner.stage, Stage::Hello(..)) || inner.mine.len() > 1;
            (due, first && shaking)
        };
        match head.kind {
            kind if !shaking => return Ok(Some((head.number, kind, body))),
            Kind::Reply if due => self.replied(state, entered, conn, &body)?,
            Kind::Reject if due => {
                let why = decode_error(&body)?.with_peer(&conn.peer);
                self.spare(state, conn);
                self.fail(state, entered, conn, why);
            }
            // The name used in the handshake serves for nothing else.
            _ => {}
        }
        Ok(None)
    }

    /// Keeps the endpoint of a connection that was refused.
    fn spare(&self, state: &mut State, conn: &Conn) {
        let mut inner = conn.inner.lock();
        let worker = match &inner.stage {
            Stage::Hello(_, dialling) | Stage::Finish(dialling) => dialling.worker.clone(),
            _ => return,
        };
        if let Some(endpoint) = inner.endpoint.take() {
            state.spares.put(worker, conn.tag, endpoint);
        }
    }

    /// Client: the server has answered. Proves who we are and says where we are.
    fn replied(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        conn: &Arc<Conn>,
        body: &[u8],
    ) -> Result<()> {
        let mut inner = conn.inner.lock();
        let (shake, dialling) = match std::mem::replace(&mut inner.stage, Stage::Closed) {
            Stage::Hello(shake, dialling) => (shake, dialling),
            other => {
                inner.stage = other;
                return Err(misbehaved("a second answer in the handshake"));
            }
        };
        inner.stage = Stage::Finish(dialling);
        let reply = Shake::decode(body)?;
        let (proof, key) = shake.finish(reply.proof)?;
        let address = &self.address;
        let finish = Finish {
            proof: &proof,
            seal: seal(&key, address),
            address,
        };
        let head = Head {
            kind: Kind::Finish,
            to: reply.from,
            number: 0,
        };
        let mine = name(&key, TO_CLIENT);
        inner.to = name(&key, TO_SERVER);
        inner.witness = self.witness(&inner.to)?;
        inner.mine.push(mine);
        state.tokens.insert(mine, conn.tag);
        match &inner.endpoint {
            Some(endpoint) => self.shout(entered, endpoint, &head, finish.encode()),
            None => Ok(()),
        }
    }

    /// Says, where UCX may use CMA, that we may touch the peer's memory.
    fn witness(&self, to: &Token) -> Result<Option<Witness>> {
        let witness = self.settings.cma.then(|| Witness::new(to)).transpose();
        witness.map_err(|e| {
            let why = format!("cannot make the socket that says who may use CMA: {e}");
            fail(ErrorKind::Exhausted, why)
        })
    }

    /// Server: the client proved who it is. From here on there is an endpoint to it.
    pub(super) fn meet(&self, state: &mut State, entered: &Entered<'_>, met: Met) {
        if state.shut {
            return;
        }
        let Met {
            peer,
            key,
            address,
            way,
        } = met;
        let endpoint = match self.connect_back(entered, &address, way, state.last + 1) {
            Ok(endpoint) => endpoint,
            Err(why) => {
                return tracing::warn!(peer = peer.name, %why, "cannot connect back over UCX");
            }
        };
        let to = name(&key, TO_CLIENT);
        let witness = match self.witness(&to) {
            Ok(witness) => witness,
            Err(why) => {
                entered.close(endpoint);
                return tracing::warn!(peer = peer.name, %why, "cannot connect back over UCX");
            }
        };
        let lanes = entered.lanes(&endpoint);
        let named = peer.name.clone();
        let Some(conn) = self.adopt(state, named, Whose::Ours, endpoint, Stage::Open) else {
            return;
        };
        conn.set_lanes(lanes);
        let mine = name(&key, TO_SERVER);
        {
            let mut inner = conn.inner.lock();
            inner.to = to;
            inner.witness = witness;
            inner.mine.push(mine);
        }
        state.tokens.insert(mine, conn.tag);
        self.frame(state, &conn, Kind::Welcome, Bytes::new());
        state.upcalls.push_back(Upcall::Accepted(conn, peer));
    }

    /// An endpoint to a client.
    ///
    /// For a worker's address UCX gives out the endpoints that it made by itself for those of that
    /// worker, oldest first: also one whose client was refused, or gave up, and whose queue pairs
    /// lead nowhere. Those are closed, which lets go of what they hold.
    fn connect_back(
        &self,
        entered: &Entered<'_>,
        address: &[u8],
        way: Option<Way>,
        tag: u64,
    ) -> Result<Endpoint> {
        let strays = &self.mailbox.strays;
        if let Some(way) = way {
            strays.lock().remove(|stray| stray == way);
        }
        loop {
            let endpoint = entered.connect(address, tag)?;
            if !strays.lock().remove(|stray| endpoint.is(stray)) {
                return Ok(endpoint);
            }
            entered.close(endpoint);
        }
    }

    /// Client: the server has taken us in.
    pub(super) fn welcomed(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        conn: &Arc<Conn>,
    ) -> Result<()> {
        let mut inner = conn.inner.lock();
        match std::mem::replace(&mut inner.stage, Stage::Open) {
            Stage::Finish(dialling) => {
                if let Some(endpoint) = &inner.endpoint {
                    conn.set_lanes(entered.lanes(endpoint));
                }
                tracing::debug!(peer = conn.peer, lanes = %conn.lanes(), "connected over UCX");
                state
                    .upcalls
                    .push_back(Upcall::Connected(conn.clone(), dialling.done));
                Ok(())
            }
            other => {
                inner.stage = other;
                Err(misbehaved("a welcome that is not due"))
            }
        }
    }

    /// Why a client was given up.
    pub(super) fn unanswered(&self, conn: &Conn) -> Error {
        if conn.whose == Whose::Nixl {
            return self.not_reached().with_peer(&conn.peer);
        }
        let here = self.settings.version;
        let theirs = match &conn.inner.lock().stage {
            Stage::Hello(_, dialling) | Stage::Finish(dialling) => dialling.theirs,
            _ => here,
        };
        let why = if theirs == here {
            format!(
                "the peer's UCX {theirs} did not answer within {:?}; it is stopped, or no transport \
                 of UCX reaches it (UCX_TLS, UCX_NET_DEVICES, a firewall)",
                self.patience(&theirs)
            )
        } else {
            format!(
                "no answer: the peer runs UCX {theirs}, this agent {here}, and the two may not \
                 understand each other; run the same release on both sides"
            )
        };
        let kind = if theirs == here {
            ErrorKind::Timeout
        } else {
            ErrorKind::Unsupported
        };
        fail(kind, why).with_peer(&conn.peer)
    }
}

/// The name of a connection in one direction.
fn name(key: &SessionKey, direction: &[u8]) -> Token {
    let derived = key.derive(direction);
    std::array::from_fn(|i| derived[i])
}
