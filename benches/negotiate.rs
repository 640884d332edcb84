//! Choosing a path: what every request pays once.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use nixl::{Config, MemKind, Op, negotiate::Demand};

fn negotiate(c: &mut Criterion) {
    let agent = |name| Config::default().agent(name).unwrap().build().unwrap();
    let (here, there) = (agent("here"), agent("there"));
    here.load_metadata(&there.metadata().unwrap()).unwrap();
    let demand = Demand {
        op: Op::Read,
        local: MemKind::Dram,
        remote: MemKind::Dram,
        all_remote_shareable: true,
        descs: 16_000,
        bytes: 16_000 << 15,
    };
    let found = here.explain("there", &demand).unwrap();
    assert_eq!(found.ranked.first().map(|c| c.path), Some("local"));

    c.bench_function("negotiate/host", |b| {
        b.iter(|| here.explain("there", black_box(&demand)).unwrap());
    });
}

criterion_group!(benches, negotiate);
criterion_main!(benches);
