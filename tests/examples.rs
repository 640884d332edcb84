//! Every example runs, and the backend among them is a good one.

#[path = "../examples/async_future.rs"]
mod async_future;
#[path = "../examples/custom_backend/main.rs"]
mod custom_backend;
#[path = "../examples/notifications.rs"]
mod notifications;
#[path = "../examples/two_peers.rs"]
mod two_peers;

#[test]
fn a_future_is_awaited() {
    async_future::main().expect("it runs");
}

#[test]
fn a_custom_backend_moves_bytes() {
    custom_backend::main().expect("it runs");
}

#[test]
fn notifications_arrive() {
    notifications::main().expect("it runs");
}

#[test]
fn two_peers_meet() {
    two_peers::main().expect("it runs");
}

nixl_conformance::suite!(
    conformance,
    crate::custom_backend::CopyBackend::default(),
    "copy"
);
