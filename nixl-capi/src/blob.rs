//! Bytes and texts that the library hands out.

use std::ffi::c_void;

use crate::{
    ffi::{check_out, free, put, put_handle, with},
    status::{Result, call, nixl_rs_status},
};

/// Bytes or a text of this library's.
pub struct nixl_rs_blob(());

/// With a zero byte behind what counts.
pub(crate) struct Blob(Vec<u8>);

/// Hands out a copy of `bytes`.
pub(crate) fn give(out: *mut *mut nixl_rs_blob, bytes: &[u8]) -> Result {
    let mut copy = Vec::with_capacity(bytes.len() + 1);
    copy.extend_from_slice(bytes);
    copy.push(0);
    put_handle(out, Blob(copy))
}

/// Where the bytes are and how many. A zero byte stands behind them, so a text is a C string.
/// Valid until the blob is freed.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_blob_get(
    blob: *const nixl_rs_blob,
    data: *mut *const c_void,
    len: *mut usize,
) -> nixl_rs_status {
    call(|| {
        check_out(data)?;
        check_out(len)?;
        with(blob, |Blob(bytes)| {
            put(data, bytes.as_ptr().cast())?;
            put(len, bytes.len() - 1)
        })
    })
}

/// Frees a blob.
#[unsafe(no_mangle)]
pub extern "C" fn nixl_rs_blob_free(blob: *mut nixl_rs_blob) -> nixl_rs_status {
    call(|| free::<Blob, _>(blob))
}
