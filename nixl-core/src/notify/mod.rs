//! Notifications: numbered per (sender generation, target), delivered exactly once and in order,
//! whatever connections carried them.

mod inbox;
mod outbox;
mod wire;

pub(crate) use inbox::Inbox;
pub use inbox::Notification;
pub(crate) use outbox::Outbox;
pub(crate) use wire::{Ack, Message};

/// Longest notification in bytes (design: any bytes, up to 16 MiB).
pub const MAX_NOTIFICATION: usize = 16 << 20;
