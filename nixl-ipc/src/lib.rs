//! Same-host backend for host memory: one Unix socket per pair of agents, three ways to copy.
//!
//! | path | reaches | how |
//! |---|---|---|
//! | `local` | agents of one process | memory copied directly, regions pinned at the target |
//! | `shm` | memory that the peer's agent allocated | its memfd, passed over the socket, mapped once |
//! | `cma` | any memory of the peer | process_vm_readv(2) and process_vm_writev(2), 1024 blocks a call |
//!
//! The initiator copies, on core's copy threads, so a stopped peer stops no transfer. Read in
//! this order: `backend`, `node` (listening, dialling), `greeting` (authentication), `link` (one
//! connection), `imports` (the peer's regions), `mover` (a request and its threads), `remote` and
//! `local` (the paths).

mod backend;
mod cma;
mod copy;
mod dir;
mod doorbell;
mod endpoint;
mod fault;
mod greeting;
mod imports;
mod link;
mod local;
mod mapping;
mod mover;
mod node;
mod process;
mod remote;
mod sock;
mod wire;

pub use backend::{CMA, IpcBackend, IpcConfig, LOCAL, SHM};
