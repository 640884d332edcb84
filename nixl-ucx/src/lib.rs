//! UCX backend: RDMA and what else libucp offers.
//!
//! `detect` reads what the machine has, `config` decides from it and from the user's wishes how
//! UCX is set up, and says why. Neither needs libucp.

#![forbid(unsafe_code)]

pub mod config;
pub mod detect;
