//! Agents, regions, requests and the negotiator; knows no backend by name.
//!
//! Read in this order: [`agent`], [`backend`], [`inflight`]; `docs/architecture.md` draws the whole.

pub mod card;
pub mod error;

pub use card::*;
pub use error::{Error, ErrorKind, Result};
