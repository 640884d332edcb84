//! Bindings to UCX's libucp, which is looked for and opened at run time.
//!
//! Nothing is linked and nothing of UCX is needed to build: the types and the signatures of the
//! functions are made by bindgen from the headers of UCX 1.22 and are checked in (`cargo xtask
//! bindgen` makes them again). [`Library::find`] looks for a libucp, and [`Symbols`] is the table of
//! its functions; `docs/ucx.md` says where it looks and in which order.
//!
//! # Versions
//!
//! UCX 1.13 is the oldest that is accepted, and 1.23 the newest that this was tried with. Every
//! function of the table but [`Symbols::OPTIONAL`] is in all of them. What later versions brought
//! is mostly no function but a bit in a mask, which an older library ignores or refuses, so ask
//! [`Library::version`]:
//!
//! | from | what |
//! |---|---|
//! | 1.14 | `ucp_memh_pack`, `ucp_memh_buffer_release`; `UCP_EP_ATTR_FIELD_TRANSPORTS` |
//! | 1.22 | scatter-gather lists: no function of their own, but the data type [`SGL`] for `ucp_put_nbx`, with `remote_datatype` and `remote_count` in `ucp_request_param_t` |
//!
//! `ucp_init_version` warns if it is told of a newer interface than it has: tell it the library's
//! own version. Structures only ever grew at their end, so the ones here do for older libraries, as
//! long as the masks name no field that they do not know.

// bindgen's output keeps C's names, its documentation is UCX's header, and its format is its own.
#[rustfmt::skip]
#[allow(missing_docs, non_camel_case_types, non_upper_case_globals, unreachable_pub)]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]
mod bindings;
mod library;
mod log;
mod process;
mod search;
mod status;
mod table;

pub use bindings::*;
pub use library::{Library, OpenError, Version};
pub use log::said;
pub use search::{NotFound, Search, Tried};
pub use status::{IOV, Posted, SGL, contig};
pub use table::Symbols;
