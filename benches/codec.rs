//! Encoding and decoding the metadata of an agent with 10,000 regions.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nixl::{
    Config, Generation, MemKind, RegionCard, RegionId, RegionKey,
    metadata::{self, Decoded, Kind, Limits, Metadata},
};

const REGIONS: u64 = 10_000;

fn region(i: u64) -> RegionCard {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&i.to_le_bytes());
    RegionCard {
        id: RegionId(100 + i),
        addr: 0x7f00_0000_0000 + (i << 21),
        len: 2 << 20,
        kind: MemKind::Dram,
        dev: 0,
        key: RegionKey(key),
        shareable: true,
        writable: true,
        extras: Vec::new(),
    }
}

fn codec(c: &mut Criterion) {
    let agent = Config::default().agent("bench").unwrap().build().unwrap();
    let Ok(Decoded::Ours(small)) = metadata::decode(&agent.metadata().unwrap(), &Limits::default())
    else {
        panic!("an agent's own metadata decodes");
    };
    let large = Metadata {
        kind: Kind::Full,
        generation: Generation(small.generation.0),
        regions: (0..REGIONS).map(region).collect(),
        ..small
    };
    let blob = metadata::encode(&large);
    assert_eq!(
        metadata::decode(&blob, &Limits::default()).unwrap(),
        Decoded::Ours(large.clone())
    );
    println!(
        "{REGIONS} regions: {:.1} bytes each",
        blob.len() as f64 / REGIONS as f64
    );

    let mut group = c.benchmark_group("codec/10000");
    group.throughput(Throughput::Elements(REGIONS));
    group.bench_function("encode", |b| b.iter(|| metadata::encode(black_box(&large))));
    group.bench_function("decode", |b| {
        b.iter(|| metadata::decode(black_box(&blob), &Limits::default()).unwrap());
    });
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
