//! Transfer requests: prepared once, posted many times.

mod callback;
mod future;
mod run;
mod watch;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
pub use callback::Callback;
use callback::Callbacks;
pub use future::Done;
use parking_lot::Mutex;
use run::Run;
pub(crate) use run::has_failed;
pub(crate) use watch::Ending;

use crate::{
    Error, ErrorKind, Op, PathName, Result,
    agent::Shared,
    error::fail,
    inflight::{OpState, Phase},
    negotiate::Candidate,
    peer::Peer,
    plan::Plan,
    runtime::deadline_after,
};

/// How a request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Never posted.
    Prepared,
    /// Posted, bytes are moving or waiting for a path.
    Active,
    /// Active, but no byte moved for a while (`AgentConfig::stall_after`).
    Stalled,
    /// All bytes are in place.
    Done,
    /// It ended with an error; nothing touches its memory any more.
    Failed(Error),
    /// It was cancelled; nothing touches its memory any more.
    Cancelled,
}

/// What a post can be told.
#[derive(Clone, Debug, Default)]
pub struct PostOptions {
    /// Bytes delivered to the target after the data is visible to it.
    pub notification: Option<Bytes>,
    /// Time until the request must have ended; default from the agent's configuration.
    pub deadline: Option<Duration>,
}

/// What a completed request did: the honest account of the path it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The path that moved the bytes.
    pub path: PathName,
    /// Its lanes, as the backend names them.
    pub lanes: Arc<str>,
    /// The peer is an agent of NIXL's.
    pub foreign: bool,
    /// Direction.
    pub op: Op,
    /// Bytes moved.
    pub bytes: u64,
    /// Descriptors asked for.
    pub descriptors: u64,
    /// Blocks left after merging adjacent ones.
    pub merged: u64,
    /// Time the post call took.
    pub post_time: Duration,
    /// Time from post to completion.
    pub total_time: Duration,
    /// Attempts made; more than 1 means that a path failed first.
    pub attempts: u32,
    /// Why earlier paths failed, in order.
    pub failures: Vec<(PathName, Error)>,
}

/// A prepared transfer. Dropping it while active cancels it and detaches: its memory stays
/// registered until nothing touches it.
pub struct Request(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) state: OpState,
    pub(crate) run: Mutex<Run>,
    pub(crate) stalled: AtomicBool,
    /// `Peer::withdrawn` when the remote regions were last checked.
    pub(crate) checked: AtomicU64,
    /// The only path it may take, and never flipped: it is a flipped operation itself.
    pub(crate) only: Option<PathName>,
    callbacks: Callbacks,
}

impl Request {
    pub(crate) fn new(shared: Arc<Shared>, peer: Arc<Peer>, plan: Plan) -> Self {
        Self::over(shared, peer, plan, None)
    }

    pub(crate) fn over(
        shared: Arc<Shared>,
        peer: Arc<Peer>,
        plan: Plan,
        only: Option<PathName>,
    ) -> Self {
        let checked = AtomicU64::new(peer.withdrawn());
        let this = Arc::new(Inner {
            shared,
            peer,
            plan: Arc::new(plan),
            state: OpState::new(),
            run: Mutex::new(Run::default()),
            stalled: AtomicBool::new(false),
            checked,
            only,
            callbacks: Callbacks::default(),
        });
        this.shared.track(&this);
        this.ready();
        Self(this)
    }

    /// Starts the transfer with the agent's default deadline.
    ///
    /// Errors: `RepostActive` while it is active, `NotRegistered` when a region was withdrawn.
    /// Everything later ends the request: see [`Request::status`].
    pub fn post(&self) -> Result<()> {
        self.0.post(None, self.0.shared.config.deadline)
    }

    /// Starts the transfer.
    pub fn post_with(&self, options: PostOptions) -> Result<()> {
        self.0.post_with(options)
    }

    /// How it stands. Never blocks.
    pub fn status(&self) -> Status {
        match self.0.state.phase() {
            Phase::Prepared => Status::Prepared,
            Phase::Active if self.0.stalled.load(Ordering::Relaxed) => Status::Stalled,
            Phase::Active => Status::Active,
            Phase::Done => Status::Done,
            Phase::Cancelled => Status::Cancelled,
            Phase::Failed => Status::Failed(self.0.failure()),
        }
    }

    /// Waits until it ends, `timeout` at most.
    ///
    /// Errors: what it failed with; `NotPosted`; `Timeout` when it is still active.
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        match self.0.settle(deadline_after(timeout)) {
            Phase::Done => Ok(()),
            Phase::Prepared => Err(fail(ErrorKind::NotPosted, "the request was never posted")),
            Phase::Active => Err(fail(
                ErrorKind::Timeout,
                format!("still active after {timeout:?}; it goes on"),
            )
            .with_peer(&self.0.peer.name)),
            Phase::Failed | Phase::Cancelled => Err(self.0.failure()),
        }
    }

    /// A future of the present post's end.
    pub fn done(&self) -> Done<'_> {
        Done::new(self)
    }

    /// Calls `callback` at the end of every post: once each, in order, one call at a time. Another
    /// callback takes its place.
    pub fn on_complete(&self, callback: Callback) {
        self.0.callbacks.set(callback);
    }

    /// Asks for an early end. It ends as `Cancelled`, or as it would have, once no late access
    /// can land.
    pub fn cancel(&self) {
        self.0
            .stop(fail(ErrorKind::Cancelled, "cancelled by the caller"));
    }

    /// The account of the last completed post.
    pub fn receipt(&self) -> Option<Receipt> {
        self.0.receipt()
    }

    /// Bytes that the present (or last) post has moved so far.
    pub fn moved(&self) -> u64 {
        self.0.moved()
    }

    /// What it moves.
    pub fn plan(&self) -> &Plan {
        &self.0.plan
    }

    /// The peer's name.
    pub fn peer(&self) -> &str {
        &self.0.peer.name
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.0.state.phase() == Phase::Active {
            self.0.stop(fail(
                ErrorKind::Cancelled,
                "its handle was dropped while it was active",
            ));
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("peer", &self.0.peer.name)
            .field("op", &self.0.plan.op())
            .field("bytes", &self.0.plan.bytes())
            .field("status", &self.status())
            .finish()
    }
}

impl Inner {
    pub(crate) fn post_with(self: &Arc<Self>, options: PostOptions) -> Result<()> {
        let deadline = options.deadline.unwrap_or(self.shared.config.deadline);
        self.post(options.notification, deadline)
    }

    fn failure(&self) -> Error {
        self.state
            .error()
            .unwrap_or_else(|| fail(ErrorKind::Backend, "the request failed"))
    }

    /// Waits for the end; where another thread posts again before this one looks, for the next one.
    fn settle(&self, deadline: Instant) -> Phase {
        loop {
            let phase = self.settle_once(deadline);
            if phase != Phase::Active || Instant::now() >= deadline {
                return phase;
            }
        }
    }

    fn settle_once(&self, deadline: Instant) -> Phase {
        let ended = || self.state.phase() != Phase::Active;
        let runtime = &self.shared.runtime;
        if !runtime.is_threaded() {
            runtime.wait(deadline, ended);
            return self.state.phase();
        }
        if runtime.spin_until(deadline, ended) {
            return self.state.phase();
        }
        self.state
            .block(deadline.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn may_use(&self, candidate: &Candidate) -> bool {
        self.only
            .is_none_or(|path| path == candidate.path && !candidate.flipped)
    }

    pub(crate) fn is_active(&self) -> bool {
        self.state.phase() == Phase::Active
    }

    /// Publishes the end to all four views.
    pub(crate) fn publish(&self, result: Result<()>) {
        self.callbacks.note(&result);
        self.state.publish(result);
        self.callbacks.call();
        self.shared.event();
    }
}
