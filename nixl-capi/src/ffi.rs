//! What C passes: places for results, strings, arrays, structures that begin with their size.
//!
//! The functions below take what C gave the exported functions, whose callers vouch for it
//! (INV-8): so they are safe.

use std::ffi::{CStr, c_char};

use crate::{
    status::{Result, misuse},
    table::{self, Kind},
};

/// No structure of ours is as large; a larger size is a mistake, and reading it would be one too.
const LARGEST: usize = 4096;

/// A structure that begins with its size.
///
/// # Safety
///
/// It is `repr(C)`, its first field is `size: usize`, and it holds integers and raw pointers
/// alone, so that any bytes, zeros too, are a value of it.
pub(crate) unsafe trait Versioned: Copy {}

/// Writes a result to where C wants it.
pub(crate) fn put<T>(out: *mut T, value: T) -> Result {
    check_out(out)?;
    // SAFETY: INV-8, C made the pointer for a value of this type.
    unsafe { out.write(value) };
    Ok(())
}

/// Errors: `ApiMisuse` for a place that is NULL or not aligned.
pub(crate) fn check_out<T>(out: *mut T) -> Result {
    if out.is_null() || !out.is_aligned() {
        return Err(misuse("the place for a result is NULL or not aligned"));
    }
    Ok(())
}

/// Enters an object into the table and writes its handle.
pub(crate) fn put_handle<T: Kind, H>(out: *mut *mut H, object: T) -> Result {
    check_out(out)?;
    let handle = table::enter(object)?;
    put(out, std::ptr::without_provenance_mut(handle as usize))
}

/// The number in a handle.
#[inline]
pub(crate) fn number<H>(handle: *const H) -> u64 {
    handle.addr() as u64
}

/// Runs `run` with the object behind a handle.
#[inline]
pub(crate) fn with<T: Kind, H, R>(
    handle: *const H,
    run: impl FnOnce(&T) -> Result<R>,
) -> Result<R> {
    table::with(number(handle), run)
}

/// Frees a handle; NULL is none.
pub(crate) fn free<T: Kind, H>(handle: *mut H) -> Result {
    if handle.is_null() {
        return Ok(());
    }
    table::take::<T>(number(handle)).map(drop)
}

/// A string of C's. Errors: `ApiMisuse` for NULL or something that is no UTF-8.
pub(crate) fn text<'a>(text: *const c_char, what: &'static str) -> Result<&'a str> {
    if text.is_null() {
        return Err(misuse(format!("{what} is NULL")));
    }
    // SAFETY: INV-8, a string of C's that lives as long as the call.
    let bytes = unsafe { CStr::from_ptr(text) };
    let checked = bytes.to_str();
    checked.map_err(|e| misuse(format!("{what} is not UTF-8: {e}")))
}

/// An array of C's. Errors: `ApiMisuse` for NULL or an unaligned pointer to more than nothing, and
/// for more than the address space holds.
pub(crate) fn array<'a, T>(first: *const T, len: usize, what: &'static str) -> Result<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    let fits = len
        .checked_mul(size_of::<T>())
        .is_some_and(|size| size <= isize::MAX as usize);
    if first.is_null() || !first.is_aligned() || !fits {
        let text = format!("{what}: {len} elements at {first:p} cannot be");
        return Err(misuse(text));
    }
    // SAFETY: INV-8, C says that so many lie there, for as long as the call.
    Ok(unsafe { std::slice::from_raw_parts(first, len) })
}

pub(crate) fn size_of_struct<T: Versioned>(from: *const T) -> Result<usize> {
    if from.is_null() || !from.is_aligned() {
        return Err(misuse("a structure is NULL or not aligned"));
    }
    // SAFETY: INV-8, C made the pointer to a structure that begins with its size.
    let size = unsafe { from.cast::<usize>().read() };
    if !(size_of::<usize>()..=LARGEST).contains(&size) {
        return Err(misuse(format!(
            "a structure says that it has {size} bytes; set its size to sizeof"
        )));
    }
    Ok(size)
}

/// Options that may be NULL: then none is set. Fields that an older header lacks are not set
/// either; fields of a newer one that are set are an error, since this library cannot obey them.
pub(crate) fn options<T: Versioned>(from: *const T) -> Result<T> {
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    if !from.is_null() {
        let size = size_of_struct(from)?;
        let known = size.min(size_of::<T>());
        let bytes = array(from.cast::<u8>(), size, "options")?;
        if bytes[known..].iter().any(|byte| *byte != 0) {
            let text = "options of a newer header than this library's are set";
            return Err(nixl::Error::new(nixl::ErrorKind::Unsupported, text).into());
        }
        // SAFETY: INV-8, `value` has room for `known` bytes, and `bytes` as many.
        unsafe {
            value
                .as_mut_ptr()
                .cast::<u8>()
                .copy_from(bytes.as_ptr(), known)
        };
    }
    // SAFETY: INV-8, any bytes are a value of a `Versioned`.
    Ok(unsafe { value.assume_init() })
}

/// Fills in a structure of C's up to the size that it has there; that size stays.
pub(crate) fn fill<T: Versioned>(out: *mut T, value: &T) -> Result {
    let size = size_of_struct(out)?;
    let skip = size_of::<usize>();
    let known = size.min(size_of::<T>());
    let from = std::ptr::from_ref(value).cast::<u8>().wrapping_add(skip);
    let to = out.cast::<u8>().wrapping_add(skip);
    // SAFETY: INV-8, both structures have `known` bytes, of which the first `skip` are left out.
    unsafe { to.copy_from(from, known - skip) };
    Ok(())
}

/// Text in an array of C's, cut where it has no room, ended by a zero.
pub(crate) fn chars<const N: usize>(text: &str) -> [c_char; N] {
    let mut out = [0; N];
    for (to, from) in out.iter_mut().take(N - 1).zip(text.bytes()) {
        *to = from as c_char;
    }
    out
}
