//! The target's side: every chunk is checked before its regions are pinned and its bytes move.

use std::sync::Arc;

use nixl_core::{ErrorKind, Op, Result, error::fail, mem::Access};

use super::{Came, Flight, Job, Load, Name, Serve, decline, flight::scatter, wire::Ask};
use crate::{
    engine::{Conn, Engine, State},
    fault::misbehaved,
    ucp::Entered,
    wire::Kind,
};

/// Asks of one peer that wait or are under way. Ours keep to 64 for each connection.
const MAX_QUEUE: usize = 256;
/// Asks of one peer that are under way.
const MAX_ACTIVE: usize = 16;

impl Engine {
    /// The peer wants a chunk of our memory read or written.
    pub(super) fn asked(&self, state: &mut State, conn: &Arc<Conn>, body: &[u8]) -> Result<()> {
        let ask = Ask::decode(body)?;
        let waiting = {
            let inner = conn.inner.lock();
            inner.rndv.queue.len() + inner.rndv.active
        };
        if waiting >= MAX_QUEUE {
            return Err(misbehaved("more chunks asked for than the protocol allows"));
        }
        if conn.gate.check().is_err() {
            return Ok(());
        }
        let name = ask.name;
        match self.resolve_all(ask) {
            Ok(serve) => {
                let mut inner = conn.inner.lock();
                inner.granted = true;
                inner.rndv.queue.push_back(serve);
                state.rndv.jobs.push_back(Job::Serve(conn.clone()));
            }
            Err(why) => {
                let refusal = name.encode_failure(&why);
                self.frame(state, conn, Kind::Fail, refusal.into());
            }
        }
        Ok(())
    }

    fn resolve_all(&self, ask: Ask) -> Result<Serve> {
        let access = match ask.op {
            Op::Read => Access::Read,
            Op::Write => Access::Write,
        };
        let parts = ask.parts.iter();
        let pins = parts.map(|part| self.ctx.resolve(&part.key, part.addr, part.len, access));
        Ok(Serve {
            op: ask.op,
            name: ask.name,
            pins: pins.collect::<Result<_>>()?,
            bytes: ask.parts.iter().map(|part| part.len).sum(),
            parts: ask.parts,
        })
    }

    /// Begins with the next ask of a connection, if not enough of them are under way.
    pub(super) fn serve_next(&self, state: &mut State, entered: &Entered<'_>, conn: &Arc<Conn>) {
        let serve = {
            let side = &mut conn.inner.lock().rndv;
            let room = side.active < MAX_ACTIVE;
            let Some(serve) = room.then(|| side.queue.pop_front()).flatten() else {
                return;
            };
            side.active += 1;
            serve
        };
        let name = serve.name;
        if serve.pins.iter().any(|pin| pin.is_revoked()) {
            let why = fail(ErrorKind::NotRegistered, "the region was withdrawn");
            let refusal = name.encode_failure(&why);
            self.frame(state, conn, Kind::Fail, refusal.into());
            return self.served(state, conn);
        }
        match serve.op {
            Op::Read => {
                let (whole, len) = (serve.whole(), serve.bytes);
                let load = Load::Peers(serve);
                self.send_off(state, entered, (conn, load, name), whole, len);
            }
            Op::Write => {
                let before = conn.inner.lock().rndv.ready.insert(name, serve);
                // One that was named twice was never promised that both are carried out.
                let twice = usize::from(before.is_some());
                conn.inner.lock().rndv.active -= twice;
                self.frame(state, conn, Kind::Ready, name.encode().into());
            }
        }
    }

    /// An ask is over: there is room for the next.
    fn served(&self, state: &mut State, conn: &Arc<Conn>) {
        let side = &mut conn.inner.lock().rndv;
        side.active -= 1;
        if !side.queue.is_empty() {
            state.rndv.jobs.push_back(Job::Serve(conn.clone()));
        }
    }

    /// WRITE: the data came.
    pub(super) fn peers_came(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        conn: &Arc<Conn>,
        name: Name,
        came: Came,
    ) -> Result<()> {
        let Some(serve) = conn.inner.lock().rndv.ready.remove(&name) else {
            decline(entered, came);
            return Ok(());
        };
        if came.len() as u64 != serve.bytes {
            decline(entered, came);
            self.served(state, conn);
            return Err(misbehaved("a chunk is not as long as was announced"));
        }
        match came {
            Came::Bytes(data) => {
                // SAFETY: INV-2, the blocks were checked and are pinned.
                unsafe { scatter(&data, serve.blocks()) };
                self.frame(state, conn, Kind::Done, name.encode().into());
                self.served(state, conn);
            }
            Came::Promise(promise) => {
                let whole = serve.whole();
                let load = Load::Peers(serve);
                self.take_in(state, entered, (conn, load), whole, promise);
            }
        }
        Ok(())
    }

    /// UCX is through with a chunk of the peer's.
    pub(super) fn peers_flown(
        &self,
        state: &mut State,
        serve: &Serve,
        flight: &Flight,
        arrived: bool,
    ) {
        if arrived && serve.op == Op::Write {
            if let Some(data) = &*flight.buffer.lock() {
                // SAFETY: INV-2, the blocks were checked and are pinned.
                unsafe { scatter(&data[..flight.len], serve.blocks()) };
            }
            let name = serve.name.encode();
            self.frame(state, &flight.conn, Kind::Done, name.into());
        }
        self.served(state, &flight.conn);
    }
}
