//! Agents, regions, requests and the negotiator; knows no backend by name.
//!
//! Read in this order: [`agent`], [`backend`], [`inflight`]; `docs/architecture.md` draws the whole.

pub mod agent;
pub mod auth;
pub mod backend;
pub mod card;
pub mod desc;
pub mod error;
mod flip;
mod forks;
pub mod gate;
pub mod inflight;
pub mod mem;
pub mod metadata;
pub mod negotiate;
pub mod notify;
mod peer;
pub mod plan;
pub mod request;
pub mod runtime;
mod sync;
pub mod telemetry;

pub use agent::{
    Agent, AgentBuilder, AgentConfig, ForeignMetadata, PeerAccess, PreparedLocal, PreparedRemote,
};
pub use card::*;
pub use desc::{DescList, Run};
pub use error::{Error, ErrorKind, Result};
pub use forks::forks;
pub use mem::{HostMemory, HugePages, MemoryOwner, Region, RegionTable, Span};
pub use notify::Notification;
pub use plan::Select;
pub use request::{PostOptions, Receipt, Request, Status};
pub use runtime::Progress;
