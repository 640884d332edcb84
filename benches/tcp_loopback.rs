//! Payload over TCP between two processes, in the shapes that count.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{
    child,
    pair::{Job, LIMIT, Threads, agent},
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use nixl::{Op, Request};

/// Blocks and bytes of each, in random order with gaps between.
const SHAPES: [(usize, u64); 3] = [(16_384, 2 << 10), (2000, 32 << 10), (16, 4 << 20)];
const OURS: u64 = 4;
const THEIRS: u64 = 5;

fn tcp_loopback(c: &mut Criterion) {
    let mut group = c.benchmark_group("tcp_loopback");
    group.sample_size(10);
    for (count, block) in SHAPES {
        let job = Job { count, block };
        let agent = agent("initiator", "tcp", Threads::Own);
        let target = child::start("", &agent, "tcp", job, THEIRS);
        let memory = job.initiator_memory(&agent, 0);
        group.throughput(Throughput::Bytes(count as u64 * block));
        let request = |op| job.request(op, &agent, &memory, child::NAME, target.base);
        let (read, write) = (request(Op::Read), request(Op::Write));
        let transfer = |request: &Request| {
            request.post().unwrap();
            request.wait(LIMIT).unwrap();
        };
        transfer(&read);
        job.check(&memory, THEIRS);
        let id = |op: &str| BenchmarkId::new(op, format!("{count}x{block}"));
        group.bench_function(id("read"), |b| b.iter(|| transfer(&read)));
        job.refill(&memory, OURS);
        transfer(&write);
        group.bench_function(id("write"), |b| b.iter(|| transfer(&write)));
        job.refill(&memory, THEIRS);
        transfer(&read);
        job.check(&memory, OURS);
    }
    group.finish();
}

criterion_group!(benches, tcp_loopback);

fn main() {
    child::serve_if_asked();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
