//! Memory that Python objects own.

use std::ffi::c_void;

use nixl::{ErrorKind, MemKind, MemoryOwner, Span};
use pyo3::{ffi, intern, prelude::*};

use crate::{
    buffer::Buffer,
    error::{misuse, of},
};

/// An object's memory, which the object keeps in place.
pub(crate) struct PyOwner {
    addr: u64,
    len: u64,
    /// What keeps the memory. Let go of by whichever thread drops the region last; PyO3 passes that
    /// on to one that is attached.
    _keep: Vec<Py<PyAny>>,
}

// SAFETY: INV-2, the memory is that of an exported buffer, a DLPack capsule or a tensor's storage,
// each of which stays where it is while `_keep` lives. Python has no references into it that Rust
// knows of.
unsafe impl MemoryOwner for PyOwner {
    fn span(&self) -> Span {
        Span {
            addr: self.addr,
            len: self.len,
            kind: MemKind::Dram,
            dev: 0,
        }
    }
}

impl PyOwner {
    /// Memory at an address that the caller vouches for, kept by `keep` if that is something.
    pub(crate) fn vouched(addr: u64, len: u64, keep: Option<Py<PyAny>>) -> Self {
        Self {
            addr,
            len,
            _keep: keep.into_iter().collect(),
        }
    }

    /// The memory of a tensor, array, or anything with the buffer protocol or DLPack.
    pub(crate) fn of(obj: &Bound<'_, PyAny>, writable: bool) -> PyResult<Self> {
        if let Some(owner) = Self::of_tensor(obj)? {
            return Ok(owner);
        }
        if has(obj, "__cuda_array_interface__") {
            return Err(gpu(&type_name(obj), "it has a __cuda_array_interface__"));
        }
        let from_buffer = match Self::of_buffer(obj, writable) {
            Ok(owner) => return Ok(owner),
            Err(error) => error,
        };
        if has(obj, "__dlpack__") {
            return Self::of_dlpack(obj);
        }
        let why = from_buffer.value(obj.py()).to_string();
        let fix = if writable && Self::of_buffer(obj, false).is_ok() {
            "; it can be registered with read_only=True"
        } else {
            ""
        };
        Err(misuse(format!(
            "cannot register a {}: {why}{fix}",
            type_name(obj)
        )))
    }

    /// A tensor as torch has them, whatever its dtype and whether it requires a gradient. torch
    /// itself is not needed.
    fn of_tensor(obj: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let names = ["data_ptr", "element_size", "numel", "is_contiguous"];
        if !names.iter().all(|name| has(obj, name)) {
            return Ok(None);
        }
        let py = obj.py();
        let device = obj.getattr(intern!(py, "device"))?;
        if device.getattr(intern!(py, "type"))?.extract::<String>()? != "cpu" {
            return Err(gpu("tensor", &format!("it is on {device}")));
        }
        if !obj.call_method0("is_contiguous")?.extract::<bool>()? {
            return Err(misuse(
                "cannot register a tensor that is not contiguous; register its storage or a copy",
            ));
        }
        let items: u64 = obj.call_method0("numel")?.extract()?;
        let size: u64 = obj.call_method0("element_size")?.extract()?;
        let mut keep = vec![obj.clone().unbind()];
        if has(obj, "untyped_storage") {
            // Outlives an assignment to the tensor's `data`.
            keep.push(obj.call_method0("untyped_storage")?.unbind());
        }
        Ok(Some(Self {
            addr: obj.call_method0("data_ptr")?.extract()?,
            len: items.saturating_mul(size),
            _keep: keep,
        }))
    }

    fn of_buffer(obj: &Bound<'_, PyAny>, writable: bool) -> PyResult<Self> {
        let buffer = Buffer::any(obj, writable)?;
        let (addr, len) = (buffer.addr(), buffer.len() as u64);
        // A memoryview is an export for as long as it lives: a bytearray cannot be resized.
        // SAFETY: INV-7, PyMemoryView_FromObject takes any object and returns a new reference or
        // null with an exception set; the thread is attached.
        let view = unsafe { ffi::PyMemoryView_FromObject(obj.as_ptr()) };
        // SAFETY: INV-7, `view` is that new reference, or null.
        let view = unsafe { Bound::from_owned_ptr_or_err(obj.py(), view) }?;
        Ok(Self {
            addr,
            len,
            _keep: vec![view.unbind()],
        })
    }

    fn of_dlpack(obj: &Bound<'_, PyAny>) -> PyResult<Self> {
        let (device, number): (i32, i32) = obj.call_method0("__dlpack_device__")?.extract()?;
        if device != DL_CPU && device != DL_CUDA_HOST {
            let what = format!("DLPack says device type {device}, number {number}");
            return Err(gpu(&type_name(obj), &what));
        }
        let capsule = obj.call_method0("__dlpack__")?;
        // SAFETY: INV-7, PyCapsule_GetPointer checks that it is a capsule of this name; the thread
        // is attached.
        let tensor = unsafe { ffi::PyCapsule_GetPointer(capsule.as_ptr(), c"dltensor".as_ptr()) };
        if tensor.is_null() {
            return Err(PyErr::fetch(obj.py()));
        }
        // SAFETY: INV-7, DLPack: a capsule of this name points to a DLManagedTensor, which begins
        // with a DLTensor and lives until the capsule does, as nobody consumes it.
        let tensor = unsafe { &*tensor.cast::<DlTensor>() };
        let (addr, len) = tensor.extent().ok_or_else(|| {
            misuse(format!(
                "cannot register a {}: its elements are not contiguous; register a copy",
                type_name(obj)
            ))
        })?;
        Ok(Self {
            addr,
            len,
            _keep: vec![capsule.unbind(), obj.clone().unbind()],
        })
    }
}

/// `DLDeviceType` of host memory, and of host memory that CUDA has pinned.
const DL_CPU: i32 = 1;
const DL_CUDA_HOST: i32 = 3;

/// `DLTensor` of DLPack's C header.
#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device: [i32; 2],
    ndim: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
}

impl DlTensor {
    /// Address and bytes, if the elements follow each other in C's order.
    fn extent(&self) -> Option<(u64, u64)> {
        // SAFETY: INV-7, DLPack: `shape` has `ndim` entries.
        let shape = unsafe { self.entries(self.shape) }?;
        // SAFETY: INV-7, DLPack: `strides` has `ndim` entries too, or is null.
        let strides = unsafe { self.entries(self.strides) }?;
        let mut items = 1u64;
        for (dim, size) in shape.iter().enumerate().rev() {
            let stride = strides.get(dim).filter(|_| *size > 1);
            if stride.is_some_and(|stride| u64::try_from(*stride) != Ok(items)) {
                return None;
            }
            items = items.checked_mul(u64::try_from(*size).ok()?)?;
        }
        let bits = u64::from(self.bits) * u64::from(self.lanes);
        let bytes = items.checked_mul(bits)?.div_ceil(8);
        Some(((self.data as u64).checked_add(self.byte_offset)?, bytes))
    }

    /// One number for each dimension; none of a null pointer.
    ///
    /// # Safety
    ///
    /// `array` is null or has `ndim` entries, which live as long as `self`.
    unsafe fn entries(&self, array: *const i64) -> Option<&[i64]> {
        let dims = usize::try_from(self.ndim).ok()?;
        if array.is_null() || dims == 0 {
            return Some(&[]);
        }
        // SAFETY: INV-7, as the caller says.
        Some(unsafe { std::slice::from_raw_parts(array, dims) })
    }
}

fn has(obj: &Bound<'_, PyAny>, name: &str) -> bool {
    // A property that raises, as torch's on host tensors, is one that is not there.
    obj.getattr(name).is_ok()
}

fn type_name(obj: &Bound<'_, PyAny>) -> String {
    let name = obj.get_type().qualname().map(|name| name.to_string());
    name.unwrap_or_else(|_| "object".to_owned())
}

fn gpu(what: &str, why: &str) -> PyErr {
    of(
        ErrorKind::Unsupported,
        format!(
            "cannot register a {what} in GPU memory ({why}): this build moves host memory only; \
             copy it to the host, pinned if possible, and register that"
        ),
    )
}
