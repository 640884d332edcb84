//! The target decides who touches its memory: key, bounds, withdrawal, access.

use nixl_core::{DescList, ErrorKind, Op, RegionCard, Result, Revocation};

use super::{Move, still_works};
use crate::rig::{Link, Memory, Rig, Spread, must_fail};

/// Attempts `op` on `len` bytes at `offset` of what `card` claims, into a local region.
fn attempt(
    rig: &Rig,
    link: &Link,
    op: Op,
    card: &RegionCard,
    (offset, len): (u64, u64),
) -> (Result<()>, Spread) {
    let local = Spread::single(&link.from, Memory::Heap, len as usize);
    match op {
        Op::Read => local.clear(),
        Op::Write => local.fill(66),
    }
    let remote = DescList::dram([(card.addr.wrapping_add(offset), len)]);
    let plan = rig.plan(
        op,
        &link.from,
        &local.list(),
        std::slice::from_ref(card),
        &remote,
    );
    (rig.attempt(&link.near, &plan), local)
}

/// The attempt fails as `kind`, and nothing here or there was written.
fn refuses(
    rig: &Rig,
    link: &Link,
    card: &RegionCard,
    target: &Spread,
    range: (u64, u64),
    (kind, what): (ErrorKind, &str),
) {
    for op in rig.ops() {
        target.clear();
        let (result, local) = attempt(rig, link, op, card, range);
        let e = must_fail(result, what);
        assert_eq!(e.kind(), kind, "{what}, {}: {e}", op.as_str());
        super::linger(rig);
        target.check_untouched(what);
        if op == Op::Read {
            local.check_untouched(what);
        }
    }
}

/// A wrong key opens nothing.
pub fn wrong_key(rig: &Rig) {
    let link = rig.pair();
    for memory in rig.remote_memories() {
        let target = Spread::single(&link.to, *memory, 100_000);
        let mut card = target.cards().swap_remove(0);
        card.key.0[7] ^= 1;
        let why = (ErrorKind::NotRegistered, "a wrong key");
        refuses(rig, &link, &card, &target, (0, 5000), why);
        card.key.0 = [0; 16];
        refuses(rig, &link, &card, &target, (0, 5000), why);
    }
    still_works(rig, &link);
}

/// Ranges that reach out of the region are refused whole, even where the page goes on.
pub fn out_of_bounds(rig: &Rig) {
    let link = rig.pair();
    for memory in rig.remote_memories() {
        let target = Spread::single(&link.to, *memory, 10_000);
        let (addr, size) = (target.regions[0].addr(), target.regions[0].len());
        let honest = target.cards().swap_remove(0);
        let longer = RegionCard {
            len: size + (1 << 20),
            ..honest.clone()
        };
        let earlier = RegionCard {
            addr: addr - 4096,
            len: size + 4096,
            ..honest
        };
        let why = (ErrorKind::NotRegistered, "a range outside the region");
        for (card, range) in [
            (&longer, (size - 10, 11)),
            (&longer, (size, 1)),
            (&longer, (size + (1 << 19), 64)),
            (&longer, (0, size + 1)),
            (&earlier, (4095, 2)),
            (&earlier, (0, 64)),
        ] {
            refuses(rig, &link, card, &target, range, why);
        }
    }
    still_works(rig, &link);
}

/// A withdrawn region is out of reach: at once on a fenced path, on a co-operative one as soon as
/// the peer was told to forget it. Nothing keeps it pinned then.
pub fn revoked_region(rig: &Rig) {
    let link = rig.pair();
    let why = (ErrorKind::NotRegistered, "a withdrawn region");
    for memory in rig.remote_memories() {
        let unused = Spread::single(&link.to, *memory, 50_000);
        let card = unused.cards().swap_remove(0);
        link.to.withdraw(&unused.regions[0]);
        refuses(rig, &link, &card, &unused, (0, 5000), why);

        let used = Spread::single(&link.to, *memory, 50_000);
        let card = used.cards().swap_remove(0);
        for op in rig.ops() {
            let (result, _) = attempt(rig, &link, op, &card, (0, 5000));
            result.expect("it is not withdrawn yet");
        }
        link.to.withdraw(&used.regions[0]);
        if rig.caps().revocation == Revocation::Fenced {
            refuses(rig, &link, &card, &used, (0, 5000), why);
        }
        link.near.forget(card.id);
        rig.wait("the region to be let go", || used.regions[0].pins() == 0);
        refuses(rig, &link, &card, &used, (0, 5000), why);
    }
    prepared_before(rig, &link);
    still_works(rig, &link);
}

/// On a fenced path a transfer that was prepared, and posted, before the withdrawal fails too.
fn prepared_before(rig: &Rig, link: &Link) {
    if rig.caps().revocation != Revocation::Fenced {
        return;
    }
    for op in rig.ops() {
        let moved = Move::single(link, op, 50_000, 33);
        let op = moved.prepare(rig, link);
        rig.run(&op).expect("it is not withdrawn yet");
        link.to.withdraw(&moved.remote.regions[0]);
        moved.target().clear();
        let e = must_fail(rig.run(&op), "a withdrawn region");
        assert_eq!(e.kind(), ErrorKind::NotRegistered, "{e}");
        moved.target().check_untouched("a withdrawn region");
    }
}

/// A region registered read-only can be read, and not written whatever the initiator believes.
pub fn read_only_region(rig: &Rig) {
    let link = rig.pair();
    for memory in rig.remote_memories() {
        let region = link.to.region_with(*memory, 8192, false);
        let before = crate::rig::pattern(5, 0, 8192);
        region.write_at(0, &before).expect("inside the region");
        let card = RegionCard {
            writable: true,
            ..region.card()
        };
        for op in rig.ops() {
            let (result, local) = attempt(rig, &link, op, &card, (1000, 4000));
            match op {
                Op::Read => {
                    result.expect("reading is allowed");
                    let got = local.block(0);
                    assert!(got == before[1000..5000], "bytes of a read-only region");
                }
                Op::Write => {
                    let e = must_fail(result, "writing to a read-only region");
                    assert_eq!(e.kind(), ErrorKind::NotAllowed, "{e}");
                }
            }
            super::linger(rig);
            let mut now = vec![0; 8192];
            region.read_at(0, &mut now).expect("inside the region");
            assert!(now == before, "a read-only region was written");
        }
    }
    still_works(rig, &link);
}

/// What the path does not have is refused as `Unsupported` when it is prepared.
pub fn unsupported_operations(rig: &Rig) {
    let link = rig.pair();
    for op in [Op::Read, Op::Write] {
        let moved = Move::single(&link, op, 100, 1);
        let plan = moved.plan(rig, &link);
        let unknown = link.near.endpoint().prepare("no such path", &plan);
        let e = unknown.err().expect("the path does not exist");
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
        if !rig.ops().contains(&op) {
            let e = must_fail(
                rig.attempt(&link.near, &plan),
                "an operation it does not have",
            );
            assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
            moved
                .target()
                .check_untouched("an operation it does not have");
        }
    }
    still_works(rig, &link);
}
