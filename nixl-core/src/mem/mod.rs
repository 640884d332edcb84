//! Registered memory: spans, regions, memory that the agent allocates.

mod host;
mod index;
mod region;
mod table;

pub use host::{HostMemory, HugePages, OwnedBuffer};
pub use index::SpanIndex;
pub use region::{MemoryOwner, Pin, Region, Registration, Span};
pub use table::{Access, RegionTable};

pub(crate) use host::RawMemory;
