//! Messages: in order, whole, once, and not behind payload.

use std::time::{Duration, Instant};

use super::Move;
use crate::rig::{Rig, Side, pattern};

/// The largest message that core sends: a notification of 16 MiB and what core puts before it.
const LARGEST: usize = (16 << 20) + 64;

/// Latest arrival of a message that was sent during a transfer, where it does not arrive before
/// the transfer's end anyway; half of a shorter patience.
const SOON: Duration = Duration::from_secs(1);

fn length(n: usize) -> usize {
    const FIRST: [usize; 12] = [
        0, 1, 5, 4095, 4096, 65_535, 65_536, 65_537, 1_000_000, LARGEST, 0, 3,
    ];
    FIRST.get(n).copied().unwrap_or(n * 7 % 65)
}

/// Messages of 0 bytes to 16 MiB, then thousands of small ones, both ways at once and from the
/// moment of connecting on.
pub fn messages_in_order(rig: &Rig) {
    const COUNT: usize = 3000;
    let (a, b) = (rig.node("a"), rig.node("b"));
    a.load(&b.identity);
    b.load(&a.identity);
    let near = rig.try_connect(&a, b.card()).expect("they connect");
    let send = |side: &Side, way: u64, which: std::ops::Range<usize>| {
        for n in which {
            side.send(pattern(way, n as u64, length(n)));
        }
    };
    send(&near, 1, 0..20);
    let far = rig.accepted_after(&b, &a, 0);
    send(&far, 2, 0..COUNT);
    send(&near, 1, 20..COUNT);
    rig.wait("every message to arrive", || {
        near.received() >= COUNT && far.received() >= COUNT
    });
    for (side, way) in [(&far, 1), (&near, 2)] {
        for n in 0..COUNT {
            let (_, got) = side.message(n);
            assert_eq!(got.len(), length(n), "length of message {n} of way {way}");
            assert!(
                got == pattern(way, n as u64, length(n)),
                "bytes of message {n} of way {way}"
            );
        }
        assert_eq!(side.received(), COUNT, "each message once");
    }
}

/// A message sent while transfers run arrives before they end, or at least soon.
pub fn messages_pass_payload(rig: &Rig) {
    let link = rig.pair();
    let soon = SOON.min(rig.patience() / 2);
    for op in rig.ops() {
        let moves: Vec<_> = (0..4).map(|i| Move::long(&link, op, 20 + 3 * i)).collect();
        let ops: Vec<_> = moves.iter().map(|m| m.prepare(rig, &link)).collect();
        for op in &ops {
            op.post().expect("the post is taken");
        }
        let sent = Instant::now();
        let (near, far) = (link.near.received(), link.far.received());
        link.near.send(&b"passes"[..]);
        link.far.send(&b"passes"[..]);
        for op in &ops {
            rig.end(op).expect("the transfer succeeds");
        }
        rig.wait("the messages", || {
            link.near.received() > near && link.far.received() > far
        });
        let last = ops.iter().filter_map(|op| op.ended_at()).max();
        let last = last.expect("every transfer ended");
        for (side, n) in [(&link.near, near), (&link.far, far)] {
            let (came, _) = side.message(n);
            assert!(
                came <= last || came - sent < soon,
                "a message waited {:?} behind payload",
                came - sent
            );
        }
        moves.iter().for_each(|m| m.check("beside messages"));
    }
}
