//! The safe layer over libucp: parents outlive their children, what an operation uses lives until
//! UCX is done with it, and one thread at a time is inside of a worker.

mod am;
mod endpoint;
mod lanes;
mod memory;
mod request;
mod status;
mod worker;

pub(crate) use am::{Reply, Sink, Way};
pub(crate) use endpoint::{Block, Endpoint, RemoteKey};
pub(crate) use lanes::{Lanes, class_of};
pub(crate) use memory::{Api, Context, MemHandle};
pub(crate) use request::{Done, Posted, Tally};
pub(crate) use status::Status;
pub(crate) use worker::{Entered, Worker};
