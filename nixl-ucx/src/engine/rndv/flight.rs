//! Data on its way: what UCX sends or receives, and the memory that it uses meanwhile.

use std::sync::Arc;

use nixl_core::{Op, mem::Pin};
use parking_lot::Mutex;

use super::{
    ask::Rndv,
    wire::{DATA_HEAD, Name, Part},
};
use crate::{
    engine::{Conn, mailbox::Event},
    ucp::{Api, Bytes, Done, Status},
};

/// One message of data. UCX holds it for as long as it touches the memory.
pub(in crate::engine) struct Flight {
    pub(super) conn: Arc<Conn>,
    pub(super) load: Load,
    /// In front of what is sent.
    pub(super) head: [u8; DATA_HEAD],
    pub(super) len: usize,
    /// Memory of the backend's that stands in for scattered blocks.
    pub(super) buffer: Mutex<Option<Vec<u8>>>,
}

/// Whose data it is.
pub(super) enum Load {
    /// Of a request of this side.
    Own(Arc<Rndv>, u32),
    /// Of the peer's.
    Peers(Serve),
}

/// A chunk that the peer asked for. Its regions are pinned.
pub(super) struct Serve {
    pub(super) op: Op,
    pub(super) name: Name,
    pub(super) parts: Vec<Part>,
    pub(super) bytes: u64,
    pub(super) pins: Vec<Pin>,
}

impl Flight {
    pub(super) fn new(
        conn: &Arc<Conn>,
        load: Load,
        head: [u8; DATA_HEAD],
        (len, buffer): (u64, Option<Vec<u8>>),
    ) -> Arc<Self> {
        Arc::new(Self {
            conn: conn.clone(),
            load,
            head,
            len: len as usize,
            buffer: Mutex::new(buffer),
        })
    }
}

impl Load {
    /// Copies the chunk's blocks into `buffer`.
    ///
    /// # Safety
    ///
    /// As [`gather`].
    pub(super) unsafe fn gather(&self, buffer: &mut [u8]) {
        match self {
            // SAFETY: INV-2, the caller says so.
            Self::Own(rndv, chunk) => unsafe { gather(rndv.blocks(*chunk), buffer) },
            // SAFETY: INV-2, as above.
            Self::Peers(serve) => unsafe { gather(serve.blocks(), buffer) },
        }
    }
}

impl Serve {
    /// The memory of a chunk that is one block.
    pub(super) fn whole(&self) -> Option<Bytes> {
        match &self.parts[..] {
            [part] => Some(bytes(part.addr, part.len)),
            _ => None,
        }
    }

    /// Its blocks, in the order in which the data has them.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (u64, u64)> {
        self.parts.iter().map(|part| (part.addr, part.len))
    }
}

pub(super) fn bytes(addr: u64, len: u64) -> Bytes {
    Bytes {
        at: addr as *mut u8,
        len: len as usize,
    }
}

/// Copies blocks into `buffer`, one behind the other.
///
/// # Safety
///
/// INV-2: the blocks lie in regions that are held during the call, and `buffer` has room.
unsafe fn gather(blocks: impl Iterator<Item = (u64, u64)>, buffer: &mut [u8]) {
    let mut at = 0;
    for (addr, len) in blocks {
        let to = &mut buffer[at..at + len as usize];
        // SAFETY: INV-2, the caller says so; `copy`, since peers may write there meanwhile.
        unsafe { std::ptr::copy(addr as *const u8, to.as_mut_ptr(), to.len()) };
        at += to.len();
    }
}

/// The reverse of [`gather`].
///
/// # Safety
///
/// As [`gather`].
pub(super) unsafe fn scatter(data: &[u8], blocks: impl Iterator<Item = (u64, u64)>) {
    let mut at = 0;
    for (addr, len) in blocks {
        let from = &data[at..at + len as usize];
        // SAFETY: INV-2, the caller says so.
        unsafe { std::ptr::copy(from.as_ptr(), addr as *mut u8, from.len()) };
        at += from.len();
    }
}

impl Done for Flight {
    fn api(&self) -> &Api {
        self.conn.engine.settings.context.api()
    }

    fn done(self: Arc<Self>, status: Status) {
        let engine = self.conn.engine.clone();
        engine.mailbox.push(Event::Flown(self, status.ok()));
    }
}
