//! One step of an engine: orders, frames out, blocks out, progress, what came of it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use nixl_core::{Error, ErrorKind, Result, backend::Endpoint as _, mem::Access};

use super::{Caller, Conn, Engine, MESSAGES, Order, State, Upcall, conn::Stage, mailbox::Event};
use crate::{
    endpoint::UcxEndpoint,
    fault::{gone, misbehaved},
    imports::Grant as Key,
    shape,
    ucp::{Entered, Status},
    wire::{Grant, Head, Import, Kind, decode_error, decode_refusal, encode_error, encode_refusal},
};

/// Orders and calls of `ucp_worker_progress` in one step.
const BATCH: usize = 32;
/// Bytes of messages that are with UCX at once; the rest waits here, where order is kept.
const MESSAGE_WINDOW: usize = 4 << 20;
/// Messages likewise.
const MESSAGES_OUT: usize = 256;
/// How long what is in flight may take to land when a connection closes.
const DRAIN: Duration = Duration::from_millis(200);
/// Pause between two looks at a connection that closes, and at one whose peer does not answer.
const SOON: Duration = Duration::from_millis(1);
const LINGER: Duration = Duration::from_millis(100);

impl Engine {
    /// Does a bounded amount of everything; false if there was nothing to do.
    pub(super) fn step(&self, until: Instant, caller: Caller) -> bool {
        let mut moved = false;
        {
            let mut state = self.state.lock();
            let entered = self.worker.enter();
            moved |= self.take_orders(&mut state, &entered);
            moved |= self.send_frames(&mut state, &entered);
            moved |= self.feed(&mut state, &entered);
            let mut left = if caller == Caller::Core && self.is_loaded() {
                0
            } else {
                BATCH
            };
            while left > 0 && entered.progress() {
                moved = true;
                left -= 1;
                // One call may copy half a megabyte.
                if self.is_loaded() && Instant::now() >= until {
                    left = 0;
                }
            }
            moved |= self.take_events(&mut state, &entered);
        }
        moved
    }

    fn take_orders(&self, state: &mut State, entered: &Entered<'_>) -> bool {
        let mut any = false;
        for _ in 0..BATCH {
            let Some(order) = self.orders.lock().pop_front() else {
                break;
            };
            any = true;
            match order {
                Order::Dial(dial) => self.dial(state, entered, dial),
                Order::Post(rma) => self.begin(state, &rma, true),
                Order::Cancel(conn) => self.resume(state, &conn),
                Order::Send(conn) => state.list(&conn),
                Order::Close(conn, why) => self.close(state, &conn, why),
                Order::Tick(now) => self.look_at_time(state, entered, now),
                Order::Shutdown => {
                    state.shut = true;
                    let conns: Vec<_> = state.conns.values().cloned().collect();
                    for conn in conns {
                        self.close(state, &conn, gone("the agent shut down"));
                    }
                }
            }
        }
        any
    }

    fn look_at_time(&self, state: &mut State, entered: &Entered<'_>, now: Instant) {
        self.due.store(0, Ordering::Relaxed);
        for conn in std::mem::take(&mut state.timed) {
            if let Some(at) = self.expire(state, entered, &conn, now) {
                self.due_at(at);
                state.timed.push(conn);
            }
        }
    }

    // --- frames out ---

    fn send_frames(&self, state: &mut State, entered: &Entered<'_>) -> bool {
        let mut any = false;
        for _ in 0..state.sending.len() {
            let Some(conn) = state.sending.pop_front() else {
                break;
            };
            conn.listed.store(false, Ordering::Relaxed);
            any |= self.send_from(entered, &conn);
            if conn.has_frames() {
                state.list(&conn);
            }
        }
        any
    }

    /// Sends what there is room for. What cannot be sent any more is dropped.
    fn send_from(&self, entered: &Entered<'_>, conn: &Conn) -> bool {
        let mut inner = conn.inner.lock();
        while let Some(question) = conn.imports.question() {
            conn.enqueue(Kind::Import, question.encode().into());
        }
        let mut any = false;
        loop {
            let out = conn.tally.parcels();
            let full = out >= MESSAGES_OUT || (out > 0 && conn.tally.bytes() >= MESSAGE_WINDOW);
            if full {
                return any;
            }
            let Some((kind, body)) = conn.next_frame() else {
                return any;
            };
            any = true;
            let head = Head {
                kind,
                to: inner.to,
                number: inner.sent,
            };
            inner.sent += 1;
            let Some(endpoint) = &inner.endpoint else {
                continue;
            };
            let sent = entered.send(
                endpoint,
                MESSAGES,
                (&head.encode(), body),
                false,
                &conn.tally,
            );
            if let Err(why) = sent {
                tracing::debug!(peer = conn.peer, %why, "a frame was not sent");
            }
        }
    }

    /// Queues a frame from inside of the turn.
    pub(super) fn frame(&self, state: &mut State, conn: &Arc<Conn>, kind: Kind, body: Bytes) {
        conn.enqueue(kind, body);
        state.list(conn);
    }

    // --- what happened ---

    fn take_events(&self, state: &mut State, entered: &Entered<'_>) -> bool {
        let mut any = false;
        while let Some(event) = self.mailbox.pop() {
            any = true;
            match event {
                Event::Frame(head, body) => self.arrived(state, entered, head, body),
                Event::Met(met) => self.meet(state, entered, met),
                Event::Failed(tag, status) => self.endpoint_failed(state, entered, tag, status),
                Event::Quiet(rma) => self.settle(state, entered, &rma),
            }
        }
        any
    }

    fn endpoint_failed(&self, state: &mut State, entered: &Entered<'_>, tag: u64, status: Status) {
        let Some(conn) = state.conns.get(&tag).cloned() else {
            return;
        };
        let why = status.error(entered.api(), "the connection failed");
        let text = why.message();
        let why = gone(format!("{text}; the peer died, closed or was cut off"));
        self.fail(state, entered, &conn, why);
    }

    fn arrived(&self, state: &mut State, entered: &Entered<'_>, head: Head, body: Vec<u8>) {
        let conn = state.tokens.get(&head.to).and_then(|t| state.conns.get(t));
        let Some(conn) = conn.cloned() else {
            return tracing::debug!(kind = ?head.kind, "a UCX message for no connection");
        };
        let outcome = match self.greeted(state, entered, &conn, head, body) {
            Ok(None) => return,
            Ok(Some((number, kind, body))) => conn.inner.lock().arrive(number, kind, body),
            Err(why) => Err(why),
        };
        if let Err(why) = outcome.and_then(|()| self.deliver(state, entered, &conn)) {
            tracing::warn!(peer = conn.peer, %why, "closing a UCX connection");
            self.close(state, &conn, why);
        }
    }

    /// Handles the frames that are in order.
    fn deliver(&self, state: &mut State, entered: &Entered<'_>, conn: &Arc<Conn>) -> Result<()> {
        loop {
            let due = conn.inner.lock().due();
            let Some((kind, body)) = due else {
                return Ok(());
            };
            match kind {
                Kind::Welcome => self.welcomed(state, entered, conn)?,
                Kind::Message => state.upcalls.push_back(Upcall::Message(conn.clone(), body)),
                Kind::Import => self.serve(state, conn, &Import::decode(&body)?),
                Kind::Grant => self.granted(state, entered, conn, &body)?,
                Kind::Refuse => {
                    let (id, why) = decode_refusal(&body)?;
                    conn.imports.answered(id, Err(why))?;
                    self.resume(state, conn);
                }
                Kind::Reject => {
                    let why = as_end(decode_error(&body)?);
                    self.begin_to_close(state, conn, why, false);
                }
                Kind::Gone => {
                    conn.inner.lock().heard_gone = true;
                    self.begin_to_close(state, conn, gone("the peer left"), false);
                    self.due_at(Instant::now());
                }
                Kind::Hello | Kind::Reply | Kind::Finish => {
                    return Err(misbehaved("a handshake message after the handshake"));
                }
            }
        }
    }

    /// Answers a peer that wants to use one of our regions.
    fn serve(&self, state: &mut State, conn: &Arc<Conn>, import: &Import) {
        let Import { id, key, addr, len } = *import;
        let granted = self.ctx.resolve(&key, addr, len, Access::Read);
        let granted = granted.and_then(|pin| {
            let key = self.keys().get(pin.id())?;
            let writable = pin.is_writable();
            let key = &key.packed;
            Ok(Grant { id, writable, key }.encode())
        });
        match granted {
            Ok(grant) => {
                conn.inner.lock().granted = true;
                self.frame(state, conn, Kind::Grant, grant.into());
            }
            Err(why) => {
                let refusal = encode_refusal(id, &why);
                self.frame(state, conn, Kind::Refuse, refusal.into());
            }
        }
    }

    fn granted(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        conn: &Arc<Conn>,
        body: &[u8],
    ) -> Result<()> {
        let Grant { id, writable, key } = Grant::decode(body)?;
        shape::check_key(key)?;
        let unpacked = match &conn.inner.lock().endpoint {
            None => return Ok(()),
            Some(endpoint) => {
                // By now every lane is connected.
                conn.set_lanes(entered.lanes(endpoint));
                entered.unpack(endpoint, key)
            }
        };
        let grant = unpacked.map(|key| Key::new(key, writable));
        conn.imports.answered(id, grant)?;
        self.resume(state, conn);
        Ok(())
    }

    // --- the end of a connection ---

    /// Ends a connection from this side: tells the peer, lets what is in flight land.
    pub(super) fn close(&self, state: &mut State, conn: &Arc<Conn>, why: Error) {
        self.begin_to_close(state, conn, why, true);
    }

    fn begin_to_close(&self, state: &mut State, conn: &Arc<Conn>, why: Error, tell: bool) {
        if !conn.gate.close(why.clone()) {
            return;
        }
        let until = Instant::now() + DRAIN;
        let was = std::mem::replace(&mut conn.inner.lock().stage, Stage::Closing(until));
        match was {
            Stage::Hello(_, dialling) | Stage::Finish(dialling) => {
                state.upcalls.push_back(Upcall::Refused(dialling.done, why));
            }
            Stage::Open if tell => {
                self.frame(state, conn, Kind::Reject, encode_error(&why).into());
            }
            Stage::Open | Stage::Closing(_) | Stage::Closed => {}
        }
        self.resume(state, conn);
        state.timed.push(conn.clone());
        self.due_at(Instant::now());
    }

    /// The connection ended by itself.
    pub(super) fn fail(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        conn: &Arc<Conn>,
        why: Error,
    ) {
        self.begin_to_close(state, conn, why, false);
        self.cut(state, entered, conn);
    }

    /// Closes the endpoint: whatever of ours is in flight ends.
    fn force(&self, entered: &Entered<'_>, conn: &Conn) {
        let endpoint = conn.inner.lock().endpoint.take();
        if let Some(endpoint) = endpoint {
            entered.close(endpoint);
        }
    }

    /// The connection is over: nothing arrives on it any more.
    fn cut(&self, state: &mut State, entered: &Entered<'_>, conn: &Arc<Conn>) {
        {
            let mut inner = conn.inner.lock();
            inner.stage = Stage::Closed;
            for token in std::mem::take(&mut inner.mine) {
                state.tokens.remove(&token);
            }
        }
        self.force(entered, conn);
        conn.imports.close();
        self.bid_farewell(state, conn);
    }

    /// Forgets a connection once its endpoint is gone and its last token is out.
    pub(super) fn bid_farewell(&self, state: &mut State, conn: &Arc<Conn>) {
        {
            let inner = conn.inner.lock();
            if !matches!(inner.stage, Stage::Closed) || inner.posts > 0 {
                return;
            }
        }
        if state.conns.remove(&conn.tag).is_some() {
            state.upcalls.push_back(Upcall::Over(conn.clone()));
        }
    }

    /// Ends what takes too long; returns when to look again.
    fn expire(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        conn: &Arc<Conn>,
        now: Instant,
    ) -> Option<Instant> {
        let (until, closing) = match &conn.inner.lock().stage {
            Stage::Hello(_, dialling) | Stage::Finish(dialling) => (dialling.until, false),
            Stage::Closing(until) => (*until, true),
            Stage::Open | Stage::Closed => return None,
        };
        if closing {
            return self.wind_up(state, entered, conn, now, until);
        }
        if now < until {
            return Some(until);
        }
        let why = self.unanswered(conn);
        self.fail(state, entered, conn, why);
        None
    }

    /// Brings a connection that closes nearer to its end; returns when to look again.
    ///
    /// The end may be told only when the peer cannot touch our memory any more over it. UCX does
    /// not see to that: what a peer has sent over TCP still lands after our endpoint was closed. So
    /// the peer has to say that it is through, or to be gone.
    fn wind_up(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        conn: &Arc<Conn>,
        now: Instant,
        until: Instant,
    ) -> Option<Instant> {
        let (drained, granted, said, heard) = {
            let inner = conn.inner.lock();
            (
                inner.posts == 0,
                inner.granted,
                inner.said_gone,
                inner.heard_gone,
            )
        };
        if drained && !said {
            conn.inner.lock().said_gone = true;
            self.frame(state, conn, Kind::Gone, Bytes::new());
        }
        let sent = drained && said && !conn.has_frames() && conn.tally.parcels() == 0;
        let late = now >= until;
        if (sent && heard) || (late && !granted) {
            self.cut(state, entered, conn);
            return None;
        }
        if late && !drained {
            // Our own operations end; the peer may still say that it is through.
            self.force(entered, conn);
        }
        // A peer that holds a key and does not answer is waited for: it says so, or dies.
        let pause = if late { LINGER } else { SOON };
        Some(now + pause)
    }

    // --- telling core ---

    /// Hands out what is to be told; no lock is held. False if some of it has to be told by
    /// another caller.
    pub(super) fn tell(&self, caller: Caller) -> bool {
        loop {
            let upcall = {
                let mut state = self.state.lock();
                let next = state.upcalls.front();
                if caller == Caller::Core && next.is_some_and(Upcall::is_for_runtime) {
                    return false;
                }
                state.upcalls.pop_front()
            };
            let Some(upcall) = upcall else {
                return true;
            };
            match upcall {
                Upcall::Connected(conn, done) => {
                    let endpoint = Arc::new(UcxEndpoint(conn.clone()));
                    match done.connected(endpoint.clone()) {
                        Some(core) => conn.gate.attach(core),
                        None => endpoint.close(),
                    }
                }
                Upcall::Refused(done, why) => done.failed(why.with_path("ucx")),
                Upcall::Accepted(conn, peer) => {
                    let endpoint = Arc::new(UcxEndpoint(conn.clone()));
                    let core = self.ctx.accepted(crate::backend::UCX, peer, endpoint);
                    conn.gate.attach(core);
                }
                Upcall::Message(conn, message) => {
                    if let Some(core) = conn.gate.conn() {
                        core.message(&message);
                    }
                }
                Upcall::Complete(conn, token, result) => {
                    token.complete(result);
                    if conn.gate.exit() {
                        conn.gate.tell();
                    }
                }
                Upcall::Over(conn) => conn.gate.tell(),
            }
        }
    }
}

impl Upcall {
    /// Whether it must not happen inside of a call of core's.
    fn is_for_runtime(&self) -> bool {
        matches!(self, Self::Message(..) | Self::Accepted(..))
    }
}

impl State {
    /// Notes that a connection has frames to send.
    pub(super) fn list(&mut self, conn: &Arc<Conn>) {
        if !conn.listed.swap(true, Ordering::Relaxed) {
            self.sending.push_back(conn.clone());
        }
    }
}

/// The peer's reason to close, as the end of the connection.
fn as_end(why: Error) -> Error {
    match why.kind() {
        ErrorKind::PeerMisbehaved => gone(format!(
            "the peer closed the connection, because of us: {}",
            why.message()
        )),
        ErrorKind::PeerGone => why,
        _ => gone(why.message().to_owned()),
    }
}
