//! A request of the peer, served here.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use nixl_core::{
    ErrorKind, MemKind, RegionKey,
    mem::{Access, Pin, Region},
};
use nixl_tcp_proto::{
    ChunkBook, ChunkEntry, Cursor, ListError, OpenLayout, OpenOp, ProtocolError, RegionRef, Status,
    Xfer,
};
use parking_lot::Mutex;

use crate::{
    conn::Connection,
    gate::AccessGate,
    iov::{Iov, MAX_PIECES, Pieces},
};

/// Buffers above this are not kept for the next request.
const KEEP: usize = 1 << 20;

/// One request of the peer. Made once, then reused for other requests.
pub(crate) struct Inbound {
    pub(crate) xfer: Xfer,
    pub(crate) op: OpenOp,
    layout: Option<OpenLayout>,
    body: Vec<u8>,
    table: Vec<ChunkEntry>,
    regions: Vec<Region>,
    pub(crate) book: ChunkBook,
    next: AtomicU32,
    gate: AccessGate,
    generation: u32,
    ended: Mutex<Ended>,
}

#[derive(Default)]
struct Ended {
    outcome: Option<Status>,
    said: bool,
}

impl Default for Inbound {
    fn default() -> Self {
        Self {
            xfer: Xfer { slot: 0, seq: 0 },
            op: OpenOp::Read,
            layout: None,
            body: Vec::new(),
            table: Vec::new(),
            regions: Vec::new(),
            book: ChunkBook::default(),
            next: AtomicU32::new(0),
            gate: AccessGate::new(),
            generation: 0,
            ended: Mutex::default(),
        }
    }
}

impl Inbound {
    /// Takes a request's body, leaving an old buffer in its place, and checks all of it. `find`
    /// looks up a region. `Err` of the inner result: the request is refused, and over before any
    /// stream can find it.
    pub(crate) fn load(
        &mut self,
        xfer: Xfer,
        body: &mut Vec<u8>,
        find: impl Fn(&RegionRef, OpenOp) -> Result<Region, Status>,
    ) -> Result<(u32, Result<(), Status>), ProtocolError> {
        std::mem::swap(&mut self.body, body);
        let layout = OpenLayout::parse(&self.body)?;
        (self.xfer, self.op, self.layout) = (xfer, layout.op, Some(layout));
        self.next.store(0, Relaxed);
        self.generation = self.gate.open();
        *self.ended.get_mut() = Ended::default();
        self.book.resize(layout.chunks());
        let verdict = self.resolve(&layout, find)?;
        if let Err(status) = verdict {
            self.ended.get_mut().outcome = Some(status);
            self.gate.close();
            self.table.clear();
        }
        Ok((layout.cost(&self.body), verdict))
    }

    fn resolve(
        &mut self,
        layout: &OpenLayout,
        find: impl Fn(&RegionRef, OpenOp) -> Result<Region, Status>,
    ) -> Result<Result<(), Status>, ProtocolError> {
        self.regions.clear();
        for named in layout.regions(&self.body) {
            match find(&named, layout.op) {
                Ok(region) => self.regions.push(region),
                Err(status) => return Ok(Err(status)),
            }
        }
        let regions = &self.regions;
        let len = |i: u32| regions.get(i as usize).map(Region::len);
        match layout.index(&self.body, len, &mut self.table) {
            Ok(()) => Ok(Ok(())),
            Err(ListError::OutOfBounds(_)) => Ok(Err(Status::OutOfBounds)),
            Err(ListError::Protocol(e)) => Err(e),
        }
    }

    /// Lets go of the regions and of large buffers; the rest is kept for the next request.
    fn unload(&mut self) {
        self.regions.clear();
        if self.body.capacity() > KEEP {
            self.body = Vec::new();
        }
        if self.table.capacity() * size_of::<ChunkEntry>() > KEEP {
            self.table = Vec::new();
        }
    }

    pub(crate) fn chunks(&self) -> u32 {
        self.table.len() as u32
    }

    pub(crate) fn chunk(&self, index: u32) -> Option<&ChunkEntry> {
        self.table.get(index as usize)
    }

    /// Bytes of the whole request.
    pub(crate) fn bytes(&self) -> u64 {
        self.layout.map_or(0, |l| l.bytes)
    }

    /// Ended or refused: its memory is no longer touched.
    pub(crate) fn is_over(&self) -> bool {
        !self.gate.is_open(self.generation)
    }

    /// Next chunk to send.
    pub(crate) fn next_chunk(&self) -> Option<u32> {
        if self.is_over() {
            return None;
        }
        let index = self.next.fetch_add(1, Relaxed);
        (index < self.chunks()).then_some(index)
    }

    /// Fills `pieces` with the next `left` bytes from `cursor` on, as many as fit one call.
    pub(crate) fn pieces(&self, cursor: &mut Cursor, left: &mut u32, pieces: &mut Pieces) {
        pieces.clear();
        let Some(layout) = &self.layout else { return };
        let list = layout.list(&self.body);
        while *left > 0 && pieces.len() < MAX_PIECES {
            // The list was walked once from end to end by `index`, so it cannot be malformed.
            let Ok(Some(p)) = cursor.take(list, u64::from(*left)) else {
                return;
            };
            let base = self.regions[p.region as usize].addr();
            pieces.push(Iov::memory(base + p.offset, p.len), p.region);
            *left -= p.len as u32;
        }
    }

    /// Runs `work` on the memory of the pieces of `regions`, pinned; `Err`: the request is over,
    /// or a region was withdrawn and the request has to fail.
    pub(crate) fn inside<T>(
        &self,
        conn: &Connection,
        regions: &[u32],
        pins: &mut PinSet,
        work: impl FnOnce() -> T,
    ) -> Result<T, Status> {
        if !self.gate.enter(self.generation) {
            return Err(self.outcome());
        }
        let pinned = pins.pin(&self.regions, regions);
        let out = pinned.then(work);
        pins.clear();
        if self.gate.leave() {
            self.settle(conn);
        }
        out.ok_or(Status::NotRegistered)
    }

    pub(crate) fn outcome(&self) -> Status {
        self.ended.lock().outcome.unwrap_or(Status::Failed)
    }

    /// Ends the request; the peer is told once nothing here is inside a system call on its memory.
    pub(crate) fn end(&self, conn: &Connection, status: Status) {
        self.ended.lock().outcome.get_or_insert(status);
        self.gate.close();
        self.settle(conn);
    }

    fn settle(&self, conn: &Connection) {
        let mut ended = self.ended.lock();
        let Some(status) = ended.outcome.filter(|_| !ended.said) else {
            return;
        };
        if !self.gate.is_quiet() {
            return;
        }
        ended.said = true;
        drop(ended);
        // The initiator of a READ counts the bytes itself.
        let silent = self.op == OpenOp::Read && status == Status::Ok;
        conn.end_inbound(self.xfer, (!silent).then_some(status));
    }
}

/// The region that a request of the peer names.
pub(crate) fn find(conn: &Connection, named: &RegionRef, op: OpenOp) -> Result<Region, Status> {
    let access = match op {
        OpenOp::Read => Access::Read,
        OpenOp::Write => Access::Write,
    };
    let pin = conn
        .context()
        .resolve(&RegionKey(named.key), named.addr, 1, access)
        .map_err(|e| match e.kind() {
            ErrorKind::NotAllowed => Status::NotAllowed,
            _ => Status::NotRegistered,
        })?;
    if pin.addr() != named.addr {
        return Err(Status::NotRegistered);
    }
    if pin.span().kind != MemKind::Dram {
        return Err(Status::Failed);
    }
    Ok(Region::clone(&pin))
}

/// Pins of the regions that one system call touches.
#[derive(Default)]
pub(crate) struct PinSet {
    by_region: Vec<Option<Pin>>,
    touched: Vec<u32>,
}

impl PinSet {
    fn pin(&mut self, regions: &[Region], touched: &[u32]) -> bool {
        self.by_region.resize_with(regions.len(), || None);
        let mut last = None;
        for &r in touched {
            if last == Some(r) || self.by_region[r as usize].is_some() {
                continue;
            }
            last = Some(r);
            let Some(pin) = regions[r as usize].pin() else {
                return false;
            };
            self.by_region[r as usize] = Some(pin);
            self.touched.push(r);
        }
        true
    }

    fn clear(&mut self) {
        for r in self.touched.drain(..) {
            self.by_region[r as usize] = None;
        }
    }
}

/// Requests that ended, kept so that the next ones need no allocation.
#[derive(Default)]
pub(crate) struct Spares(Vec<Arc<Inbound>>);

impl Spares {
    /// A request to load; the only handle to it.
    pub(crate) fn take(&mut self) -> Arc<Inbound> {
        self.0.pop().unwrap_or_default()
    }

    /// Keeps a request of which this is the last handle.
    pub(crate) fn put(&mut self, mut inbound: Arc<Inbound>) {
        if self.0.len() < 64
            && let Some(inner) = Arc::get_mut(&mut inbound)
        {
            inner.unload();
            self.0.push(inbound);
        }
    }
}
