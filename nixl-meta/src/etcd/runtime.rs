//! The thread that runs the asynchronous client.

use std::{future::Future, sync::mpsc, thread};

use nixl_core::{Error, ErrorKind, Result};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    task::AbortHandle,
};

/// A current-thread runtime on its own thread; ends when dropped.
pub(super) struct Runtime {
    handle: Handle,
    /// Dropping it ends the thread.
    _running: oneshot::Sender<()>,
}

impl Runtime {
    pub(super) fn start() -> Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::os("start the etcd client's runtime", e))?;
        let handle = runtime.handle().clone();
        let (running, dropped) = oneshot::channel::<()>();
        thread::Builder::new()
            .name("nixl-etcd".into())
            .spawn(move || {
                // Ends with an error when the sender is dropped, which is the signal.
                let _ = runtime.block_on(dropped);
                // A name lookup in progress must not hold up anything.
                runtime.shutdown_background();
            })
            .map_err(|e| Error::os("start the etcd client's thread", e))?;
        Ok(Self {
            handle,
            _running: running,
        })
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.handle.spawn(task).abort_handle()
    }

    /// Runs `operation`, which bounds its own time, and waits for its result.
    pub(super) fn call<T: Send + 'static>(
        &self,
        operation: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (tx, rx) = mpsc::sync_channel(1);
        self.spawn(async move {
            // The caller waits below.
            let _ = tx.send(operation.await);
        });
        rx.recv().unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Abandoned,
                "the etcd client's task died; see the log for its panic",
            ))
        })
    }
}
