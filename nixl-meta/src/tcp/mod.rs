//! Agent to agent over TCP: a listener in each agent, and functions that call another's.
//!
//! One connection carries one request. Integers are little-endian.
//!
//! ```text
//! client  hello    magic[7] version[1] wants_key[1] nonce[32]
//! server  welcome  magic[7] version[1] verdict[1] max_blob[4] nonce[32]
//! client  proof    HMAC-SHA256(key, "client" hello welcome)[32]              with a key only
//! server  proof    verdict[1] HMAC-SHA256(key, "server" hello welcome)[32]   with a key only
//! client  request  op[1] length[4] body tag[32]                              tag with a key only
//! server  reply    status[1] length[4] body tag[32]
//! ```
//!
//! `op` is 1 FETCH (body: label), 2 SEND (body: blob) or 3 INVALIDATE (body: agent name). `status`
//! is 0 (body: blob, agent name, nothing) or 1 (body: error number\[4\], text). The tag is
//! HMAC-SHA256 over role, code, length and body with a key derived from both nonces, so that a
//! handshake that somebody relayed is worth nothing. Nonces are fresh for each connection, so that
//! nothing can be replayed. The client proves itself first: strangers get nothing to guess the
//! key by. Nothing is encrypted.

mod client;
mod key;
pub mod nixl;
mod server;
mod session;
mod wire;

pub use client::{ClientConfig, fetch, invalidate, send};
pub use key::SharedKey;
pub use server::{Access, MetaHandler, MetaServer, Origin, ServerConfig};
