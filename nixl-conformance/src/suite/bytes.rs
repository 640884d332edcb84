//! Bytes arrive where they belong, again and again, from several threads and peers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use nixl_core::Op;

use super::{Move, Shape, still_works};
use crate::rig::{Layout, Link, Memory, Rig};

/// Three regions here, of both kinds of memory.
const HERE: &[Memory] = &[Memory::Heap, Memory::Agent, Memory::Heap];

type Sizes = &'static [(usize, usize)];

/// Layouts here and at the peer, and (count, bytes) of the blocks.
const SHAPES: [(Layout, Layout, Sizes); 5] = {
    use Layout::{Adjacent, Random, Strided};
    [
        (
            Adjacent,
            Adjacent,
            &[(1, 1), (1, 4097), (2000, 13), (64, 65_537), (1, 8 << 20)],
        ),
        (
            Strided,
            Strided,
            &[(2000, 1), (700, 4096), (3, (1 << 20) + 1)],
        ),
        (
            Random,
            Random,
            &[(2, 1), (2000, 13), (700, 4096), (64, 65_537)],
        ),
        (Adjacent, Random, &[(2000, 129), (300, 4096)]),
        (Random, Strided, &[(2000, 8), (65, 32 << 10)]),
    ]
};

/// Both directions, every layout, blocks of 1 byte to 8 MiB, one block to 2000, one region to
/// three; the bytes between the blocks stay as they were.
pub fn every_byte_in_place(rig: &Rig) {
    let link = rig.pair();
    let there = rig.remote_memories().iter().copied().cycle();
    let there: Vec<Memory> = there.take(HERE.len()).collect();
    for op in rig.ops() {
        let mut seed = 1000 * (op as u64 + 1);
        for (near, far, sizes) in SHAPES {
            for (blocks, regions) in sizes.iter().flat_map(|s| [(*s, 1), (*s, HERE.len())]) {
                seed += 1;
                let shape = Shape {
                    layouts: (near, far),
                    memories: (&HERE[..regions], &there[HERE.len() - regions..]),
                    blocks,
                };
                let moved = Move::new(&link, op, &shape, seed);
                let op = moved.prepare(rig, &link);
                rig.run(&op).expect("the transfer succeeds");
                moved.check(&format!(
                    "{near:?} from {far:?}, {blocks:?}, {regions} regions"
                ));
                assert_eq!(op.transfer().moved(), op.plan().bytes(), "bytes reported");
            }
        }
    }
    let lanes = link.near.endpoint().describe(rig.caps().path);
    assert!(!lanes.is_empty(), "receipts name the lanes");
}

/// At the moment a token is completed the bytes are in place, seen from the completing thread: a
/// WRITE's at the target, a READ's here.
pub fn write_is_visible_at_completion(rig: &Rig) {
    let link = rig.pair();
    for op in rig.ops() {
        for round in 0..20 {
            let seed = 7000 + round;
            let len = if round % 2 == 0 { 64 } else { 300_000 };
            let moved = Arc::new(Move::single(&link, op, len, seed));
            let plan = moved.plan(rig, &link);
            let (late, seen) = (Arc::new(AtomicUsize::new(0)), moved.clone());
            let count = late.clone();
            let hook = move |_: &nixl_core::Result<()>| {
                if !seen.target().holds(seed) {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            };
            let op = rig
                .try_prepare(&link.near, &plan, Some(Box::new(hook)))
                .expect("the plan can be prepared");
            rig.run(&op).expect("the transfer succeeds");
            assert_eq!(
                late.load(Ordering::SeqCst),
                0,
                "completed before the bytes were there"
            );
            moved.check("at completion");
        }
    }
}

/// One prepared transfer, posted a hundred times, moves what is there at each post.
pub fn repost(rig: &Rig) {
    let link = rig.pair();
    let shape = Shape {
        layouts: (Layout::Random, Layout::Strided),
        memories: (&[Memory::Agent], &[Memory::Agent]),
        blocks: (5, 1000),
    };
    for op in rig.ops() {
        let mut moved = Move::new(&link, op, &shape, 1);
        let op = moved.prepare(rig, &link);
        for round in 1..=100 {
            moved.seed = round;
            moved.source().fill(round);
            moved.target().clear();
            rig.run(&op).expect("the transfer succeeds");
            moved.check(&format!("post {round}"));
            assert_eq!(op.transfer().moved(), op.plan().bytes(), "post {round}");
        }
    }
}

const THREADS: usize = 4;
/// Requests of each thread.
const REQUESTS: usize = 8;
/// Blocks of each request.
const BLOCKS: usize = 16;

/// Eight requests at once from each of four threads, three times over.
pub fn concurrent_transfers(rig: &Rig) {
    let link = rig.pair();
    let shape = Shape {
        layouts: (Layout::Random, Layout::Random),
        memories: (&[Memory::Agent], &[Memory::Agent]),
        blocks: (THREADS * REQUESTS * BLOCKS, 2048),
    };
    let ops = rig.ops();
    let start = |op: &Op| Move::new(&link, *op, &shape, 50);
    let moves: Vec<Move> = ops.iter().map(start).collect();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (link, moves) = (&link, &moves);
            scope.spawn(move || poster(rig, link, moves, thread * REQUESTS));
        }
    });
    for (nth, moved) in moves.iter().enumerate() {
        let mine = |block: usize| block / BLOCKS % ops.len() == nth;
        let what = "every request moved its blocks and no other";
        moved.target().check_some(50, &mine, what);
    }
}

/// One thread's work: requests number `first` and on, in turn from each of `moves`.
fn poster(rig: &Rig, link: &Link, moves: &[Move], first: usize) {
    let prepare = |request: usize| {
        let moved = &moves[request % moves.len()];
        let blocks = request * BLOCKS..(request + 1) * BLOCKS;
        let (local, remote) = (moved.local.part(blocks.clone()), moved.remote.part(blocks));
        let cards = moved.remote.cards();
        let plan = rig.plan(moved.op, &link.from, &local, &cards, &remote);
        rig.prepare(&link.near, &plan)
    };
    let requests: Vec<_> = (first..first + REQUESTS).map(prepare).collect();
    for _ in 0..3 {
        for request in &requests {
            request.post().expect("the post is taken");
        }
        for request in &requests {
            rig.end(request).expect("the transfer succeeds");
        }
    }
}

/// Three agents, connected in a circle and at the same time, do not get in each other's way.
pub fn several_peers(rig: &Rig) {
    let nodes = [rig.node("a"), rig.node("b"), rig.node("c")];
    let links = [(0, 1), (2, 1), (1, 0), (0, 2)].map(|(i, j)| rig.connect(&nodes[i], &nodes[j]));
    for op in rig.ops() {
        let started: Vec<_> = links
            .iter()
            .enumerate()
            .map(|(i, link)| {
                let moved = Move::single(link, op, 500_000, 90 + i as u64);
                let op = moved.prepare(rig, link);
                op.post().expect("the post is taken");
                (moved, op)
            })
            .collect();
        for (moved, op) in &started {
            rig.end(op).expect("the transfer succeeds");
            moved.check("one of several peers");
        }
    }
    links[0].near.endpoint().close();
    for link in &links[1..] {
        still_works(rig, link);
    }
}

/// An agent connects to itself and moves bytes between its own regions.
pub fn loopback(rig: &Rig) {
    let node = rig.node("a");
    let link = rig.connect(&node, &node);
    for (i, op) in rig.ops().into_iter().enumerate() {
        let there = rig.remote_memories();
        let shape = Shape {
            layouts: (Layout::Random, Layout::Strided),
            memories: (HERE, there),
            blocks: (300, 3000),
        };
        let moved = Move::new(&link, op, &shape, 60 + i as u64);
        rig.run(&moved.prepare(rig, &link))
            .expect("the transfer succeeds");
        moved.check("loopback");
    }
    rig.settle(&link);
}
