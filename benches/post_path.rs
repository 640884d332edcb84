//! What a caller waits for: preparing a request, posting it, and 8 bytes back to back. Two
//! processes, over each path that there is between them.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{
    child,
    pair::{Job, LIMIT, Threads, agent},
};
use criterion::{BenchmarkId, Criterion, criterion_group};
use nixl::{Agent, Op, Region, Request, Select};

const PATHS: [&str; 3] = ["shm", "cma", "tcp"];
const SEED: u64 = 9;

struct Rig {
    target: child::Target,
    agent: Agent,
    memory: Region,
    job: Job,
}

impl Rig {
    /// Connected, and its path proven by a transfer.
    fn new(path: &str, job: Job) -> (Self, Request) {
        let agent = agent("initiator", path, Threads::Own);
        let target = child::start("", &agent, path, job, SEED);
        let memory = job.initiator_memory(&agent, 0);
        let request = job.request(Op::Read, &agent, &memory, child::NAME, target.base);
        request.post().unwrap();
        request.wait(LIMIT).unwrap();
        assert_eq!(request.receipt().unwrap().path, path);
        job.check(&memory, SEED);
        let rig = Self {
            target,
            agent,
            memory,
            job,
        };
        (rig, request)
    }
}

/// Prints what a mean hides.
fn print_percentiles(what: &str, mut samples: Vec<Duration>) {
    samples.sort_unstable();
    let at = |p: usize| samples[(samples.len() * p).div_ceil(100).max(1) - 1];
    if samples.len() >= 100 {
        let (p50, p99) = (at(50), at(99));
        println!("{what}: p50 {p50:?}, p99 {p99:?} of {}", samples.len());
    }
}

fn prepare(c: &mut Criterion) {
    let mut group = c.benchmark_group("prepare");
    for path in PATHS {
        let job = Job {
            count: 65_536,
            block: 256,
        };
        let (rig, _) = Rig::new(path, job);
        let (here, there) = (job.here(rig.memory.addr()), job.there(rig.target.base));
        group.bench_function(BenchmarkId::new(path, job.count), |b| {
            b.iter(|| {
                let local = rig.agent.prepare_local(&here).unwrap();
                let remote = rig.agent.prepare_remote(child::NAME, &there).unwrap();
                rig.agent
                    .request(Op::Read, &local, Select::All, &remote, Select::All)
                    .unwrap()
            });
        });
    }
    group.finish();
}

fn post(c: &mut Criterion) {
    let mut group = c.benchmark_group("post");
    group.sample_size(20);
    for path in PATHS {
        for count in [1, 16_000, 65_536] {
            let block = 256;
            let (rig, request) = Rig::new(path, Job { count, block });
            let mut samples = Vec::new();
            group.bench_function(BenchmarkId::new(path, count), |b| {
                b.iter_custom(|iterations| {
                    let mut sum = Duration::ZERO;
                    for _ in 0..iterations {
                        let begun = Instant::now();
                        request.post().unwrap();
                        let took = begun.elapsed();
                        request.wait(LIMIT).unwrap();
                        samples.push(took);
                        sum += took;
                    }
                    sum
                });
            });
            print_percentiles(&format!("post {path} {count}"), samples);
            rig.job.check(&rig.memory, SEED);
        }
    }
    group.finish();
}

fn small(c: &mut Criterion) {
    let mut group = c.benchmark_group("8_bytes");
    for path in PATHS {
        let (_rig, request) = Rig::new(path, Job { count: 1, block: 8 });
        let mut samples = Vec::new();
        group.bench_function(path, |b| {
            b.iter(|| {
                let begun = Instant::now();
                request.post().unwrap();
                request.wait(LIMIT).unwrap();
                samples.push(begun.elapsed());
            });
        });
        print_percentiles(&format!("8 bytes {path}"), samples);
    }
    group.finish();
}

criterion_group!(benches, prepare, post, small);

fn main() {
    child::serve_if_asked();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
