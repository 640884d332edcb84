//! Copies inside one address space.

use nixl_core::{
    Op,
    plan::{Piece, Plan},
};

/// How many pieces ahead memory is fetched, and how much of each. Blocks lie at random places, so
/// without it every block begins with cache and TLB misses on both sides.
const AHEAD: usize = 2;
const FETCH: usize = 4;
const LINE: usize = 64;

/// Moves the pieces of chunk `index`, whose peer's side lies at `here(piece)` in this process.
/// Returns the bytes moved.
///
/// # Safety
///
/// INV-2: `here` gives addresses of memory that holds the whole piece, is valid for the plan's
/// direction, and stays so during the call. The plan's local memory is held by its token.
pub(crate) unsafe fn copy_chunk(plan: &Plan, index: usize, here: impl Fn(&Piece) -> u64) -> u64 {
    let ends = |piece: &Piece| match plan.op() {
        Op::Read => (here(piece), piece.local),
        Op::Write => (piece.local, here(piece)),
    };
    let mut pieces = plan.chunk(index);
    let mut load = || {
        pieces.next().map(|piece| {
            let (from, to) = ends(&piece);
            fetch(from, to);
            (from, to, piece.len)
        })
    };
    let mut ahead: [_; AHEAD] = std::array::from_fn(|_| load());
    let (mut at, mut bytes) = (0, 0);
    while let Some((from, to, len)) = std::mem::replace(&mut ahead[at], load()) {
        let from = std::ptr::with_exposed_provenance::<u8>(from as usize);
        let to = std::ptr::with_exposed_provenance_mut::<u8>(to as usize);
        // SAFETY: INV-2, `Plan::build` checked the local side, the caller vouches for the other.
        // The two may overlap: an agent may copy inside its own memory.
        unsafe { std::ptr::copy(from, to, len as usize) };
        at = (at + 1) % AHEAD;
        bytes += len;
    }
    bytes
}

/// Begins to load the first cache lines at both ends. A hint: it reads and writes nothing.
#[cfg(target_arch = "x86_64")]
fn fetch(from: u64, to: u64) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in 0..FETCH {
        for end in [from, to] {
            let at = std::ptr::with_exposed_provenance::<i8>(end as usize);
            // SAFETY: INV-2 is not needed: a prefetch of any address has no effect but on caches.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line * LINE)) };
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn fetch(_: u64, _: u64) {}
