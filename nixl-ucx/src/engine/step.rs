//! One step of an engine: orders, frames out, blocks out, progress, what came of it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use bytes::Bytes;
use nixl_core::{Error, PathClass, Result, backend::Endpoint as _, error::fail, mem::Access};

use super::{
    Caller, Conn, Engine, MESSAGES, Order, State, Stepped, Upcall, close::as_end, conn::Whose,
    foreign::NOTIFICATION, mailbox::Event,
};
use crate::{
    endpoint::UcxEndpoint,
    fault::{gone, misbehaved, unsupported},
    imports::Grant as Key,
    shape,
    ucp::{Entered, Status},
    wire::{Grant, Head, Import, Kind, decode_error, decode_refusal, encode_refusal},
    witness::Watch,
};

/// Orders and calls of `ucp_worker_progress` in one step.
const BATCH: usize = 32;
/// Bytes of messages that are with UCX at once; the rest waits here, where order is kept.
const MESSAGE_WINDOW: usize = 4 << 20;
/// Messages likewise.
const MESSAGES_OUT: usize = 256;

/// What the orders of a step were.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Orders {
    None,
    Posts,
    Others,
}

/// What the events of a step were.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Came {
    Nothing,
    /// Transfers are over.
    Quiet,
    Others,
}

impl Engine {
    /// Does a bounded amount of everything. `brief`: looks only for the end of what was posted, and
    /// only while that comes at once.
    pub(super) fn step(&self, until: Instant, caller: Caller, brief: bool) -> Stepped {
        let mut state = self.state.lock();
        let entered = self.worker.enter();
        let orders = self.take_orders(&mut state, &entered);
        let brief = brief && orders != Orders::Others && state.rndv.is_idle();
        let sent = self.send_frames(&mut state, &entered);
        let inline = (caller == Caller::Core).then_some(until);
        let mut moved = self.feed(&mut state, &entered, inline);
        moved |= self.rendezvous(&mut state, &entered, inline);
        moved |= orders != Orders::None || sent;
        if !brief {
            self.armed.store(false, Ordering::Relaxed);
        }
        let looks = if inline.is_some() && self.is_loaded() {
            0
        } else {
            BATCH
        };
        moved |= self.progress(&entered, looks, until, brief);
        let came = self.take_events(&mut state, &entered);
        let left = sent || state.has_work();
        match came {
            Came::Nothing if !moved => Stepped::Idle,
            Came::Nothing | Came::Quiet if brief && !left && self.is_still() => Stepped::Over,
            Came::Nothing if brief => Stepped::Handed,
            _ => Stepped::Moved,
        }
    }

    /// Looks once for what came while the worker is armed. False: there is more to do.
    pub(super) fn look(&self) -> bool {
        {
            let mut state = self.state.lock();
            let entered = self.worker.enter();
            if !self.armed.load(Ordering::Relaxed) {
                return false;
            }
            if !entered.progress() {
                return true;
            }
            self.take_events(&mut state, &entered);
            if state.has_work() {
                return false;
            }
        }
        self.tell(Caller::Runtime)
    }

    /// Lets UCX move things along, so many times at most; false if there was nothing. `brief`: only
    /// while that is what posts wait for.
    fn progress(&self, entered: &Entered<'_>, looks: usize, until: Instant, brief: bool) -> bool {
        let mut moved = false;
        for _ in 0..looks {
            if (brief && self.is_still()) || !entered.progress() {
                break;
            }
            moved = true;
            // One call may copy half a megabyte.
            if self.is_loaded() && Instant::now() >= until {
                break;
            }
        }
        moved
    }

    fn take_orders(&self, state: &mut State, entered: &Entered<'_>) -> Orders {
        let mut all = Orders::None;
        for _ in 0..BATCH {
            let Some(order) = self.orders.lock().pop_front() else {
                break;
            };
            all = match (&order, all) {
                (Order::Post(_), Orders::None | Orders::Posts) => Orders::Posts,
                (Order::Send(_), Orders::None) => Orders::None,
                (Order::Send(_), before) => before,
                _ => Orders::Others,
            };
            match order {
                Order::Dial(dial) => self.dial(state, entered, dial),
                Order::Reach(reach) => self.reach(state, entered, reach),
                Order::Post(rma) => self.begin(state, &rma, true),
                Order::Move(rndv) => self.begin_rndv(state, &rndv),
                Order::Cancel(conn) => {
                    self.resume(state, &conn);
                    self.rndv_look(state, &conn);
                }
                Order::Send(conn) => state.list(&conn),
                Order::Close(conn, why) => self.close(state, &conn, why),
                Order::Tick(now) => self.look_at_time(state, entered, now),
                Order::Shutdown => {
                    state.shut = true;
                    state.spares.clear();
                    let conns: Vec<_> = state.conns.values().cloned().collect();
                    for conn in conns {
                        self.close(state, &conn, gone("the agent shut down"));
                    }
                }
            }
        }
        all
    }

    fn look_at_time(&self, state: &mut State, entered: &Entered<'_>, now: Instant) {
        self.due.store(0, Ordering::Relaxed);
        self.rndv_tick(state, now);
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
            if conn.whose == Whose::Nixl {
                self.take_keys(state, entered, &conn);
            }
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
        let ours = conn.whose == Whose::Ours;
        while let Some(question) = ours.then(|| conn.imports.question()).flatten() {
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
            let head = head.encode();
            let (id, head) = match conn.whose {
                Whose::Ours => (MESSAGES, &head[..]),
                Whose::Nixl => (NOTIFICATION, &[][..]),
            };
            let sent = entered.send(endpoint, id, (head, body), false, &conn.tally);
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

    fn take_events(&self, state: &mut State, entered: &Entered<'_>) -> Came {
        let mut came = Came::Nothing;
        while let Some(event) = self.mailbox.pop() {
            came = match (&event, came) {
                (Event::Quiet(_), Came::Nothing | Came::Quiet) => Came::Quiet,
                _ => Came::Others,
            };
            match event {
                Event::Frame(head, body) => self.arrived(state, entered, head, body),
                Event::Met(met) => self.meet(state, entered, met),
                Event::Failed(tag, status) => self.endpoint_failed(state, entered, tag, status),
                Event::Quiet(rma) => self.settle(state, entered, &rma),
                Event::Reached(tag, result) => self.reached(state, entered, tag, result),
                Event::Data(head, came) => self.came(state, entered, head, came),
                Event::Flown(flight, result) => self.flown(state, entered, &flight, result),
                Event::Foreign(message) => state.upcalls.push_back(Upcall::Foreign(message)),
            }
        }
        came
    }

    fn endpoint_failed(&self, state: &mut State, entered: &Entered<'_>, tag: u64, status: Status) {
        let Some(conn) = state.conns.get(&tag).cloned() else {
            state.spares.failed(tag);
            return self.unpark(state, entered, tag);
        };
        {
            let mut inner = conn.inner.lock();
            inner.answered = true;
            inner.rndv.failed = true;
        }
        let why = status.error(entered.api(), "the connection failed");
        let why = gone(why.message().to_owned());
        self.fail(state, entered, &conn, why);
    }

    fn arrived(&self, state: &mut State, entered: &Entered<'_>, head: Head, body: Vec<u8>) {
        let conn = state.tokens.get(&head.to).and_then(|t| state.conns.get(t));
        let Some(conn) = conn.cloned() else {
            tracing::debug!(kind = ?head.kind, "a UCX message for no connection");
            return self.unpark_answered(state, entered, head.to);
        };
        conn.inner.lock().answered = true;
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
                Kind::Import => self.serve(state, entered, conn, &Import::decode(&body)?),
                Kind::Grant => self.granted(state, entered, conn, &body)?,
                Kind::Refuse => {
                    let (id, why) = decode_refusal(&body)?;
                    conn.imports.answered(id, Err(why))?;
                    self.resume(state, conn);
                }
                Kind::Ask | Kind::Ready | Kind::Done | Kind::Fail => {
                    self.rndv_frame(state, conn, kind, &body)?;
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
    fn serve(&self, state: &mut State, entered: &Entered<'_>, conn: &Arc<Conn>, import: &Import) {
        let Import { id, key, addr, len } = *import;
        let granted = self.watch(entered, conn);
        let granted = granted.and_then(|()| self.ctx.resolve(&key, addr, len, Access::Read));
        let granted = granted.and_then(|pin| {
            let key = self.keys().get(pin.id()).map_err(as_ours)?;
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

    /// Sees from now on whether the peer may touch our memory by CMA.
    ///
    /// Errors: `Unsupported` for a peer that may and cannot be seen.
    fn watch(&self, entered: &Entered<'_>, conn: &Conn) -> Result<()> {
        let mut inner = conn.inner.lock();
        let (None, true, Some(name)) = (&inner.watch, self.settings.cma, inner.mine.last()) else {
            return Ok(());
        };
        let found = Watch::new(name);
        let by_cma = |endpoint| entered.lanes(endpoint).class() == PathClass::CrossMemory;
        if matches!(found, Ok(None)) && !inner.endpoint.as_ref().is_some_and(by_cma) {
            return Ok(());
        }
        let why = match found {
            Ok(Some(watch)) => {
                inner.watch = Some(watch);
                return Ok(());
            }
            Ok(None) => "it is in another network namespace".to_owned(),
            Err(e) => e.to_string(),
        };
        Err(unsupported(format!(
            "UCX would use CMA, and when the peer is through with the memory could not be seen: {why}"
        )))
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
                Upcall::Foreign(message) => {
                    self.ctx.foreign_message(crate::backend::UCX, &message);
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

/// Why a region of ours cannot be used, as the peer is to read it.
fn as_ours(why: Error) -> Error {
    fail(
        why.kind(),
        format!(
            "its owner's UCX has no registration of it: {}",
            why.message()
        ),
    )
}

impl Upcall {
    /// Whether it must not happen inside of a call of core's.
    fn is_for_runtime(&self) -> bool {
        matches!(
            self,
            Self::Message(..) | Self::Accepted(..) | Self::Foreign(_)
        )
    }
}

impl State {
    /// Whether something can be sent or asked for.
    fn has_work(&self) -> bool {
        !self.sending.is_empty() || !self.feeding.is_empty() || !self.rndv.is_idle()
    }

    /// Notes that a connection has frames to send.
    pub(super) fn list(&mut self, conn: &Arc<Conn>) {
        if !conn.listed.swap(true, Ordering::Relaxed) {
            self.sending.push_back(conn.clone());
        }
    }
}
