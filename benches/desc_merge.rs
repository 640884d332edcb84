//! Building a request's plan from prepared lists: pairing, merging, cutting into chunks.

#[path = "../tests/common/pattern.rs"]
#[expect(dead_code, unreachable_pub, reason = "the tests use the rest")]
mod pattern;

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nixl::{
    DescList, MemKind, Op, Region, RegionId, RegionKey, RegionTable, Run, Select,
    mem::{HostMemory, HugePages, SpanIndex},
    plan::{LocalList, Plan, RemoteList, RemoteRegion},
};

const COUNT: usize = 65_536;
const BLOCK: u64 = 64;

/// One region, as we and a peer see it.
struct Both {
    base: u64,
    table: RegionTable,
    index: SpanIndex<RemoteRegion>,
}

impl Both {
    fn new() -> Self {
        let memory = HostMemory::allocate(2 * COUNT as u64 * BLOCK, HugePages::No).unwrap();
        let region = Region::new(Box::new(memory), RegionId(1), RegionKey([7; 16]), true).unwrap();
        let (base, len) = (region.addr(), region.len());
        let mut index = SpanIndex::default();
        let card = RemoteRegion::from(&region.card());
        index.insert(MemKind::Dram, 0, base, len, card);
        let table = RegionTable::default();
        table.insert(region);
        Self { base, table, index }
    }

    fn lists(&self, list: &DescList) -> (Arc<LocalList>, Arc<RemoteList>) {
        let local = LocalList::resolve(list, &self.table).unwrap();
        let remote = RemoteList::resolve(list, &self.index).unwrap();
        (Arc::new(local), Arc::new(remote))
    }
}

fn desc_merge(c: &mut Criterion) {
    let both = Both::new();
    let at = |offset| (both.base + offset, BLOCK);
    let adjacent = DescList::dram((0..COUNT as u64).map(|i| at(i * BLOCK)));
    let random = DescList::dram(pattern::offsets(COUNT, BLOCK, 1).into_iter().map(at));
    let mut run = DescList::new(MemKind::Dram);
    run.push_run(Run {
        addr: both.base,
        len: BLOCK,
        dev: 0,
        stride: 2 * BLOCK,
        count: COUNT as u64,
    });
    let order: Vec<u32> = pattern::offsets(COUNT, 1, 2)
        .iter()
        .map(|i| (i / 2) as u32)
        .collect();

    let mut group = c.benchmark_group("desc_merge/65536");
    group.throughput(Throughput::Elements(COUNT as u64));
    let mut measure = |name: &str, list: &DescList, select: Select<'_>, merged: u64| {
        let (local, remote) = both.lists(list);
        let build = || {
            let (local, remote) = (local.clone(), remote.clone());
            Plan::build(Op::Read, local, black_box(select), remote, select).unwrap()
        };
        assert_eq!(build().merged(), merged, "{name}");
        group.bench_function(name, |b| b.iter(build));
    };
    let all = COUNT as u64;
    measure("adjacent", &adjacent, Select::All, 1);
    measure("random", &random, Select::All, all);
    measure("strided_run", &run, Select::All, all);
    measure("subset_random", &adjacent, Select::Indices(&order), all);
    group.bench_function("resolve", |b| b.iter(|| both.lists(black_box(&random))));
    group.finish();
}

criterion_group!(benches, desc_merge);
criterion_main!(benches);
