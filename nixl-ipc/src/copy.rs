//! Copies inside one address space.

use nixl_core::{
    Op,
    plan::{Piece, Plan},
};

/// Moves the pieces of chunk `index`, whose peer's side lies at `here(piece)` in this process.
/// Returns the bytes moved.
///
/// # Safety
///
/// INV-2: `here` gives addresses of memory that holds the whole piece, is valid for the plan's
/// direction, and stays so during the call. The plan's local memory is held by its token.
pub(crate) unsafe fn copy_chunk(plan: &Plan, index: usize, here: impl Fn(&Piece) -> u64) -> u64 {
    let mut bytes = 0;
    for piece in plan.chunk(index) {
        let (from, to) = match plan.op() {
            Op::Read => (here(&piece), piece.local),
            Op::Write => (piece.local, here(&piece)),
        };
        let from = std::ptr::with_exposed_provenance::<u8>(from as usize);
        let to = std::ptr::with_exposed_provenance_mut::<u8>(to as usize);
        // SAFETY: INV-2, `Plan::build` checked the local side, the caller vouches for the other.
        // The two may overlap: an agent may copy inside its own memory.
        unsafe { std::ptr::copy(from, to, piece.len as usize) };
        bytes += piece.len;
    }
    bytes
}
