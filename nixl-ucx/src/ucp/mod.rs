//! The safe layer over libucp: parents outlive their children, what an operation uses lives until
//! UCX is done with it, and one thread at a time is inside of a worker.

mod am;
mod endpoint;
mod lanes;
mod memory;
mod request;
mod status;
mod worker;

pub(crate) use am::{Reply, Sink};
pub(crate) use endpoint::{Block, Endpoint, RemoteKey};
pub(crate) use lanes::{Lanes, class_of};
pub(crate) use memory::{Api, Context, MemHandle};
pub(crate) use request::{Done, Posted, Tally};
pub(crate) use status::Status;
pub(crate) use worker::{Entered, Worker};

use std::path::{Path, PathBuf};

use crate::address::Version;

/// Loads a libucp, and says which.
pub(crate) fn load(path: Option<&Path>) -> nixl_core::Result<(Api, Version)> {
    let path = path
        .map(Path::to_owned)
        .or_else(|| std::env::var_os("NIXL_RS_UCX_LIB").map(PathBuf::from));
    let path = path.unwrap_or_else(|| PathBuf::from("libucp.so.0"));
    let lib = crate::sys::Ucp::load(&path).map_err(crate::fault::unsupported)?;
    let (mut a, mut b, mut c) = (0, 0, 0);
    // SAFETY: INV-5, three out-pointers.
    unsafe { (lib.ucp_get_version)(&mut a, &mut b, &mut c) };
    let version = Version {
        major: a as u16,
        minor: b as u16,
        release: c as u16,
    };
    Ok((Api::new(std::sync::Arc::new(lib)), version))
}
