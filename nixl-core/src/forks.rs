//! What happens after a fork.

use std::sync::{
    Once,
    atomic::{AtomicU32, Ordering},
};

static FORKS: AtomicU32 = AtomicU32::new(0);

extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// How many forks (`pthread_atfork(3)`) lie between this process and the one that asked first.
///
/// A child has the parent's memory and none of its threads: whoever keeps an agent for code that
/// may fork compares this with what it was, and leaves the agent alone where the two differ.
#[inline]
pub fn forks() -> u32 {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: INV-7, a handler that is async-signal-safe: one atomic addition.
        let failed = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        debug_assert_eq!(failed, 0, "ENOMEM is the only error");
    });
    FORKS.load(Ordering::Relaxed)
}
