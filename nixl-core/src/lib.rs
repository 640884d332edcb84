//! Agents, regions, requests and the negotiator; knows no backend by name.
//!
//! Read in this order: [`backend`], [`inflight`], [`plan`]; `docs/architecture.md` draws the whole.

pub mod auth;
pub mod backend;
pub mod card;
pub mod desc;
pub mod error;
pub mod inflight;
pub mod mem;
pub mod notify;
pub mod plan;
pub mod runtime;
mod sync;
pub mod telemetry;

pub use card::*;
pub use desc::{DescList, Run};
pub use error::{Error, ErrorKind, Result};
pub use mem::{HostMemory, HugePages, MemoryOwner, Region, RegionTable, Span};
