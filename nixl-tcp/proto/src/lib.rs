//! Sans-io wire protocol of the TCP backend: parsing, framing and bookkeeping, no sockets, clocks or threads.
//!
//! A connection is one control stream and several data streams. Payload never enters this crate: [`DataRx`] says
//! where the next received bytes go and [`DataTx`] what to send next; the driver moves the bytes straight from and
//! into registered memory. Everything a peer sends is checked here before it is believed; what is malformed is a
//! [`ProtocolError`], after which the connection must be closed. `docs/wire-protocol.md` gives every byte.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod chunks;
mod control;
mod error;
mod frame;
mod handshake;
mod list;
mod open;
mod rx;
mod slots;
mod tx;
mod varint;

pub use chunks::ChunkBook;
pub use control::{
    ControlRx, ControlStep, put_ack, put_cancel, put_message, put_ping, put_settings,
};
pub use error::ProtocolError;
pub use frame::{Chunk, ChunkKind, HEADER_LEN, Settings, Status, Xfer};
pub use handshake::{Greeting, GreetingKind, GreetingRx, put_greeting};
pub use list::{Cursor, ListError, Piece, Run, encode_list};
pub use open::{ChunkEntry, OpenLayout, OpenOp, RegionRef, encode_open};
pub use rx::{DataRx, DataStep};
pub use slots::{CancelAction, InitiatorSlots, Lookup, Opened, TargetSlots};
pub use tx::{DataTx, TxPart};

/// Version of everything in this crate; both sides must speak the same.
pub const WIRE_VERSION: u8 = 1;
/// Largest message of the control stream, in bytes: 16 MiB of notification and what core puts before it.
pub const MAX_MESSAGE: u32 = (16 << 20) + (64 << 10);
/// Largest body of a handshake frame, in bytes.
pub const MAX_GREETING: u16 = 1024;
/// Most requests that one side may have open at the other.
pub const MAX_SLOTS: u16 = 4096;
/// Largest payload of one chunk, in bytes.
pub const MAX_CHUNK: u32 = 4 << 20;
/// Most chunks in one request.
pub const MAX_CHUNKS: u32 = 1 << 20;
/// Most regions that one request may name.
pub const MAX_REGIONS: u32 = 1 << 16;
/// Largest body of an open frame that any receiver accepts, in bytes.
pub const MAX_OPEN: u32 = 64 << 20;
/// Bytes that each chunk of a request counts against the receiver's list credit, beside the body itself.
pub const CHUNK_COST: u32 = 80;
