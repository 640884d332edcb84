//! The harness against itself: two real NIXL agents, and a byte that is wrong.

use crate::nixl::{Holds, Job, Nixl, python};

const BLOCK: u64 = 3000;
const BLOCKS: u64 = 16;

/// What all blocks of a region that was filled hold.
fn filled(seed: u64) -> Vec<Holds> {
    (0..BLOCKS)
        .map(|block| Holds::Block { seed, block })
        .collect()
}

/// Two NIXL agents that have loaded each other, each with one region; the target's address.
fn pair(tls: Option<&str>) -> Option<(Nixl, Nixl, u64)> {
    let python = python()?;
    let mut a = Nixl::start(&python, "nixl-a", tls);
    let mut b = Nixl::start(&python, "nixl-b", tls);
    a.alloc("r", BLOCKS, BLOCK);
    let base = b.alloc("r", BLOCKS, BLOCK);
    let (from_a, from_b) = (a.metadata(), b.metadata());
    assert_eq!(a.load(&from_b).unwrap(), "nixl-b");
    assert_eq!(b.load(&from_a).unwrap(), "nixl-a");
    Some((a, b, base))
}

#[test]
fn nixl_to_nixl() {
    for tls in [None, Some("tcp")] {
        let Some((mut a, mut b, base)) = pair(tls) else {
            return;
        };
        a.fill("r", 1);
        b.fill("r", 2);
        let job = |op, message| Job {
            op,
            peer: "nixl-b",
            local: "r",
            ours: &[3, 0, 8],
            base,
            theirs: &[5, 15, 2],
            size: BLOCK,
            message,
        };
        a.transfer(&job("READ", b"read"));
        let mut here = filled(1);
        for (at, block) in [(3, 5), (0, 15), (8, 2)] {
            here[at] = Holds::Block { seed: 2, block };
        }
        a.check("r", &here);
        b.check("r", &filled(2));
        a.fill("r", 1);
        a.transfer(&job("WRITE", b""));
        let mut there = filled(2);
        for (at, block) in [(5, 3), (15, 0), (2, 8)] {
            there[at] = Holds::Block { seed: 1, block };
        }
        b.check("r", &there);
        let from_a = "nixl-a".to_owned();
        assert_eq!(b.notifications(1), [(from_a, b"read".to_vec())]);
        b.notify("nixl-a", &[0, 255, 7]);
        assert_eq!(a.notifications(1), [("nixl-b".to_owned(), vec![0, 255, 7])]);
    }
}

/// A check that could not fail would prove nothing.
#[test]
fn the_check_finds_a_wrong_byte() {
    let Some(python) = python() else { return };
    let mut a = Nixl::start(&python, "nixl-a", None);
    a.alloc("r", BLOCKS, BLOCK);
    a.check("r", &[Holds::Blank; BLOCKS as usize]);
    a.fill("r", 1);
    a.check("r", &filled(1));
    let e = a.ask("check r 1:0").unwrap_err();
    assert!(e.contains("ValueError"), "too few blocks: {e}");
    let mut command = "check r".to_owned();
    (0..BLOCKS).for_each(|block| command += &format!(" 1:{}", if block == 9 { 8 } else { block }));
    let e = a.ask(&command).unwrap_err();
    assert!(e.contains("block 9 byte 0"), "{e}");
    let e = a.ask("load 00").unwrap_err();
    assert!(e.contains("nixl"), "{e}");
}
