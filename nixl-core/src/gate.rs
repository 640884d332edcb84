//! Whether a connection is open, how many posts are under way, and whom to tell of its end.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use crate::{Error, Result, backend::Conn};

/// Counts posts in and out, so that the end is told only after the last token.
pub struct Gate {
    /// One for being open, one for each post under way. Zero: over, for good.
    users: AtomicUsize,
    /// Set once, when it closes.
    why: OnceLock<Error>,
    conn: Mutex<Option<Conn>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            users: AtomicUsize::new(1),
            why: OnceLock::new(),
            conn: Mutex::new(None),
        }
    }
}

impl Gate {
    /// Where messages and the end go from now on.
    pub fn attach(&self, conn: Conn) {
        *self.conn.lock() = Some(conn);
    }

    /// Where messages go; `None` before [`Gate::attach`] and after the end.
    pub fn conn(&self) -> Option<Conn> {
        self.conn.lock().clone()
    }

    /// A post begins; errors with the reason once closed.
    pub fn enter(&self) -> Result<()> {
        self.check()?;
        // A close in between is seen by the transfer itself, before it copies.
        let more = |n| (n > 0).then_some(n + 1);
        match self
            .users
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
        {
            Ok(_) => Ok(()),
            Err(_) => self.check(),
        }
    }

    /// A post ended. True: it was the last, tell the end with [`Gate::tell`].
    #[must_use]
    pub fn exit(&self) -> bool {
        self.users.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Closes; the first reason stays. True: it was open.
    pub fn close(&self, why: Error) -> bool {
        if self.why.set(why).is_err() {
            return false;
        }
        self.users.fetch_sub(1, Ordering::AcqRel);
        true
    }

    /// Errors with the reason once closed.
    pub fn check(&self) -> Result<()> {
        self.why.get().cloned().map_or(Ok(()), Err)
    }

    /// Tells the end if it is over and nobody was told.
    pub fn tell(&self) {
        let Some(why) = self.why.get() else { return };
        if self.users.load(Ordering::Acquire) > 0 {
            return;
        }
        let conn = self.conn.lock().take();
        if let Some(conn) = conn {
            conn.closed(why.clone());
        }
    }
}
