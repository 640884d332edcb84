//! Two real processes, and peers that break the protocol: bytes, death, stopping, limits,
//! namespaces, garbage.

mod child;
mod garbage;
mod processes;
mod second;
#[path = "../setup/mod.rs"]
mod setup;

/// The other process; not a test.
#[test]
#[ignore = "the second process of the other tests"]
fn second_process() {
    child::serve();
}
