//! NIXL-style KV-cache transfer: register memory, exchange metadata, move scattered blocks over
//! the best path that provably works.
//!
//! ```no_run
//! # fn main() -> nixl::Result<()> {
//! use nixl::{DescList, Op};
//!
//! let config = nixl::Config::default();
//! let prefill = config.agent("prefill")?.build()?;
//! let decode = config.agent("decode")?.build()?;
//! decode.load_metadata(&prefill.metadata()?)?;
//!
//! let (from, to) = (prefill.allocate(1 << 20)?, decode.allocate(1 << 20)?);
//! # decode.load_metadata(&prefill.metadata()?)?;
//! let blocks = |base: u64, order: &[u64]| DescList::dram(order.iter().map(|i| (base + i * 4096, 4096)));
//! let request = decode.create_request(
//!     Op::Read,
//!     &blocks(to.addr(), &[0, 1, 2]),
//!     "prefill",
//!     &blocks(from.addr(), &[7, 3, 5]),
//! )?;
//! request.post()?;
//! request.wait(std::time::Duration::from_secs(5))?;
//! println!("{:?}", request.receipt());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod config;
mod exchange;
pub mod nixl_env;
pub mod p2p;
#[cfg(feature = "etcd")]
pub mod store;

pub use config::{
    AgentSection, Config, IpcSection, PolicySection, TcpSection, UcxSection, backends,
};
pub use exchange::metadata_handler;
pub use nixl_core::*;
pub use nixl_meta as meta;

/// What this build was made for: target and profile, for bug reports.
pub const BUILD: &str = env!("NIXL_BUILD");
