//! After warm-up, a post and its completion allocate nothing, on any thread.

mod setup;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use nixl_conformance::{
    Progress,
    rig::{Memory, Rig},
};
use nixl_core::{DescList, Op};
use nixl_ipc::{CMA, IpcBackend, LOCAL, SHM};

struct Counting;

static ON: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);

// SAFETY: INV-5, every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if ON.load(SeqCst) {
            COUNT.fetch_add(1, SeqCst);
        }
        // SAFETY: INV-5, as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: INV-5, as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn post_and_complete(path: &'static str, count: u64, block: u64) {
    let config = setup::config("ipc", path == LOCAL);
    let make = move || Arc::new(IpcBackend::new(config.clone())) as Arc<_>;
    let rig = Rig::new(Box::new(make), path, Progress::Threads { copy_threads: 2 });
    let link = rig.pair();
    let len = 2 * count * block;
    let (ours, theirs) = (
        link.from.region(Memory::Agent, len as usize),
        link.to.region(Memory::Agent, len as usize),
    );
    let list = |base: u64| DescList::dram((0..count).map(move |i| (base + 2 * i * block, block)));
    let (local, remote) = (list(ours.addr()), list(theirs.addr()));
    for op in [Op::Read, Op::Write] {
        let plan = rig.plan(op, &link.from, &local, &[theirs.card()], &remote);
        let op = rig.prepare(&link.near, &plan);
        for _ in 0..20 {
            rig.run(&op).unwrap();
        }
        COUNT.store(0, SeqCst);
        ON.store(true, SeqCst);
        for _ in 0..50 {
            op.post().unwrap();
            while op.result().is_none() {
                std::thread::yield_now();
            }
        }
        ON.store(false, SeqCst);
        assert_eq!(COUNT.load(SeqCst), 0, "{path}, {count} blocks of {block}");
        op.result().unwrap().unwrap();
    }
    rig.finish();
}

/// One test, so that no other runs while it counts.
#[test]
fn posting_allocates_nothing() {
    // The counter counts.
    ON.store(true, SeqCst);
    drop(std::hint::black_box(Box::new(7)));
    ON.store(false, SeqCst);
    assert!(COUNT.load(SeqCst) > 0);
    for path in [LOCAL, SHM, CMA] {
        post_and_complete(path, 1, 8);
        post_and_complete(path, 4096, 4096);
    }
}
