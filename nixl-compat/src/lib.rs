//! `libnixl_capi.so`: NIXL's C functions over this library.
//!
//! The published `nixl-sys` crate, built with its feature `stub-api`, opens a library of this name
//! at run time and calls these functions, so its users run on this library without a change.
//! Names, types and status values are those of `wrapper.h` in nixl-sys 1.5.1; behaviour is that of
//! NIXL 1.5.1 where `docs/nixl-compat.md` does not say otherwise. The one plugin is called `UCX`
//! and means the best path that this library has.
//!
//! A handle is a number in a table, never an address: one that was destroyed, was never made or is
//! of another kind is an invalid parameter, not a crash. A panic becomes
//! `NIXL_CAPI_ERROR_EXCEPTION`.

mod agent;
mod args;
mod exchange;
mod ffi;
mod handle;
mod list;
mod memory;
mod notify;
mod query;
mod request;
mod status;
#[cfg(test)]
mod tests;
