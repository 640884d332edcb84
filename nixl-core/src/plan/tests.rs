use std::sync::Arc;

use super::*;
use crate::{
    DescList, MemKind, RegionId, RegionKey, Run,
    mem::{RawMemory, Region, RegionTable, Span, SpanIndex},
};

fn table(spans: &[(u64, u64)]) -> RegionTable {
    let table = RegionTable::default();
    for (i, &(addr, len)) in spans.iter().enumerate() {
        let owner = RawMemory(Span {
            addr,
            len,
            kind: MemKind::Dram,
            dev: 0,
        });
        let id = i as u64;
        let key = RegionKey([i as u8; 16]);
        table.insert(Region::new(Box::new(owner), RegionId(id), key, true).unwrap());
    }
    table
}

fn remote(spans: &[(u64, u64)]) -> SpanIndex<RemoteRegion> {
    let mut index = SpanIndex::default();
    for (i, &(addr, len)) in spans.iter().enumerate() {
        let region = RemoteRegion {
            id: RegionId(i as u64),
            addr,
            len,
            key: RegionKey([i as u8; 16]),
            shareable: false,
            writable: true,
        };
        index.insert(MemKind::Dram, 0, addr, len, region);
    }
    index
}

fn lists(local: &DescList, far: &DescList) -> (Arc<LocalList>, Arc<RemoteList>) {
    let t = table(&[(0x10000, 0x10000), (0x20000, 0x10000)]);
    let r = remote(&[(0x50000, 0x100000)]);
    (
        Arc::new(LocalList::resolve(local, &t).unwrap()),
        Arc::new(RemoteList::resolve(far, &r).unwrap()),
    )
}

fn blocks(base: u64, order: &[u64]) -> DescList {
    DescList::dram(order.iter().map(|i| (base + i * 256, 256)))
}

fn plan_all(l: &DescList, r: &DescList) -> Plan {
    let (l, r) = lists(l, r);
    Plan::build(Op::Read, l, Select::All, r, Select::All).unwrap()
}

#[test]
fn adjacent_blocks_merge_only_where_both_sides_are_adjacent() {
    let plan = plan_all(
        &blocks(0x10000, &[0, 1, 2, 4]),
        &blocks(0x50000, &[7, 8, 10, 11]),
    );
    let pieces: Vec<_> = plan.pieces().map(|p| (p.local, p.remote, p.len)).collect();
    assert_eq!(
        pieces,
        [
            (0x10000, 0x50000 + 7 * 256, 512),
            (0x10200, 0x50000 + 10 * 256, 256),
            (0x10400, 0x50000 + 11 * 256, 256)
        ]
    );
    assert_eq!((plan.asked(), plan.merged(), plan.bytes()), (4, 3, 1024));
}

#[test]
fn blocks_of_two_regions_never_merge() {
    let plan = plan_all(
        &DescList::dram([(0x1ff00, 256), (0x20000, 256)]),
        &blocks(0x50000, &[0, 1]),
    );
    assert_eq!(plan.merged(), 2);
}

#[test]
fn a_strided_run_equals_its_blocks() {
    let mut run = DescList::new(MemKind::Dram);
    run.push_run(Run {
        addr: 0x10000,
        len: 256,
        dev: 0,
        stride: 512,
        count: 20,
    });
    let even: Vec<u64> = (0..20).map(|i| i * 2).collect();
    let far = blocks(0x50000, &even);
    let (a, b) = (
        plan_all(&run, &far),
        plan_all(&blocks(0x10000, &even), &far),
    );
    assert!(a.pieces().eq(b.pieces()));
    let dense = Run {
        stride: 256,
        ..run.runs()[0]
    };
    let mut list = DescList::new(MemKind::Dram);
    list.push_run(dense);
    let order: Vec<u64> = (0..20).collect();
    assert_eq!(plan_all(&list, &blocks(0x50000, &order)).merged(), 1);
}

#[test]
fn a_run_across_two_regions_resolves_block_by_block() {
    let mut run = DescList::new(MemKind::Dram);
    run.push_run(Run {
        addr: 0x1f000,
        len: 0x800,
        dev: 0,
        stride: 0x1000,
        count: 3,
    });
    let t = table(&[(0x10000, 0x10000), (0x20000, 0x10000)]);
    let list = LocalList::resolve(&run, &t).unwrap();
    let regions: Vec<_> = (0..3).map(|i| list.block(i).region).collect();
    assert_eq!(regions, [0, 1, 1]);
}

#[test]
fn subsets_pick_blocks_by_index_and_in_order() {
    let (l, r) = lists(
        &blocks(0x10000, &[0, 1, 2, 3]),
        &blocks(0x50000, &[9, 5, 6, 1]),
    );
    let plan = Plan::build(
        Op::Write,
        l,
        Select::Indices(&[3, 1, 2]),
        r,
        Select::Indices(&[0, 1, 2]),
    )
    .unwrap();
    let pieces: Vec<_> = plan.pieces().map(|p| (p.local, p.remote, p.len)).collect();
    assert_eq!(
        pieces,
        [
            (0x10300, 0x50000 + 9 * 256, 256),
            (0x10100, 0x50000 + 5 * 256, 512)
        ]
    );
}

#[test]
fn chunks_cover_the_plan_exactly_and_stay_small() {
    let list = DescList::dram([(0x10000, 0x10000)]);
    let far = DescList::dram([(0x50000, 0x10000)]);
    let one = plan_all(&list, &far);
    assert_eq!(one.chunks(), 1);

    let t = table(&[(1 << 30, 1 << 30)]);
    let r = remote(&[(1 << 40, 1 << 30)]);
    let local = DescList::dram(
        (0..5000)
            .map(|i| ((1 << 30) + i * 8192, if i % 7 == 0 { 4096 } else { 16 }))
            .chain([(1 << 30 | 0x1000_0000, 5 << 20)]),
    );
    let far = DescList::dram(
        local
            .runs()
            .iter()
            .map(|run| (run.addr - (1 << 30) + (1 << 40), run.len)),
    );
    let plan = Plan::build(
        Op::Read,
        Arc::new(LocalList::resolve(&local, &t).unwrap()),
        Select::All,
        Arc::new(RemoteList::resolve(&far, &r).unwrap()),
        Select::All,
    )
    .unwrap();
    let mut sum = 0;
    for i in 0..plan.chunks() {
        assert!(plan.chunk(i).count() <= CHUNK_BLOCKS);
        assert!(plan.chunk_bytes(i) <= CHUNK_BYTES && plan.chunk_bytes(i) > 0);
        sum += plan.chunk_bytes(i);
    }
    assert_eq!(sum, plan.bytes());
    let whole: u64 = plan.pieces().map(|p| p.len).sum();
    assert_eq!(whole, plan.bytes());
}

#[test]
fn bad_descriptors_are_named() {
    let t = table(&[(0x10000, 0x10000)]);
    let resolve = |blocks: &[(u64, u64)]| {
        LocalList::resolve(&DescList::dram(blocks.iter().copied()), &t)
            .unwrap_err()
            .kind()
    };
    assert_eq!(resolve(&[(0x10000, 0)]), ErrorKind::ApiMisuse);
    assert_eq!(resolve(&[(u64::MAX - 4, 16)]), ErrorKind::ApiMisuse);
    assert_eq!(resolve(&[(0x9000, 16)]), ErrorKind::NotRegistered);
    assert_eq!(
        resolve(&[(0x1fff8, 16)]),
        ErrorKind::NotRegistered,
        "across the end"
    );
    let mut vram = DescList::new(MemKind::Vram);
    vram.push(0x10000, 16, 0);
    let e = LocalList::resolve(&vram, &t).unwrap_err();
    assert!(e.to_string().contains("registered as Dram"), "{e}");

    let (l, r) = lists(&blocks(0x10000, &[0, 1]), &blocks(0x50000, &[0, 1]));
    let build = |a: Select<'_>, b: Select<'_>| {
        Plan::build(Op::Read, l.clone(), a, r.clone(), b)
            .unwrap_err()
            .kind()
    };
    assert_eq!(
        build(Select::All, Select::Indices(&[0])),
        ErrorKind::Mismatch
    );
    assert_eq!(
        build(Select::Indices(&[2]), Select::Indices(&[0])),
        ErrorKind::ApiMisuse
    );
    assert_eq!(
        build(Select::Indices(&[]), Select::Indices(&[])),
        ErrorKind::ApiMisuse
    );
    let (l, r) = lists(
        &DescList::dram([(0x10000, 16)]),
        &DescList::dram([(0x50000, 17)]),
    );
    let e = Plan::build(Op::Read, l, Select::All, r, Select::All).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Mismatch);
}

/// Lengths are kept in 32 bits; nothing is touched at these addresses.
#[test]
fn blocks_and_sums_of_4_gib_and_more_keep_their_length() {
    const GIB: u64 = 1 << 30;
    let t = table(&[(1 << 40, 64 * GIB)]);
    let r = remote(&[(1 << 41, 64 * GIB)]);
    let lens = [3 * GIB, GIB - 1, 1, 5 * GIB, u64::from(u32::MAX), GIB, 7];
    let list = |base: u64| {
        let starts = lens.iter().scan(base, |at, len| {
            *at += len;
            Some(*at - len)
        });
        DescList::dram(starts.zip(lens))
    };
    let local = LocalList::resolve(&list(1 << 40), &t).unwrap();
    let far = RemoteList::resolve(&list(1 << 41), &r).unwrap();
    let (local, far) = (Arc::new(local), Arc::new(far));
    let plan = Plan::build(Op::Read, local, Select::All, far, Select::All).unwrap();
    let pieces: Vec<_> = plan.pieces().map(|p| p.len).collect();
    assert_eq!(
        pieces,
        [3 * GIB, GIB, 5 * GIB, u64::from(u32::MAX), GIB + 7],
        "4 GiB - 1 and what reaches 4 GiB stays unmerged"
    );
    let chunked: u64 = (0..plan.chunks()).map(|i| plan.chunk_bytes(i)).sum();
    assert_eq!(chunked, lens.iter().sum::<u64>());
    assert_eq!(plan.bytes(), chunked);
    let mut next = 1 << 40;
    for piece in (0..plan.chunks()).flat_map(|i| plan.chunk(i)) {
        assert_eq!((piece.local, piece.remote), (next, next + (1 << 40)));
        next += piece.len;
    }
}

#[test]
fn a_merged_block_is_had_by_its_number() {
    let order = [3, 4, 9, 1];
    let plan = plan_all(&blocks(0x10000, &order), &blocks(0x50000, &order));
    let all: Vec<_> = plan.pieces().collect();
    assert_eq!(plan.merged(), 3);
    let one_by_one: Vec<_> = (0..4).filter_map(|i| plan.piece(i)).collect();
    assert_eq!(one_by_one, all);
}
