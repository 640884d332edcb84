//! What happens after a fork.

use std::{mem::ManuallyDrop, ops::Deref};

use nixl::{Error, ErrorKind, Result, forks};

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
            forks: forks(),
        }
    }

    /// Whether this process made it.
    pub(crate) fn is_ours(&self) -> bool {
        self.forks == forks()
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
