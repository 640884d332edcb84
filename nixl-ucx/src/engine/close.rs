//! The end of a connection: what is in flight lands, the peer says that it is through.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use nixl_core::{Error, ErrorKind};

use super::{
    Conn, Engine, State, Upcall,
    conn::{Stage, Whose},
};
use crate::{
    fault::gone,
    ucp::Entered,
    wire::{Kind, encode_error},
};

/// How long what is in flight may take to land when a connection closes.
const DRAIN: Duration = Duration::from_millis(200);
/// Pause between two looks at a connection that closes, and at one whose peer does not answer.
const SOON: Duration = Duration::from_millis(1);
const LINGER: Duration = Duration::from_millis(100);

impl Engine {
    /// Ends a connection from this side: tells the peer, lets what is in flight land.
    pub(super) fn close(&self, state: &mut State, conn: &Arc<Conn>, why: Error) {
        self.begin_to_close(state, conn, why, true);
    }

    pub(super) fn begin_to_close(
        &self,
        state: &mut State,
        conn: &Arc<Conn>,
        why: Error,
        tell: bool,
    ) {
        if !conn.gate.close(why.clone()) {
            return;
        }
        let until = Instant::now() + DRAIN;
        let was = std::mem::replace(&mut conn.inner.lock().stage, Stage::Closing(until));
        match was {
            Stage::Hello(_, dialling) | Stage::Finish(dialling) => {
                state.upcalls.push_back(Upcall::Refused(dialling.done, why));
            }
            Stage::Reach(done, _) => state.upcalls.push_back(Upcall::Refused(done, why)),
            Stage::Open if tell && conn.whose == Whose::Ours => {
                self.frame(state, conn, Kind::Reject, encode_error(&why).into());
            }
            Stage::Open | Stage::Closing(_) | Stage::Closed => {}
        }
        self.resume(state, conn);
        self.rndv_closing(state, conn);
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
        if !conn.inner.lock().is_touched() {
            return self.cut(state, entered, conn);
        }
        // Nothing more of ours: the peer may wait for that as we wait for it.
        self.force(entered, conn);
        self.rndv_cut(state, conn);
        conn.imports.close();
    }

    /// Closes the endpoint: whatever of ours is in flight ends.
    pub(super) fn force(&self, entered: &Entered<'_>, conn: &Conn) {
        let endpoint = conn.inner.lock().endpoint.take();
        if let Some(endpoint) = endpoint {
            entered.close(endpoint);
        }
    }

    /// The connection is over: nothing arrives on it any more.
    pub(super) fn cut(&self, state: &mut State, entered: &Entered<'_>, conn: &Arc<Conn>) {
        {
            let mut inner = conn.inner.lock();
            inner.stage = Stage::Closed;
            self.park(state, entered, conn.tag, &mut inner);
            for token in std::mem::take(&mut inner.mine) {
                state.tokens.remove(&token);
            }
        }
        self.force(entered, conn);
        self.rndv_cut(state, conn);
        conn.imports.close();
        self.bid_farewell(state, conn);
    }

    /// Forgets a connection once its endpoint is gone and its last token is out.
    pub(super) fn bid_farewell(&self, state: &mut State, conn: &Arc<Conn>) {
        {
            let mut inner = conn.inner.lock();
            let quiet = inner.posts == 0 && inner.rndv.is_quiet();
            if !matches!(inner.stage, Stage::Closed) || !quiet {
                return;
            }
            (inner.witness, inner.watch) = (None, None);
        }
        if state.conns.remove(&conn.tag).is_some() {
            state.upcalls.push_back(Upcall::Over(conn.clone()));
        }
    }

    /// Ends what takes too long; returns when to look again.
    pub(super) fn expire(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        conn: &Arc<Conn>,
        now: Instant,
    ) -> Option<Instant> {
        let (until, closing) = match &conn.inner.lock().stage {
            Stage::Hello(_, dialling) | Stage::Finish(dialling) => (dialling.until, false),
            Stage::Reach(_, until) => (*until, false),
            Stage::Closing(until) => (*until, true),
            Stage::Open | Stage::Closed => return None,
        };
        if closing && conn.whose == Whose::Nixl {
            if conn.is_quiet() || now >= until {
                self.cut(state, entered, conn);
                return None;
            }
            return Some(until.min(now + SOON));
        }
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
    pub(super) fn wind_up(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        conn: &Arc<Conn>,
        now: Instant,
        until: Instant,
    ) -> Option<Instant> {
        let (posts, drained, touched, said, heard, broken) = {
            let mut inner = conn.inner.lock();
            let drained = inner.posts == 0 && inner.rndv.is_quiet();
            let broken = inner.endpoint.is_none();
            if broken && drained {
                inner.witness = None;
            }
            (
                inner.posts,
                drained,
                inner.granted && (inner.watch.is_none() || inner.is_touched()),
                inner.said_gone,
                inner.heard_gone,
                broken,
            )
        };
        if drained && !said {
            conn.inner.lock().said_gone = true;
            self.frame(state, conn, Kind::Gone, Bytes::new());
        }
        let sent = drained && said && !conn.has_frames() && conn.tally.parcels() == 0;
        let late = now >= until;
        if (sent && heard) || ((late || broken) && !touched) {
            self.cut(state, entered, conn);
            return None;
        }
        if late && posts > 0 {
            // Our own operations end; the peer may still say that it is through.
            self.force(entered, conn);
        }
        // A peer that holds a key and does not answer is waited for: it says so, lets go, or dies.
        let pause = if late { LINGER } else { SOON };
        Some(now + pause)
    }
}

/// The peer's reason to close, as the end of the connection.
pub(super) fn as_end(why: Error) -> Error {
    match why.kind() {
        ErrorKind::PeerMisbehaved => gone(format!(
            "the peer closed the connection, because of us: {}",
            why.message()
        )),
        ErrorKind::PeerGone => why,
        _ => gone(why.message().to_owned()),
    }
}
