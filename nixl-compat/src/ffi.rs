//! What C passes: places for results, strings, bytes.
//!
//! The types below are made by C alone, as arguments of the exported functions, whose callers
//! vouch for them (INV-8). So their methods are safe.

use std::ffi::{CStr, c_char, c_void};

use crate::status::{Result, Status};

/// Where C wants a result.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Errors: `InvalidParam` for a null pointer.
    pub(crate) fn check(&self) -> Result {
        if self.0.is_null() {
            return Err(Status::InvalidParam);
        }
        Ok(())
    }

    /// Writes the result. Errors: as [`Out::check`].
    pub(crate) fn put(&self, value: T) -> Result {
        self.check()?;
        // SAFETY: INV-8, C made the pointer for a value of this type.
        unsafe { self.0.write(value) };
        Ok(())
    }
}

impl Out<*mut c_void> {
    /// Gives a copy of `bytes` to C, which frees it with `free`; a null pointer for none.
    pub(crate) fn give(&self, len: &Out<usize>, bytes: &[u8]) -> Result {
        self.check()?;
        len.put(bytes.len())?;
        let copy = match bytes.len() {
            0 => std::ptr::null_mut(),
            n => allocate(n)?,
        };
        if !copy.is_null() {
            // SAFETY: INV-8, `copy` was allocated for as many bytes just now.
            unsafe { copy.cast::<u8>().copy_from(bytes.as_ptr(), bytes.len()) };
        }
        self.put(copy)
    }
}

impl Out<*mut c_char> {
    /// Gives a copy of `text` to C, which frees it with `free`.
    pub(crate) fn give(&self, text: &CStr) -> Result {
        self.check()?;
        let bytes = text.to_bytes_with_nul();
        let copy = allocate(bytes.len())?.cast::<u8>();
        // SAFETY: INV-8, `copy` was allocated for as many bytes just now.
        unsafe { copy.copy_from(bytes.as_ptr(), bytes.len()) };
        self.put(copy.cast())
    }
}

/// By `malloc`, since C frees it by `free`.
fn allocate(len: usize) -> Result<*mut c_void> {
    // SAFETY: INV-8, malloc takes any size.
    let memory = unsafe { libc::malloc(len) };
    if memory.is_null() {
        return Err(Status::Backend);
    }
    Ok(memory)
}

/// A string of C's.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Text(*const c_char);

impl Text {
    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Errors: `InvalidParam` for a null pointer or something that is no UTF-8.
    pub(crate) fn get(&self) -> Result<&str> {
        if self.is_null() {
            return Err(Status::InvalidParam);
        }
        // SAFETY: INV-8, a string of C's that lives as long as the call.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map_err(|_| Status::InvalidParam)
    }
}

/// An array of C's; its length comes as an argument of its own.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Array<T>(*const T);

impl<T> Array<T> {
    /// Errors: `InvalidParam` for a null pointer to more than nothing, and for more than the
    /// address space holds.
    pub(crate) fn get(&self, len: usize) -> Result<&[T]> {
        if len == 0 {
            return Ok(&[]);
        }
        let size = len.checked_mul(size_of::<T>());
        let fits = size.is_some_and(|size| size <= isize::MAX as usize);
        if self.0.is_null() || !fits || !self.0.is_aligned() {
            return Err(Status::InvalidParam);
        }
        // SAFETY: INV-8, C says that so many lie there, for as long as the call.
        Ok(unsafe { std::slice::from_raw_parts(self.0, len) })
    }
}

/// A structure of C's that is only read.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct In<T>(*const T);

impl<T: Copy> In<T> {
    /// Errors: `InvalidParam` for a null pointer.
    pub(crate) fn get(&self) -> Result<T> {
        if self.0.is_null() {
            return Err(Status::InvalidParam);
        }
        // SAFETY: INV-8, C made the pointer to such a structure.
        Ok(unsafe { self.0.read() })
    }
}

/// A pointer into an object that a handle keeps: valid until C destroys or changes the object.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Kept<T>(*const T);

impl Kept<c_char> {
    pub(crate) fn text(text: &CStr) -> Self {
        Self(text.as_ptr())
    }
}

impl Kept<c_void> {
    pub(crate) fn bytes(bytes: &[u8]) -> Self {
        Self(bytes.as_ptr().cast())
    }
}

/// Arguments as C would make them.
#[cfg(test)]
mod made {
    use super::*;

    impl<T> Out<T> {
        pub(crate) fn raw(place: *mut T) -> Self {
            Self(place)
        }

        pub(crate) fn to(place: &mut T) -> Self {
            Self(place)
        }
    }

    impl<T> In<T> {
        pub(crate) fn raw(place: *const T) -> Self {
            Self(place)
        }
    }

    impl<T> Array<T> {
        pub(crate) fn raw(first: *const T) -> Self {
            Self(first)
        }
    }

    impl Text {
        pub(crate) fn raw(text: *const c_char) -> Self {
            Self(text)
        }

        pub(crate) fn of(text: &'static CStr) -> Self {
            Self(text.as_ptr())
        }
    }
}
