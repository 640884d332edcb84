//! Connections: messages, turns, the end.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use nixl::{
    Error, ErrorKind, PathName, Result,
    backend::{Conn, Endpoint, Transfer},
    plan::Plan,
    runtime::{Step, Task},
};
use parking_lot::Mutex;

use super::{
    HOST_MEMORY, NAME, Node,
    transfer::{CopyTransfer, Posted},
};

/// One side of a connection.
pub(crate) struct End {
    pub(crate) node: Arc<Node>,
    /// The other side, until the connection is closed.
    peer: Mutex<Option<Arc<End>>>,
    conn: OnceLock<Conn>,
    state: Mutex<State>,
}

struct State {
    queue: VecDeque<Event>,
    /// The task is queued or at work, or may not run before `open`.
    busy: bool,
    /// Nothing is queued any more.
    closed: bool,
}

pub(crate) enum Event {
    Message(Bytes),
    Chunk(Posted),
    Closed(Error),
}

impl End {
    pub(crate) fn pair(near: &Arc<Node>, far: &Arc<Node>) -> (Arc<Self>, Arc<Self>) {
        let end = |node: &Arc<Node>| {
            let state = State {
                queue: VecDeque::new(),
                busy: true,
                closed: false,
            };
            let end = Arc::new(Self {
                node: node.clone(),
                peer: Mutex::new(None),
                conn: OnceLock::new(),
                state: Mutex::new(state),
            });
            let mut ends = node.ends.lock();
            ends.retain(|end| end.strong_count() > 0);
            ends.push(Arc::downgrade(&end));
            drop(ends);
            end
        };
        let (near, far) = (end(near), end(far));
        *near.peer.lock() = Some(far.clone());
        *far.peer.lock() = Some(near.clone());
        (near, far)
    }

    /// Core is ready to hear of what happens here, and of what has happened.
    pub(crate) fn open(self: &Arc<Self>, conn: Conn) {
        self.conn.get_or_init(|| conn);
        self.state.lock().busy = false;
        self.wake();
    }

    fn wake(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.queue.is_empty() || std::mem::replace(&mut state.busy, true) {
            return;
        }
        drop(state);
        if let Ok(ctx) = self.node.context() {
            ctx.runtime.spawn(self.clone());
        }
    }

    /// Queues an event; gives it back when the connection is closed.
    pub(crate) fn push(self: &Arc<Self>, event: Event) -> Result<(), Event> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(event);
        }
        state.closed = matches!(event, Event::Closed(_));
        state.queue.push_back(event);
        drop(state);
        self.wake();
        Ok(())
    }

    pub(crate) fn peer(&self) -> Result<Arc<Self>> {
        self.peer.lock().clone().ok_or_else(closed)
    }

    /// Ends both sides, after the messages that are on their way.
    pub(crate) fn hang_up(self: &Arc<Self>, why: &'static str) {
        let peer = self.peer.lock().take();
        for end in peer.iter().chain([self]) {
            // Refused where it is closed already.
            let _ = end.push(Event::Closed(Error::new(ErrorKind::PeerGone, why)));
        }
        if let Some(peer) = peer {
            peer.peer.lock().take();
        }
    }

    /// Completes every token, then reports the end.
    fn finish(&self, why: Error) {
        let rest = std::mem::take(&mut self.state.lock().queue);
        for event in rest {
            if let Event::Chunk(posted) = event {
                posted.done.complete(Err(why.clone()));
            }
        }
        if let Some(conn) = self.conn.get() {
            conn.closed(why);
        }
    }
}

impl Task for End {
    fn run(self: Arc<Self>, until: Instant) -> Step {
        while Instant::now() < until {
            let mut state = self.state.lock();
            let Some(event) = state.queue.pop_front() else {
                state.busy = false;
                return Step::Done;
            };
            drop(state);
            match event {
                Event::Message(bytes) => {
                    if let Some(conn) = self.conn.get() {
                        conn.message(&bytes);
                    }
                }
                // Behind what has come meanwhile: a message never waits for a whole transfer.
                Event::Chunk(posted) => {
                    if let Some(posted) = posted.step() {
                        self.state.lock().queue.push_back(Event::Chunk(posted));
                    }
                }
                Event::Closed(why) => self.finish(why),
            }
        }
        Step::Again
    }
}

/// What core holds of a connection.
pub(crate) struct Handle(pub(crate) Arc<End>);

// SAFETY: INV-1, only `Posted::step` touches memory, see `CopyTransfer`.
unsafe impl Endpoint for Handle {
    fn prepare(&self, path: PathName, plan: &Arc<Plan>) -> Result<Arc<dyn Transfer>> {
        let kinds = (plan.op(), plan.local().kind(), plan.remote().kind());
        if path != NAME || !HOST_MEMORY.contains(&kinds) {
            let text = format!("{path}: {kinds:?} is not between host memory of one process");
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        Ok(Arc::new(CopyTransfer::new(self.0.clone(), plan.clone())))
    }

    fn send(&self, message: Bytes) -> Result<()> {
        let sent = self.0.peer()?.push(Event::Message(message));
        sent.map_err(|_| closed())
    }

    fn describe(&self, path: PathName) -> String {
        path.to_owned()
    }

    fn close(&self) {
        self.0.hang_up("the connection was closed");
    }
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::PeerGone, "the connection is closed")
}
