//! The backend over a libucp in Rust, which does what a real one does too rarely: refuses for lack
//! of room, completes late, breaks, refuses keys. Runs anywhere, and under AddressSanitizer.

mod errors;
mod faults;
mod held;
mod memory;
mod ucp;
mod witness;
mod world;

use nixl_ucx::{
    Options, UcxBackend,
    config::{Mode, UcxConfig},
};
use ucx_sys::ucs_status_t;
use world::{Operation, World};

fn fake() -> UcxBackend {
    let config = UcxConfig::default();
    UcxBackend::over(ucp::library(), &config, Options::default()).expect("it is set up")
}

fn two_sided() -> UcxBackend {
    let mut config = UcxConfig::default();
    config.mode = Mode::Rendezvous;
    UcxBackend::over(ucp::library(), &config, Options::default()).expect("it is set up")
}

nixl_conformance::suite!(whole, fake(), "ucx");
nixl_conformance::suite!(rendezvous, two_sided(), "ucx_rndv");

/// Bytes of core's probes, at most.
const PROBE: usize = 64;

/// Moves the bytes of an operation, if both sides are still registered.
fn carry_out(world: &World, op: &Operation) -> ucs_status_t {
    if op.len == 0 {
        return ucs_status_t::UCS_OK;
    }
    match world.faults.status {
        Some(status) if op.len > PROBE => return status,
        _ => {}
    }
    let inside = |memory: usize, at: usize| {
        let found = world.memory.get(&memory);
        found.is_some_and(|(addr, len)| at >= *addr && at + op.len <= addr + len)
    };
    assert!(
        inside(op.memory, op.local),
        "local memory was deregistered under an operation"
    );
    let target = world.keys.get(&op.key);
    let target = target.expect("a key was destroyed under an operation");
    if !inside(*target, op.remote) {
        return ucs_status_t::UCS_ERR_IO_ERROR;
    }
    let (from, to) = if op.get {
        (op.remote, op.local)
    } else {
        (op.local, op.remote)
    };
    let from = std::ptr::with_exposed_provenance::<u8>(from);
    let to = std::ptr::with_exposed_provenance_mut::<u8>(to);
    // SAFETY: INV-2, both ranges lie in registered memory.
    unsafe { std::ptr::copy(from, to, op.len) };
    ucs_status_t::UCS_OK
}
