//! A global allocator that counts, and tells who allocated.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    backtrace::Backtrace,
    cell::Cell,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

/// The system's allocator, counted.
pub struct Heap;

/// Bytes allocated now, and the most that were since [`watch_peak`].
static LIVE: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);
/// Calls that took memory.
static CALLS: AtomicU64 = AtomicU64::new(0);
/// Whether the next call is to be caught.
static TRAP: AtomicBool = AtomicBool::new(false);
static CAUGHT: Mutex<Option<(usize, Backtrace)>> = Mutex::new(None);

thread_local! {
    /// Taking a backtrace allocates.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

fn took(bytes: usize) {
    if CATCHING.get() {
        return;
    }
    CALLS.fetch_add(1, Relaxed);
    let live = LIVE.fetch_add(bytes as i64, Relaxed) + bytes as i64;
    PEAK.fetch_max(live, Relaxed);
    if TRAP.swap(false, Relaxed) {
        CATCHING.set(true);
        *CAUGHT.lock().unwrap() = Some((bytes, Backtrace::force_capture()));
        CATCHING.set(false);
    }
}

fn gave_back(bytes: usize) {
    if !CATCHING.get() {
        LIVE.fetch_sub(bytes as i64, Relaxed);
    }
}

// SAFETY: INV-5, every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: INV-5, the caller's layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: INV-5, the caller's layout.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        took(size);
        gave_back(layout.size());
        // SAFETY: INV-5, the caller's block and layout.
        unsafe { System.realloc(ptr, layout, size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        gave_back(layout.size());
        // SAFETY: INV-5, the caller's block and layout.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// Calls that took memory so far, on any thread.
pub fn calls() -> u64 {
    CALLS.load(Relaxed)
}

/// Bytes allocated now.
pub fn live() -> i64 {
    LIVE.load(Relaxed)
}

/// Starts to look for the most bytes allocated at once; returns what is allocated now.
pub fn watch_peak() -> i64 {
    let live = live();
    PEAK.store(live, Relaxed);
    live
}

/// The most bytes allocated at once since [`watch_peak`].
pub fn peak() -> i64 {
    PEAK.load(Relaxed)
}

/// Runs `work`; if any thread of this process allocates meanwhile, says how often, and where the
/// first time.
pub fn allocations_in(work: impl FnOnce()) -> Option<String> {
    *CAUGHT.lock().unwrap() = None;
    let before = calls();
    TRAP.store(true, Relaxed);
    work();
    TRAP.store(false, Relaxed);
    let count = calls() - before;
    let (bytes, trace) = CAUGHT.lock().unwrap().take()?;
    Some(format!(
        "{count} allocations, the first of {bytes} bytes:\n{trace}"
    ))
}
