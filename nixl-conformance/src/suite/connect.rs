//! Who may connect, and what becomes of attempts that cannot succeed.

use nixl_core::{AgentCard, ErrorKind, Generation, Secret};

use super::still_works;
use crate::rig::{Link, Node, Rig};

/// The error of a connect that must not succeed.
fn refused(rig: &Rig, from: &Node, card: AgentCard, what: &str) -> nixl_core::Error {
    match rig.try_connect(from, card) {
        Err(e) => e,
        Ok(_) => panic!("{what}: they connected"),
    }
}

/// A peer that does not hold the secret of our card is not that peer.
pub fn connect_wrong_secret(rig: &Rig) {
    let (a, b) = (rig.node("a"), rig.node("b"));
    let card = AgentCard {
        secret: Secret([7; 32]),
        ..b.card()
    };
    let e = refused(rig, &a, card, "a wrong secret");
    assert_eq!(e.kind(), ErrorKind::Unauthenticated, "{e}");
    assert!(
        b.accepted().is_empty(),
        "the server reported a peer that proved nothing"
    );
    still_works(rig, &rig.connect(&a, &b));
}

/// Nobody speaks under a loaded peer's name without proving that peer's secret.
pub fn connect_as_somebody_else(rig: &Rig) {
    let (a, b) = (rig.node("a"), rig.node("b"));
    let mut real = a.identity.clone();
    real.secret = Secret([9; 32]);
    b.load(&real);
    if let Ok(side) = rig.try_connect(&a, b.card()) {
        rig.wait("the impostor to be cut off", || side.closed().is_some());
    }
    assert!(
        b.accepted().is_empty(),
        "the server took an impostor for the peer it knows"
    );
    real.secret = a.identity.secret.clone();
    real.generation = Generation(real.generation.0 ^ 1);
    b.load(&real);
    if let Ok(side) = rig.try_connect(&a, b.card()) {
        rig.wait("the old incarnation to be cut off", || {
            side.closed().is_some()
        });
    }
    assert!(
        b.accepted().is_empty(),
        "the server took one incarnation for another"
    );
    still_works(rig, &rig.connect(&a, &b));
}

/// An agent that the peer has not loaded connects, and is reported as unverified.
pub fn connect_as_a_stranger(rig: &Rig) {
    let (a, b) = (rig.node("a"), rig.node("b"));
    let near = rig
        .try_connect(&a, b.card())
        .expect("strangers may connect");
    rig.wait("the stranger to be reported", || !b.accepted().is_empty());
    let far = b.accepted().swap_remove(0);
    let peer = far.peer.clone().expect("an accepted side has a peer");
    assert!(!peer.verified, "a stranger cannot be verified");
    assert_eq!(
        (&peer.name, peer.generation),
        (&a.identity.name, a.identity.generation)
    );
    let (from, to) = (a, b);
    still_works(
        rig,
        &Link {
            from,
            to,
            near,
            far,
        },
    );
}

/// Nobody listens there any more: an error, in bounded time.
pub fn connect_dead_address(rig: &Rig) {
    let (a, b, c) = (rig.node("a"), rig.node("b"), rig.node("c"));
    let card = c.card();
    c.backend.shutdown();
    let e = refused(rig, &a, card, "a dead address");
    let kinds = [ErrorKind::PeerGone, ErrorKind::Timeout];
    assert!(kinds.contains(&e.kind()), "{e}");
    still_works(rig, &rig.connect(&a, &b));
}

/// Address bytes that mean nothing are an error, and so is a card without this backend.
pub fn connect_garbage_address(rig: &Rig) {
    let (a, b) = (rig.node("a"), rig.node("b"));
    let addresses: [&[u8]; 5] = [b"", b"\xff\xff\xff", &[0; 64], &[b'a'; 5000], b"../../x\0y"];
    for address in addresses {
        let mut card = b.card();
        card.backends[0].address = address.to_vec().into();
        let e = refused(rig, &a, card, "a garbage address");
        assert_ne!(e.kind(), ErrorKind::Abandoned, "{e}");
    }
    let mut card = b.card();
    card.backends.clear();
    refused(rig, &a, card, "a card without the backend");
    assert!(b.accepted().is_empty());
    still_works(rig, &rig.connect(&a, &b));
}

/// Another incarnation answers at the address: the peer that was meant is gone.
pub fn connect_wrong_generation(rig: &Rig) {
    let (a, b) = (rig.node("a"), rig.node("b"));
    let mut card = b.card();
    card.generation = Generation(card.generation.0 ^ 1);
    let e = refused(rig, &a, card, "another generation");
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
    assert!(b.accepted().is_empty());
    still_works(rig, &rig.connect(&a, &b));
}

/// Two agents connect to each other at the same time: both connections work.
pub fn connect_crossing(rig: &Rig) {
    let (a, b) = (rig.node("a"), rig.node("b"));
    a.load(&b.identity);
    b.load(&a.identity);
    let there = rig.begin_connect(&a, b.card());
    let back = rig.begin_connect(&b, a.card());
    let near = rig.end_connect(&there).expect("they connect");
    let other = rig.end_connect(&back).expect("they connect");
    let (far, other_far) = (rig.accepted_after(&b, &a, 0), rig.accepted_after(&a, &b, 0));
    let (from, to) = (a.clone(), b.clone());
    still_works(
        rig,
        &Link {
            from,
            to,
            near,
            far,
        },
    );
    let (from, to, near, far) = (b, a, other, other_far);
    still_works(
        rig,
        &Link {
            from,
            to,
            near,
            far,
        },
    );
}
