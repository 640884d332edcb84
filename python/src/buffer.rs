//! The buffer protocol.
//!
//! Python counts it to the stable ABI from 3.11 on only. The functions and the layout of their
//! structure (PEP 3118) are the same in 3.9 and 3.10, so they are declared here.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    marker::PhantomData,
    ptr,
};

use pyo3::{ffi, prelude::*};

#[repr(C)]
struct Raw {
    buf: *mut c_void,
    obj: *mut ffi::PyObject,
    len: isize,
    itemsize: isize,
    readonly: c_int,
    ndim: c_int,
    format: *mut c_char,
    shape: *mut isize,
    strides: *mut isize,
    suboffsets: *mut isize,
    internal: *mut c_void,
}

unsafe extern "C" {
    fn PyObject_GetBuffer(obj: *mut ffi::PyObject, view: *mut Raw, flags: c_int) -> c_int;
    fn PyBuffer_Release(view: *mut Raw);
}

const WRITABLE: c_int = 0x1;
const FORMAT: c_int = 0x4;
const C_CONTIGUOUS: c_int = 0x38;
const ANY_CONTIGUOUS: c_int = 0x98;

/// An object's contiguous memory, exported until this is dropped.
pub(crate) struct Buffer<'py> {
    raw: Box<Raw>,
    /// Released by the thread that is attached.
    _py: PhantomData<Python<'py>>,
}

impl<'py> Buffer<'py> {
    /// The memory of `obj`, in C's or Fortran's order, writable if `writable`.
    pub(crate) fn any(obj: &Bound<'py, PyAny>, writable: bool) -> PyResult<Self> {
        let writable = if writable { WRITABLE } else { 0 };
        Self::export(obj, ANY_CONTIGUOUS | writable)
    }

    /// The items of `obj` in C's order, with shape and format.
    pub(crate) fn items(obj: &Bound<'py, PyAny>) -> PyResult<Self> {
        Self::export(obj, C_CONTIGUOUS | FORMAT)
    }

    fn export(obj: &Bound<'py, PyAny>, flags: c_int) -> PyResult<Self> {
        let mut raw = Box::new(Raw {
            buf: ptr::null_mut(),
            obj: ptr::null_mut(),
            len: 0,
            itemsize: 0,
            readonly: 0,
            ndim: 0,
            format: ptr::null_mut(),
            shape: ptr::null_mut(),
            strides: ptr::null_mut(),
            suboffsets: ptr::null_mut(),
            internal: ptr::null_mut(),
        });
        // SAFETY: INV-7, PyObject_GetBuffer fills the structure of PEP 3118, which stays where it
        // is until it is released; the thread is attached.
        let failed = unsafe { PyObject_GetBuffer(obj.as_ptr(), &mut *raw, flags) };
        if failed != 0 {
            return Err(PyErr::fetch(obj.py()));
        }
        Ok(Self {
            raw,
            _py: PhantomData,
        })
    }

    pub(crate) fn addr(&self) -> u64 {
        self.raw.buf as u64
    }

    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.raw.len).unwrap_or(0)
    }

    pub(crate) fn item_size(&self) -> usize {
        usize::try_from(self.raw.itemsize).unwrap_or(0)
    }

    /// Number of dimensions.
    pub(crate) fn dims(&self) -> usize {
        usize::try_from(self.raw.ndim).unwrap_or(0)
    }

    /// Number of items along each dimension.
    pub(crate) fn shape(&self) -> Vec<usize> {
        let dims = self.dims();
        if self.raw.shape.is_null() {
            return Vec::new();
        }
        // SAFETY: INV-7, PEP 3118: `shape` has `ndim` entries while the export lasts.
        let shape = unsafe { std::slice::from_raw_parts(self.raw.shape, dims) };
        shape
            .iter()
            .map(|n| usize::try_from(*n).unwrap_or(0))
            .collect()
    }

    /// The letter of the items' format, `None` for anything but plain numbers in this machine's
    /// order.
    pub(crate) fn letter(&self) -> Option<u8> {
        if self.raw.format.is_null() {
            return Some(b'B');
        }
        // SAFETY: INV-7, PEP 3118: a string that ends with NUL while the export lasts.
        let format = unsafe { CStr::from_ptr(self.raw.format) }.to_bytes();
        match format {
            [letter] => Some(*letter),
            [b'@' | b'=', letter] => Some(*letter),
            [b'<', letter] if cfg!(target_endian = "little") => Some(*letter),
            _ => None,
        }
    }

    /// The bytes. Python code may write to them, so they are read at once and not kept.
    pub(crate) fn bytes(&self) -> &[u8] {
        if self.raw.len == 0 {
            return &[];
        }
        // SAFETY: INV-7, the export has `len` bytes at `buf` and lasts as long as `self`; the
        // thread stays attached while the slice lives.
        unsafe { std::slice::from_raw_parts(self.raw.buf.cast(), self.len()) }
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        // SAFETY: INV-7, filled by PyObject_GetBuffer and released once; the thread is attached.
        unsafe { PyBuffer_Release(&mut *self.raw) };
    }
}

/// A copy of what a bytes-like object holds.
pub(crate) fn to_vec(obj: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    Ok(Buffer::any(obj, false)?.bytes().to_vec())
}
