//! The callback view of a request.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::Result;

/// Called when a request ends, on the thread that ended it (which may be one that waits for
/// another request): it must not block. It may post the request again.
pub type Callback = Box<dyn Fn(&Result<()>) + Send + Sync>;

/// One request's callback, and the ends that it has to hear of.
#[derive(Default)]
pub(super) struct Callbacks(Mutex<State>);

#[derive(Default)]
struct State {
    callback: Option<Arc<Callback>>,
    ended: VecDeque<Result<()>>,
    /// Some thread calls at the moment. It takes what comes meanwhile: so a callback that posts
    /// again is not called inside of itself, however soon that post ends.
    calling: bool,
}

impl Callbacks {
    pub(super) fn set(&self, callback: Callback) {
        let mut state = self.0.lock();
        // Room now, so that no end allocates.
        state.ended.reserve(2);
        let old = state.callback.replace(Arc::new(callback));
        // What it owned is not dropped under the lock.
        drop(state);
        drop(old);
    }

    /// A post ends, and is about to be published.
    pub(super) fn note(&self, result: &Result<()>) {
        let mut state = self.0.lock();
        if state.callback.is_some() {
            state.ended.push_back(result.clone());
        }
    }

    /// Makes the calls that are due, unless another thread does. Holds no lock while it calls.
    pub(super) fn call(&self) {
        while let Some((callback, result)) = self.next() {
            // Our threads go on, whatever the application does.
            let called = catch_unwind(AssertUnwindSafe(|| callback(&result)));
            if called.is_err() {
                tracing::error!("a completion callback panicked");
            }
            self.0.lock().calling = false;
        }
    }

    fn next(&self) -> Option<(Arc<Callback>, Result<()>)> {
        let mut state = self.0.lock();
        if state.calling {
            return None;
        }
        let result = state.ended.pop_front()?;
        let callback = state.callback.clone()?;
        state.calling = true;
        Some((callback, result))
    }
}
