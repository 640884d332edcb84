//! One transfer under test: posts it and watches its token.

use std::{
    sync::{Arc, Weak},
    time::Instant,
};

use nixl_core::{
    Error, ErrorKind, Result,
    backend::{Refused, Transfer},
    error::fail,
    inflight::{Completion, OpOwner},
    plan::Plan,
};
use parking_lot::Mutex;

use super::{journal::Journal, side::Side};

/// What runs on the completing thread, at the moment of completion.
pub type Hook = Box<dyn Fn(&Result<()>) + Send + Sync>;

/// A prepared transfer and the owner of its tokens.
pub struct TestOp {
    journal: Arc<Journal>,
    side: Arc<Side>,
    plan: Arc<Plan>,
    transfer: Arc<dyn Transfer>,
    hook: Option<Hook>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    attempt: u32,
    open: bool,
    ended: Option<(Instant, Result<()>)>,
}

impl TestOp {
    pub(crate) fn new(
        journal: Arc<Journal>,
        side: Arc<Side>,
        plan: Arc<Plan>,
        transfer: Arc<dyn Transfer>,
        hook: Option<Hook>,
    ) -> Arc<Self> {
        Arc::new(Self {
            journal,
            side,
            plan,
            transfer,
            hook,
            state: Mutex::default(),
        })
    }

    /// Posts it. A refusal ends the attempt with its error, and is returned.
    pub fn post(self: &Arc<Self>) -> Result<()> {
        let attempt = {
            let mut state = self.state.lock();
            assert!(!state.open, "the suite posted an active transfer");
            state.attempt += 1;
            state.open = true;
            state.ended = None;
            state.attempt
        };
        let token = Completion::new(self.clone(), attempt);
        let refused = self.transfer.clone().post(token).err();
        self.side.count_open(1);
        match refused {
            None => Ok(()),
            Some(Refused { error, done }) => {
                done.complete(Err(error.clone()));
                self.check_same(&error);
                Err(error)
            }
        }
    }

    /// A refused post gave back the token of this attempt and no other.
    fn check_same(&self, error: &Error) {
        if self.result() != Some(Err(error.clone())) {
            self.journal
                .violation("a refused post gave back another token than its own");
        }
    }

    /// The transfer.
    pub fn transfer(&self) -> &Arc<dyn Transfer> {
        &self.transfer
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// How the last attempt ended, if it did.
    pub fn result(&self) -> Option<Result<()>> {
        self.state.lock().ended.clone().map(|(_, result)| result)
    }

    /// When the last attempt ended, if it did.
    pub fn ended_at(&self) -> Option<Instant> {
        self.state.lock().ended.as_ref().map(|(at, _)| *at)
    }

    /// Whether a token is out.
    pub fn is_open(&self) -> bool {
        self.state.lock().open
    }
}

impl OpOwner for TestOp {
    fn finished(self: Arc<Self>, attempt: u32, result: Result<()>) {
        if let Some(hook) = &self.hook {
            hook(&result);
        }
        let (was_open, current) = {
            let mut state = self.state.lock();
            state.ended = Some((Instant::now(), result.clone()));
            (std::mem::replace(&mut state.open, false), state.attempt)
        };
        if !was_open || attempt != current {
            self.journal.violation(format!(
                "token {attempt} was completed with {result:?}; open: {was_open}, last: {current}"
            ));
        }
        if result.is_err_and(|e| e.kind() == ErrorKind::Abandoned) {
            self.journal.violation("a token was dropped uncompleted");
        }
        self.side.count_open(-1);
        self.journal.ring();
    }
}

/// Every operation of a rig, to find lost tokens at the end.
#[derive(Default)]
pub(crate) struct Ops(Mutex<Vec<Weak<TestOp>>>);

impl Ops {
    pub(crate) fn add(&self, op: &Arc<TestOp>) {
        self.0.lock().push(Arc::downgrade(op));
    }

    pub(crate) fn open(&self) -> usize {
        let ops = self.0.lock();
        ops.iter()
            .filter_map(Weak::upgrade)
            .filter(|op| op.is_open())
            .count()
    }
}

/// The error of an attempt that had to fail.
pub fn must_fail(result: Result<()>, what: &str) -> Error {
    match result {
        Err(e) => e,
        Ok(()) => {
            let e = fail(ErrorKind::ApiMisuse, "it succeeded");
            panic!("{what} had to fail: {e}")
        }
    }
}
