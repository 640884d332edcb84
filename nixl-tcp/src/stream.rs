//! One data stream: a socket whose two directions advance on their own.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Weak},
    time::Instant,
};

use nixl_core::{
    Error,
    runtime::{Readiness, Runtime, Step, Task, Watch},
};

use crate::{conn::Connection, gate::Turn, rx::RxState, tx::TxState};

/// Bytes that one visit on the reactor's or the posting thread moves before a copy thread goes on.
pub(crate) const VISIT: u64 = 256 << 10;

/// Why a half stopped.
pub(crate) enum Pause {
    /// Nothing to do, or the socket takes or gives nothing now.
    Idle,
    /// Too much for this thread: a copy thread has to go on.
    Heavy,
    /// The time is up.
    Late,
}

/// On whose time a half works.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// A thread that has other things to do.
    Visit,
    /// A copy thread, until about then.
    Work(Instant),
}

impl Pace {
    /// Whether to stop after `moved` bytes.
    pub(crate) fn is_over(self, moved: u64) -> Option<Pause> {
        match self {
            Self::Visit => (moved > VISIT).then_some(Pause::Heavy),
            Self::Work(until) => (Instant::now() >= until).then_some(Pause::Late),
        }
    }

    /// Whether `bytes` more are too many for this thread.
    pub(crate) fn is_too_heavy(self, bytes: u64) -> bool {
        matches!(self, Self::Visit) && bytes > crate::conn::INLINE
    }
}

/// What both halves need.
pub(crate) struct Shared {
    conn: Weak<Connection>,
    runtime: Runtime,
    fd: OwnedFd,
}

pub(crate) struct DataStream {
    rx: Arc<Half<RxState>>,
    tx: Arc<Half<TxState>>,
}

/// One direction of a stream.
struct Half<S> {
    shared: Arc<Shared>,
    turn: Turn,
    state: S,
}

/// What differs between the directions.
pub(crate) trait Direction: Send + Sync + 'static {
    /// Moves bytes until there is a reason to pause. Only the holder of the turn calls it.
    fn advance(&self, conn: &Connection, fd: BorrowedFd<'_>, pace: Pace) -> Result<Pause, Error>;
}

impl DataStream {
    pub(crate) fn new(
        conn: Weak<Connection>,
        runtime: Runtime,
        fd: OwnedFd,
        max_body: u32,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared { conn, runtime, fd });
        Arc::new(Self {
            rx: Half::new(shared.clone(), RxState::new(max_body)),
            tx: Half::new(shared, TxState::new()),
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.rx.shared.fd.as_fd()
    }

    /// Whether a message is on its way out: then the stream looks for more work by itself.
    pub(crate) fn is_sending(&self) -> bool {
        self.tx.state.is_sending()
    }

    /// Makes the stream look for something to send, here or on a copy thread.
    pub(crate) fn kick_tx(&self, inline: bool) {
        if inline {
            self.tx.visit();
        } else {
            self.tx.spawn();
        }
    }

    /// Goes on with a chunk that waited for its request.
    pub(crate) fn unpark(&self) {
        if self.rx.state.unpark() {
            self.rx.visit();
        }
    }
}

impl Watch for DataStream {
    fn ready(&self, readiness: Readiness) {
        if readiness.readable {
            self.rx.visit();
        }
        if readiness.writable {
            self.tx.visit();
        }
    }
}

impl<S: Direction> Half<S> {
    fn new(shared: Arc<Shared>, state: S) -> Arc<Self> {
        Arc::new(Self {
            shared,
            turn: Turn::default(),
            state,
        })
    }

    fn visit(self: &Arc<Self>) {
        if self.turn.take() {
            self.drive(Pace::Visit);
        }
    }

    fn spawn(self: &Arc<Self>) {
        if self.turn.take() {
            self.shared.runtime.spawn(self.clone());
        }
    }

    /// Works with the turn taken, until it is given back or handed to a copy thread.
    fn drive(self: &Arc<Self>, pace: Pace) -> Step {
        loop {
            let pause = match self.shared.conn.upgrade() {
                Some(conn) if !conn.is_closed() => {
                    match self.state.advance(&conn, self.shared.fd.as_fd(), pace) {
                        Ok(pause) => pause,
                        Err(e) => {
                            conn.close_with(e);
                            Pause::Idle
                        }
                    }
                }
                _ => Pause::Idle,
            };
            match pause {
                Pause::Idle if self.turn.done() => return Step::Done,
                Pause::Idle => {}
                Pause::Heavy => {
                    self.shared.runtime.spawn(self.clone());
                    return Step::Done;
                }
                Pause::Late => return Step::Again,
            }
        }
    }
}

impl<S: Direction> Task for Half<S> {
    fn run(self: Arc<Self>, until: Instant) -> Step {
        self.drive(Pace::Work(until))
    }
}
