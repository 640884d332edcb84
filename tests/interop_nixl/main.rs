//! Exchange with real NIXL agents (the wheel nixl-cu12 1.5.1), over UCX, in both roles.

mod exchange;
mod harness;
mod metadata;
mod nixl;
mod ours;
mod transfers;
