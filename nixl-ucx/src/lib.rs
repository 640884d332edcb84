//! UCX backend: RDMA and what else libucp offers.
//!
//! `detect` reads what the machine has, `config` decides from it and from the user's wishes how
//! UCX is set up, and says why; neither needs libucp. `ucp` is the safe layer over libucp, `engine`
//! drives one worker, `backend` is what core sees. `docs/ucx.md` is the contract of all three.

mod address;
mod backend;
pub mod config;
pub mod detect;
mod endpoint;
mod engine;
mod fault;
mod foreign;
mod imports;
mod keys;
mod modules;
mod paths;
pub mod shape;
mod ucp;
mod wire;
mod witness;

pub use address::MAX_WORKERS;
pub use backend::{Options, UcxBackend};
pub use paths::{CMA, RDMA, RNDV, RNDV_CMA, RNDV_TCP, TCP};
pub use ucx_sys::Version;
