//! The contract of [`nixl_core::backend`] as tests: one function for each of its bullets.
//!
//! [`suite!`](crate::suite!) calls these; each gets a fresh [`Rig`], and [`run`] checks at its
//! end that no token was lost or completed twice and that every connection reported its end once.

mod access;
mod bytes;
mod connect;
mod ends;
mod messages;

use std::{sync::Arc, time::Duration};

use nixl_core::{Op, PathName, Progress, backend::Backend};

pub use access::*;
pub use bytes::*;
pub use connect::*;
pub use ends::*;
pub use messages::*;

use crate::rig::{Layout, Link, Memory, Rig, Spread, TestOp};

/// Whether there is a reason not to run; says so.
pub fn skipped(path: PathName, reason: Option<String>) -> bool {
    if let Some(why) = &reason {
        println!("SKIP the suite over {path}: {why}");
    }
    reason.is_some()
}

/// Runs one test of the suite in a rig of its own.
pub fn run(
    test: fn(&Rig),
    make: impl Fn() -> Arc<dyn Backend> + Send + Sync + 'static,
    path: PathName,
    progress: Progress,
) {
    let rig = Rig::new(Box::new(make), path, progress);
    for op in [Op::Read, Op::Write] {
        if !rig.ops().contains(&op) {
            println!(
                "SKIP {} over {path}: the path does not have it",
                op.as_str()
            );
        }
    }
    test(&rig);
    rig.finish();
}

/// Blocks on both sides, the source filled and the destination blank.
struct Move {
    op: Op,
    seed: u64,
    local: Spread,
    remote: Spread,
}

/// What a [`Move`] looks like.
struct Shape<'a> {
    /// Layouts here and at the peer.
    layouts: (Layout, Layout),
    /// Memory of the regions here and at the peer.
    memories: (&'a [Memory], &'a [Memory]),
    /// Number of blocks and bytes in each.
    blocks: (usize, usize),
}

impl Move {
    fn new(link: &Link, op: Op, shape: &Shape<'_>, seed: u64) -> Self {
        let (here, there) = (shape.memories.0, shape.memories.1);
        let local = Spread::new(&link.from, here, shape.layouts.0, shape.blocks, seed);
        let remote = Spread::new(&link.to, there, shape.layouts.1, shape.blocks, seed + 1);
        let this = Self {
            op,
            seed,
            local,
            remote,
        };
        this.source().fill(seed);
        this.target().clear();
        this
    }

    /// One block in agent memory on both sides.
    fn single(link: &Link, op: Op, len: usize, seed: u64) -> Self {
        let shape = Shape {
            layouts: (Layout::Adjacent, Layout::Adjacent),
            memories: (&[Memory::Agent], &[Memory::Agent]),
            blocks: (1, len),
        };
        Self::new(link, op, &shape, seed)
    }

    /// 8 MiB in scattered pages: takes long enough to interfere with.
    fn long(link: &Link, op: Op, seed: u64) -> Self {
        let shape = Shape {
            layouts: (Layout::Random, Layout::Random),
            memories: (&[Memory::Agent], &[Memory::Agent]),
            blocks: (2048, 4096),
        };
        Self::new(link, op, &shape, seed)
    }

    fn prepare(&self, rig: &Rig, link: &Link) -> Arc<TestOp> {
        rig.prepare(&link.near, &self.plan(rig, link))
    }

    fn plan(&self, rig: &Rig, link: &Link) -> Arc<nixl_core::plan::Plan> {
        let (local, remote) = (self.local.list(), self.remote.list());
        rig.plan(self.op, &link.from, &local, &self.remote.cards(), &remote)
    }

    fn source(&self) -> &Spread {
        match self.op {
            Op::Read => &self.remote,
            Op::Write => &self.local,
        }
    }

    fn target(&self) -> &Spread {
        match self.op {
            Op::Read => &self.local,
            Op::Write => &self.remote,
        }
    }

    fn check(&self, what: &str) {
        let op = self.op.as_str();
        self.target()
            .check(self.seed, &format!("{op}, {what}, target"));
        self.source()
            .check(self.seed, &format!("{op}, {what}, source"));
    }
}

/// The connection still does what it is for.
fn still_works(rig: &Rig, link: &Link) {
    for op in rig.ops() {
        let moved = Move::single(link, op, 100_000, 4711);
        rig.run(&moved.prepare(rig, link)).expect("it still works");
        moved.check("afterwards");
    }
    rig.settle(link);
}

/// Watches for late accesses: a window, not a synchronisation.
fn linger(rig: &Rig) {
    rig.wait_for(Duration::from_millis(20), || false);
}
