//! One peer of the simulation: a driver in miniature.

use nixl_tcp_proto::*;

use crate::{Lcg, Mine};
use std::{cell::RefCell, collections::VecDeque, rc::Rc};

pub(crate) const STREAMS: usize = 3;
pub(crate) const MEM: usize = 4096;
pub(crate) const BLOCK: u64 = 16;

/// A request at its target.
#[derive(Clone)]
pub(crate) struct Theirs(Rc<RefCell<TheirsState>>);

pub(crate) struct TheirsState {
    layout: OpenLayout,
    body: Vec<u8>,
    table: Vec<ChunkEntry>,
    next: u32,
    book: ChunkBook,
    stopped: bool,
    aborted: bool,
}

enum Source {
    None,
    Mine(Mine, Option<u32>),
    Theirs(Theirs, Xfer, u32),
}

struct Stream {
    rx: DataRx,
    tx: DataTx,
    source: Source,
    /// Bytes of the chunk being received that are in place.
    placed: u64,
    chunk: Option<Chunk>,
    opens: VecDeque<(Xfer, Mine)>,
}

pub(crate) struct Side {
    pub(crate) mem: Vec<u8>,
    pub(crate) withdrawn: bool,
    streams: Vec<Stream>,
    control: ControlRx,
    pub(crate) out: Vec<u8>,
    pub(crate) mine: Option<InitiatorSlots<Mine>>,
    pub(crate) theirs: TargetSlots<Theirs>,
    writing: Vec<(Xfer, Mine)>,
    reading: Vec<(Xfer, Theirs)>,
}

const SETTINGS: Settings = Settings {
    slots: 4,
    list_bytes: 1 << 16,
    streams: STREAMS as u16,
};
pub(crate) const KEY: [u8; 16] = [7; 16];

impl Side {
    pub(crate) fn new(fill: u8) -> Self {
        let mut out = Vec::new();
        put_settings(&mut out, SETTINGS);
        let stream = || Stream {
            rx: DataRx::new(SETTINGS.list_bytes),
            tx: DataTx::new(),
            source: Source::None,
            placed: 0,
            chunk: None,
            opens: VecDeque::new(),
        };
        Self {
            mem: (0..MEM)
                .map(|i| (i as u8).wrapping_mul(31) ^ fill)
                .collect(),
            withdrawn: false,
            streams: (0..STREAMS).map(|_| stream()).collect(),
            control: ControlRx::new(),
            out,
            mine: None,
            theirs: TargetSlots::new(SETTINGS),
            writing: Vec::new(),
            reading: Vec::new(),
        }
    }

    pub(crate) fn post(&mut self, rng: &mut Lcg, request: &Mine) -> bool {
        let stream = rng.below(STREAMS);
        let cost = request.0.borrow().body.len() as u32
            + request.0.borrow().chunks.len() as u32 * CHUNK_COST;
        let Some(slots) = self.mine.as_mut() else {
            return false;
        };
        let Ok(xfer) = slots.acquire(cost, request.clone()) else {
            return false;
        };
        self.streams[stream]
            .opens
            .push_back((xfer, request.clone()));
        if request.0.borrow().op == OpenOp::Write {
            self.writing.push((xfer, request.clone()));
        }
        true
    }

    pub(crate) fn cancel(&mut self, request: &Mine) {
        let slots = self.mine.as_ref().unwrap();
        if let Some((xfer, _)) = slots.iter().find(|(_, m)| Rc::ptr_eq(&m.0, &request.0)) {
            request.0.borrow_mut().cancelled = true;
            put_cancel(&mut self.out, xfer);
            for s in &mut self.streams {
                if matches!(&s.source, Source::Mine(m, Some(_)) if Rc::ptr_eq(&m.0, &request.0)) {
                    s.tx.abort(Status::Cancelled);
                }
            }
        }
    }

    pub(crate) fn withdraw(&mut self) {
        self.withdrawn = true;
        for s in &mut self.streams {
            if let Source::Theirs(t, ..) = &s.source
                && s.tx.abort(Status::NotRegistered)
            {
                t.0.borrow_mut().aborted = true;
            }
        }
    }

    fn offset(list: &[u64], at: u64) -> usize {
        (list[(at / BLOCK) as usize] + at % BLOCK) as usize
    }

    /// At most `max` bytes of stream `i` for the peer.
    pub(crate) fn send(&mut self, i: usize, max: usize) -> Vec<u8> {
        if self.streams[i].tx.is_idle() {
            self.next_message(i);
        }
        let s = &mut self.streams[i];
        let mut out = Vec::new();
        for part in s.tx.parts() {
            match part {
                TxPart::Bytes { start, end } => out.extend(s.tx.bytes(start, end)),
                TxPart::Body { offset } => match &s.source {
                    Source::Mine(m, _) => out.extend(&m.0.borrow().body[offset as usize..]),
                    _ => unreachable!("only an initiator sends a body"),
                },
                TxPart::Filler { left } => out.extend(std::iter::repeat_n(0, left as usize)),
                TxPart::Payload { offset } => match &s.source {
                    Source::Mine(m, Some(chunk)) => {
                        let m = m.0.borrow();
                        let base: u64 = m.chunks[..*chunk as usize]
                            .iter()
                            .map(|c| u64::from(*c))
                            .sum();
                        let len = m.chunks[*chunk as usize];
                        out.extend(
                            (offset..len)
                                .map(|k| self.mem[Self::offset(&m.local, base + u64::from(k))]),
                        );
                    }
                    Source::Theirs(t, _, chunk) => {
                        let t = t.0.borrow();
                        let entry = t.table[*chunk as usize];
                        let (mut cursor, mut at) = (entry.start, 0);
                        while at < entry.len {
                            let p = cursor
                                .take(t.layout.list(&t.body), u64::from(entry.len - at))
                                .unwrap()
                                .unwrap();
                            for k in 0..p.len {
                                if at >= offset {
                                    out.push(self.mem[(p.offset + k) as usize]);
                                }
                                at += 1;
                            }
                        }
                    }
                    _ => unreachable!("payload without a chunk"),
                },
            }
        }
        out.truncate(max);
        s.tx.advance(out.len());
        if s.tx.is_idle() {
            self.sent(i);
        }
        out
    }

    fn sent(&mut self, i: usize) {
        if let Source::Theirs(t, xfer, _) =
            std::mem::replace(&mut self.streams[i].source, Source::None)
        {
            let busy =
                |s: &Stream| matches!(&s.source, Source::Theirs(o, ..) if Rc::ptr_eq(&o.0, &t.0));
            let over = t.0.borrow().next as usize == t.0.borrow().table.len();
            if over && !t.0.borrow().stopped && !self.streams.iter().any(busy) {
                let aborted = t.0.borrow().aborted;
                if self.theirs.finish(xfer, aborted).is_some() && aborted {
                    put_ack(&mut self.out, xfer, Status::NotRegistered);
                }
            }
        }
    }

    fn next_message(&mut self, i: usize) {
        let withdrawn = self.withdrawn;
        if let Some((xfer, m)) = self.streams[i].opens.pop_front() {
            self.streams[i]
                .tx
                .open(xfer, m.0.borrow().body.len() as u32);
            self.streams[i].source = Source::Mine(m, None);
            return;
        }
        self.writing.retain(|(_, m)| {
            let m = m.0.borrow();
            !m.cancelled && m.result.is_none() && (m.next as usize) < m.chunks.len()
        });
        self.reading.retain(|(_, t)| {
            let t = t.0.borrow();
            !t.stopped && (t.next as usize) < t.table.len()
        });
        if let Some((xfer, m)) = self.writing.first() {
            let index = m.0.borrow().next;
            m.0.borrow_mut().next += 1;
            let len = m.0.borrow().chunks[index as usize];
            self.streams[i].tx.chunk(Chunk {
                kind: ChunkKind::Write,
                xfer: *xfer,
                index,
                len,
            });
            self.streams[i].source = Source::Mine(m.clone(), Some(index));
        } else if let Some((xfer, t)) = self.reading.first() {
            if withdrawn {
                let (xfer, t) = (*xfer, t.clone());
                t.0.borrow_mut().stopped = true;
                if self.theirs.finish(xfer, true).is_some() {
                    put_ack(&mut self.out, xfer, Status::NotRegistered);
                }
                return;
            }
            let index = t.0.borrow().next;
            t.0.borrow_mut().next += 1;
            let len = t.0.borrow().table[index as usize].len;
            self.streams[i].tx.chunk(Chunk {
                kind: ChunkKind::Read,
                xfer: *xfer,
                index,
                len,
            });
            self.streams[i].source = Source::Theirs(t.clone(), *xfer, index);
        }
    }

    /// Takes bytes of stream `i`; returns how many, fewer where a chunk waits for its request.
    pub(crate) fn receive(&mut self, i: usize, mut bytes: &[u8]) -> usize {
        let all = bytes.len();
        loop {
            let withdrawn = self.withdrawn;
            let s = &mut self.streams[i];
            let n = match s.rx.step().unwrap() {
                DataStep::Fill(buf) => {
                    let n = buf.len().min(bytes.len());
                    buf[..n].copy_from_slice(&bytes[..n]);
                    n
                }
                DataStep::Skip(left) => bytes.len().min(left as usize),
                DataStep::Copy(ready) => {
                    let ready = ready.to_vec();
                    self.place(i, &ready);
                    self.streams[i].rx.received(ready.len()).unwrap();
                    continue;
                }
                DataStep::Payload { left, tail } => {
                    let n = bytes.len().min(left as usize);
                    let extra = if n == left as usize {
                        tail.len().min(bytes.len() - n)
                    } else {
                        0
                    };
                    tail[..extra].copy_from_slice(&bytes[n..n + extra]);
                    let payload = bytes[..n].to_vec();
                    self.place(i, &payload);
                    n + extra
                }
                DataStep::Open { xfer } => {
                    let body = std::mem::take(s.rx.body());
                    self.opened(xfer, body);
                    continue;
                }
                DataStep::Chunk(chunk) => {
                    s.placed = 0;
                    if !self.decide(i, chunk) {
                        return all - bytes.len();
                    }
                    continue;
                }
                DataStep::Done {
                    chunk,
                    accepted,
                    status,
                } => {
                    let accepted = accepted && !(withdrawn && chunk.kind == ChunkKind::Write);
                    self.chunk_done(chunk, accepted, status);
                    continue;
                }
            };
            if n == 0 {
                return all - bytes.len();
            }
            self.streams[i].rx.received(n).unwrap();
            bytes = &bytes[n..];
        }
    }

    /// Puts payload in its place, unless its request is over.
    fn place(&mut self, i: usize, payload: &[u8]) {
        let s = &mut self.streams[i];
        let at = s.placed;
        s.placed += payload.len() as u64;
        let chunk = s.chunk.expect("payload belongs to a chunk");
        let places: Vec<usize> = match chunk.kind {
            ChunkKind::Read => match self.mine.as_ref().unwrap().find(chunk.xfer).unwrap() {
                Lookup::Active(m) if !m.0.borrow().cancelled => {
                    let m = m.0.borrow();
                    let base: u64 = m.chunks[..chunk.index as usize]
                        .iter()
                        .map(|c| u64::from(*c))
                        .sum();
                    (0..payload.len() as u64)
                        .map(|k| Self::offset(&m.local, base + at + k))
                        .collect()
                }
                _ => return s.rx.discard(),
            },
            ChunkKind::Write => match self.theirs.find(chunk.xfer).unwrap() {
                Lookup::Active(t) if !self.withdrawn => {
                    let t = t.0.borrow();
                    let (mut cursor, mut out, mut left) =
                        (t.table[chunk.index as usize].start, Vec::new(), chunk.len);
                    while left > 0 {
                        let p = cursor
                            .take(t.layout.list(&t.body), u64::from(left))
                            .unwrap()
                            .unwrap();
                        out.extend((0..p.len).map(|k| (p.offset + k) as usize));
                        left -= p.len as u32;
                    }
                    out[at as usize..at as usize + payload.len()].to_vec()
                }
                _ => return s.rx.discard(),
            },
        };
        for (place, byte) in places.into_iter().zip(payload) {
            self.mem[place] = *byte;
        }
    }

    fn opened(&mut self, xfer: Xfer, body: Vec<u8>) {
        let layout = OpenLayout::parse(&body).unwrap();
        let mut table = Vec::new();
        assert!(layout.regions(&body).all(|r| r.key == KEY));
        layout
            .index(&body, |_| Some(MEM as u64), &mut table)
            .unwrap();
        let mut book = ChunkBook::default();
        book.resize(layout.chunks());
        let cost = layout.cost(&body);
        let t = Theirs(Rc::new(RefCell::new(TheirsState {
            layout,
            body,
            table,
            next: 0,
            book,
            stopped: false,
            aborted: false,
        })));
        match self.theirs.open(xfer, cost, t.clone()).unwrap() {
            Opened::Cancelled => put_ack(&mut self.out, xfer, Status::Cancelled),
            Opened::Active(_) if self.withdrawn => {
                self.theirs.finish(xfer, true);
                put_ack(&mut self.out, xfer, Status::NotRegistered);
            }
            Opened::Active(_) if layout.op == OpenOp::Read => self.reading.push((xfer, t)),
            Opened::Active(_) => {}
        }
    }

    /// False: wait for the request.
    fn decide(&mut self, i: usize, chunk: Chunk) -> bool {
        let active = match chunk.kind {
            ChunkKind::Read => match self.mine.as_ref().unwrap().find(chunk.xfer).unwrap() {
                Lookup::Active(m) => {
                    m.0.borrow()
                        .book
                        .begin(chunk.index)
                        .map(|()| !m.0.borrow().cancelled)
                        .unwrap()
                }
                Lookup::Over => false,
                Lookup::NotYet => unreachable!("an initiator knows its requests"),
            },
            ChunkKind::Write => match self.theirs.find(chunk.xfer).unwrap() {
                Lookup::Active(t) => t.0.borrow().book.begin(chunk.index).map(|()| true).unwrap(),
                Lookup::Over => false,
                Lookup::NotYet => return false,
            },
        };
        self.streams[i].chunk = Some(chunk);
        if active {
            self.streams[i].rx.accept()
        } else {
            self.streams[i].rx.discard()
        }
        true
    }

    fn chunk_done(&mut self, chunk: Chunk, accepted: bool, status: Status) {
        match chunk.kind {
            ChunkKind::Read => {
                let slots = self.mine.as_mut().unwrap();
                let Lookup::Active(m) = slots.find(chunk.xfer).unwrap() else {
                    return;
                };
                let mut m = m.0.borrow_mut();
                if status == Status::Ok && accepted && m.book.done() && !m.cancelled {
                    assert!(m.result.replace(Status::Ok).is_none());
                    drop(m);
                    slots.release(chunk.xfer);
                }
            }
            ChunkKind::Write => {
                let Lookup::Active(t) = self.theirs.find(chunk.xfer).unwrap() else {
                    return;
                };
                let over = if accepted && status == Status::Ok {
                    t.0.borrow().book.done().then_some(Status::Ok)
                } else {
                    Some(if status == Status::Ok {
                        Status::NotRegistered
                    } else {
                        status
                    })
                };
                if let Some(status) = over {
                    self.theirs.finish(chunk.xfer, true);
                    put_ack(&mut self.out, chunk.xfer, status);
                }
            }
        }
    }

    pub(crate) fn receive_control(&mut self, mut bytes: &[u8]) {
        loop {
            match self.control.step().unwrap() {
                ControlStep::Fill(buf) => {
                    let n = buf.len().min(bytes.len());
                    if n == 0 {
                        return;
                    }
                    buf[..n].copy_from_slice(&bytes[..n]);
                    bytes = &bytes[n..];
                    self.control.received(n).unwrap();
                }
                ControlStep::Settings(s) => self.mine = Some(InitiatorSlots::new(s)),
                ControlStep::Ack { xfer, status } => {
                    if let Some(m) = self.mine.as_mut().unwrap().release(xfer) {
                        let mut m = m.0.borrow_mut();
                        assert!(m.result.is_none(), "a request ended twice");
                        m.result = Some(status);
                    }
                }
                ControlStep::Cancel(xfer) => match self.theirs.cancel(xfer).unwrap() {
                    CancelAction::Stop(t) => {
                        t.0.borrow_mut().stopped = true;
                        let t = t.clone();
                        for s in &mut self.streams {
                            if matches!(&s.source, Source::Theirs(o, ..) if Rc::ptr_eq(&o.0, &t.0))
                            {
                                s.tx.abort(Status::Cancelled);
                            }
                        }
                        self.theirs.finish(xfer, true);
                        put_ack(&mut self.out, xfer, Status::Cancelled);
                    }
                    CancelAction::Ack => put_ack(&mut self.out, xfer, Status::Cancelled),
                    CancelAction::Nothing => {}
                },
                other => panic!("{other:?}"),
            }
        }
    }
}
