//! `libnixl_rs.so`: the C ABI of this library. `include/nixl_rs.h` is made from these functions.
//!
//! A handle is a number in a table, never an address, so what C gets wrong about handles is a
//! status and not a crash ([`mod@table`]). Structures begin with their size, so that they can grow
//! ([`mod@ffi`]). No panic crosses: every function runs inside [`status::call`].

// The names are C's.
#![allow(non_camel_case_types)]

pub mod agent;
pub mod blob;
pub mod counters;
pub mod exchange;
pub mod ffi;
pub mod list;
pub mod memory;
pub mod metadata;
pub mod notify;
pub mod receipt;
pub mod request;
pub mod status;
pub mod table;
