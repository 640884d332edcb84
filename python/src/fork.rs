//! What happens after a fork.

use std::{
    mem::ManuallyDrop,
    ops::Deref,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use nixl::{Error, ErrorKind, Result};

/// How many forks lie between the first process and this one.
static FORKS: AtomicU32 = AtomicU32::new(0);

extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Begins to count forks.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: INV-7, pthread_atfork(3) with a handler that is async-signal-safe: one atomic
        // addition.
        let failed = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        debug_assert_eq!(failed, 0, "ENOMEM is the only error");
    });
}

pub(crate) fn count() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// Something with threads behind it, which a forked child has not: there, reaching it is an error
/// and dropping it leaks it.
#[derive(Debug)]
pub(crate) struct Kept<T> {
    value: ManuallyDrop<T>,
    forks: u32,
}

impl<T> Kept<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            value: ManuallyDrop::new(value),
            forks: count(),
        }
    }

    /// Whether this process made it.
    pub(crate) fn is_ours(&self) -> bool {
        self.forks == count()
    }

    /// The value, in the process that made it.
    pub(crate) fn get(&self) -> Result<&T> {
        if self.is_ours() {
            return Ok(&self.value);
        }
        Err(Error::new(
            ErrorKind::NotAllowed,
            "this object belongs to the process that was forked, whose threads this one has not; \
             make a new Agent after the fork",
        ))
    }
}

/// For what is constant about the value, which a child may read.
impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        if self.is_ours() {
            // SAFETY: INV-1, dropped once, here, by its only owner.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}
