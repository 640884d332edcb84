//! Two complete peers in memory: several data streams, bytes cut at random, requests cancelled and regions withdrawn
//! at random moments. Whatever happens, bytes land in their place or nowhere, and every request ends exactly once.

mod side;

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use nixl_tcp_proto::*;
use side::{BLOCK, KEY, STREAMS, Side};

struct Lcg(u64);

impl Lcg {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }
}

/// A request at its initiator.
#[derive(Clone)]
struct Mine(Rc<RefCell<MineState>>);

struct MineState {
    op: OpenOp,
    local: Vec<u64>,
    remote: Vec<u64>,
    body: Vec<u8>,
    chunks: Vec<u32>,
    next: u32,
    book: ChunkBook,
    cancelled: bool,
    result: Option<Status>,
}

fn request(rng: &mut Lcg, op: OpenOp, span: std::ops::Range<u64>) -> Mine {
    let slots = (span.end - span.start) / BLOCK;
    let n = 1 + rng.below(slots as usize) as u64;
    let mut pick = || {
        let mut all: Vec<u64> = (0..slots).map(|i| span.start + i * BLOCK).collect();
        for i in (1..all.len()).rev() {
            all.swap(i, rng.below(i + 1));
        }
        all.truncate(n as usize);
        all
    };
    let (local, remote) = (pick(), pick());
    let (mut chunks, mut left) = (Vec::new(), n * BLOCK);
    while left > 0 {
        let len = left.min(1 + rng.below(100) as u64);
        chunks.push(len as u32);
        left -= len;
    }
    let mut body = Vec::new();
    let region = RegionRef { key: KEY, addr: 0 };
    let runs = remote.iter().map(|o| Run::single(0, *o, BLOCK));
    encode_open(
        &mut body,
        op,
        [region].into_iter(),
        chunks.iter().copied(),
        runs,
    )
    .unwrap();
    let mut book = ChunkBook::default();
    book.resize(chunks.len() as u32);
    let (cancelled, result) = (false, None);
    Mine(Rc::new(RefCell::new(MineState {
        op,
        local,
        remote,
        body,
        chunks,
        next: 0,
        book,
        cancelled,
        result,
    })))
}

struct World {
    rng: Lcg,
    sides: [Side; 2],
    requests: Vec<(usize, Mine)>,
    pipes: Vec<VecDeque<u8>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Lcg(seed);
        // Each request has a span of its own, in both memories, so that any order of events gives one right answer.
        let requests = (0..8)
            .map(|i| {
                let op = if rng.below(2) == 0 {
                    OpenOp::Read
                } else {
                    OpenOp::Write
                };
                (rng.below(2), request(&mut rng, op, i * 512..(i + 1) * 512))
            })
            .collect();
        let pipes = (0..2 * STREAMS).map(|_| VecDeque::new()).collect();
        Self {
            rng,
            sides: [Side::new(0x11), Side::new(0x77)],
            requests,
            pipes,
        }
    }

    fn disturb(&mut self, cancel: bool, withdraw: bool) {
        if cancel && self.rng.below(40) == 0 {
            let (side, r) = &self.requests[self.rng.below(8)];
            let side = &mut self.sides[*side];
            if r.0.borrow().result.is_none() && !r.0.borrow().cancelled && side.mine.is_some() {
                side.cancel(r);
            }
        }
        if withdraw && !self.sides[1].withdrawn && self.rng.below(60) == 0 {
            self.sides[1].withdraw();
        }
    }

    /// Moves some bytes somewhere; returns how many.
    fn exchange(&mut self) -> usize {
        let Self {
            rng, sides, pipes, ..
        } = self;
        let from = rng.below(2);
        if rng.below(3) == 0 {
            let n = rng.below(sides[from].out.len() + 1);
            let bytes: Vec<u8> = sides[from].out.drain(..n).collect();
            sides[1 - from].receive_control(&bytes);
            return n;
        }
        if sides.iter().any(|s| s.mine.is_none()) {
            return 0;
        }
        let i = rng.below(STREAMS);
        let pipe = &mut pipes[from * STREAMS + i];
        let mut moved = 0;
        if pipe.len() < 200 {
            let bytes = sides[from].send(i, 1 + rng.below(90));
            moved += bytes.len();
            pipe.extend(bytes);
        }
        let n = rng.below(pipe.len() + 1);
        let bytes: Vec<u8> = pipe.iter().take(n).copied().collect();
        let taken = sides[1 - from].receive(i, &bytes);
        pipe.drain(..taken);
        moved + taken
    }
}

fn run(seed: u64, cancel: bool, withdraw: bool) {
    let mut w = World::new(seed);
    let before = [w.sides[0].mem.clone(), w.sides[1].mem.clone()];
    let mut waiting = w.requests.clone();
    let mut quiet = 0;
    while quiet < 400 {
        let mut moved = 0;
        waiting.retain(|(side, r)| {
            let posted = w.sides[*side].post(&mut w.rng, r);
            moved += usize::from(posted);
            !posted
        });
        w.disturb(cancel, withdraw);
        moved += w.exchange();
        quiet = if moved == 0 { quiet + 1 } else { 0 };
    }
    check(&w, &before, seed, cancel || withdraw);
}

fn check(w: &World, before: &[Vec<u8>; 2], seed: u64, may_fail: bool) {
    let mut want = before.clone();
    for (i, (side, r)) in w.requests.iter().enumerate() {
        let r = r.0.borrow();
        let result = r
            .result
            .unwrap_or_else(|| panic!("seed {seed}: request {i} never ended"));
        let (dst, src, to, from) = match r.op {
            OpenOp::Read => (*side, 1 - *side, &r.local, &r.remote),
            OpenOp::Write => (1 - *side, *side, &r.remote, &r.local),
        };
        for (t, f) in to.iter().zip(from) {
            for k in 0..BLOCK as usize {
                let (t, f) = (*t as usize + k, *f as usize + k);
                // What a request that failed left in its own destination is undefined.
                let kept = w.sides[dst].mem[t];
                want[dst][t] = if result == Status::Ok {
                    before[src][f]
                } else {
                    kept
                };
            }
        }
        assert!(result == Status::Ok || may_fail, "seed {seed}: {result:?}");
    }
    for (side, want) in w.sides.iter().zip(&want) {
        assert!(side.mem == *want, "seed {seed}: bytes out of place");
        assert_eq!(
            side.theirs.iter().count(),
            0,
            "seed {seed}: the target still keeps requests"
        );
    }
}

const SEEDS: u64 = if cfg!(miri) { 2 } else { 600 };

#[test]
fn any_split_gives_the_same_bytes() {
    (0..SEEDS).for_each(|seed| run(seed, false, false));
}

#[test]
fn cancelled_requests_end_once_and_harm_nobody() {
    (0..SEEDS).for_each(|seed| run(seed, true, false));
}

#[test]
fn withdrawn_regions_fail_their_requests() {
    (0..SEEDS).for_each(|seed| run(seed, seed % 2 == 0, true));
}
