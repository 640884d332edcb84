//! Two real processes, and peers that break the protocol: bytes, death, stopping, limits,
//! namespaces, garbage.

mod child;
mod garbage;
mod processes;
mod second;
#[path = "../setup/mod.rs"]
mod setup;

/// Where this process is the other one of a test; nothing elsewhere.
#[test]
fn second_process() {
    child::serve();
}
