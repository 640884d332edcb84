//! `nixl bench`: one workload, many times, every byte checked.

use std::{hint::black_box, time::Duration};

use clap::Args;
use nixl::{Agent, Op, Result};
use serde::Serialize;

use crate::{
    backend::BackendChoice,
    child::Target,
    job::{self, Job, Memory},
    layout::Layout,
    measure::{Rig, Sample, Times},
    remote,
};

/// Measure one workload between two processes.
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    /// Direction: read or write
    #[arg(long, default_value = "read", value_parser = parse_op)]
    op: Op,
    /// Bytes in a block
    #[arg(long, default_value_t = 32 << 10, value_parser = clap::value_parser!(u64).range(1..))]
    block: u64,
    /// Number of blocks
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u64).range(1..u64::from(u32::MAX)))]
    count: u64,
    /// How blocks lie: adjacent, strided (every other) or random
    #[arg(long, default_value = "random")]
    layout: Layout,
    /// Memory: owned (the agent's), caller (any) or vram[:N]
    #[arg(long, default_value = "owned")]
    memory: Memory,
    /// Paths to allow: auto, ipc, shm, cma, tcp or ucx
    #[arg(long, default_value = "auto")]
    backend: BackendChoice,
    /// TCP data streams
    #[arg(long)]
    streams: Option<u16>,
    /// Copy threads
    #[arg(long)]
    threads: Option<usize>,
    /// Timed transfers; default by size
    #[arg(long)]
    iters: Option<usize>,
    /// Bytes of other memory to read before each timed transfer: twice the last-level cache
    /// makes every transfer start cold
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    evict: usize,
    /// Decides block order and payload
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Serve one benchmark from another host at this address
    #[arg(long, value_name = "ADDR", conflicts_with = "connect")]
    listen: Option<String>,
    /// Run against `nixl bench --listen` at this address
    #[arg(long, value_name = "ADDR")]
    connect: Option<String>,
    /// File with the secret that both hosts share
    #[arg(long, value_name = "FILE")]
    secret_file: Option<std::path::PathBuf>,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

fn parse_op(s: &str) -> std::result::Result<Op, String> {
    match s {
        "read" => Ok(Op::Read),
        "write" => Ok(Op::Write),
        _ => Err("one of read, write".to_owned()),
    }
}

#[derive(Serialize)]
struct Percentiles {
    p50: f64,
    p99: f64,
}

/// The JSON object, keys as the design fixes them; `post_p99_us` and `lanes` are additions.
#[derive(Serialize)]
struct Report {
    op: &'static str,
    block: u64,
    count: u64,
    layout: &'static str,
    memory: &'static str,
    backend: String,
    path: String,
    lanes: String,
    streams: u16,
    threads: usize,
    iters: usize,
    gbps: f64,
    total_us: Percentiles,
    post_us: f64,
    post_p99_us: f64,
    prep_us: f64,
    verified: bool,
}

const INITIATOR: &str = "bench-initiator";
const TARGET: &str = "bench-target";

/// Runs the benchmark; false if a byte was wrong.
pub(crate) fn run(args: &BenchArgs) -> Result<bool> {
    let mut config = args.backend.config()?;
    if let Some(threads) = args.threads {
        config.agent.copy_threads = threads;
    }
    if let Some(streams) = args.streams {
        config.tcp.streams = streams;
    }
    if let Some(addr) = &args.listen {
        return remote::listen(&config, addr, args.secret_file.as_deref()).map(|()| true);
    }
    let job = Job {
        count: args.count,
        block: args.block,
        layout: args.layout.as_str().to_owned(),
        memory: args.memory,
        seed: args.seed,
    };
    let agent = config.agent(INITIATOR)?.build()?;
    let (_child, target) = match &args.connect {
        Some(addr) => {
            let target = remote::connect(&agent, addr, args.secret_file.as_deref())?;
            (None, target)
        }
        None => {
            let child = Target::start(TARGET, &config, &agent)?;
            agent.load_metadata(&child.metadata)?;
            (Some(child), TARGET.to_owned())
        }
    };
    let report = measure(args, &config, &agent, &target, &job);
    job::stop(&agent, &target);
    let report = report?;
    print(&report, args.json);
    agent.shutdown(Duration::from_secs(2))?;
    Ok(report.verified)
}

fn measure(
    args: &BenchArgs,
    config: &nixl::Config,
    agent: &Agent,
    target: &str,
    job: &Job,
) -> Result<Report> {
    let rig = Rig::new(agent, target, job, args.op)?;
    let iters = args
        .iters
        .unwrap_or_else(|| default_iters(job.bytes()))
        .max(1);
    let mut verified = true;
    // The first transfer proves the bytes and warms up; the last proves them again.
    rig.fill(args.seed)?;
    rig.transfer()?;
    verified &= rig.check(args.seed)?.is_none();
    let last = args.seed.wrapping_add(1);
    rig.fill(last)?;
    let other = vec![1_u8; args.evict];
    let samples = (0..iters)
        .map(|_| {
            evict(&other);
            rig.transfer()
        })
        .collect::<Result<Vec<Sample>>>()?;
    verified &= rig.check(last)?.is_none();
    let mut total: Times = samples.iter().map(|s| s.total).collect();
    let mut post: Times = samples.iter().map(|s| s.post).collect();
    let receipt = rig.receipt();
    let us = |d: Duration| (d.as_secs_f64() * 1e9).round() / 1e3;
    Ok(Report {
        op: args.op.as_str(),
        block: job.block,
        count: job.count,
        layout: args.layout.as_str(),
        memory: args.memory.as_str(),
        backend: args.backend.to_string(),
        path: receipt.as_ref().map_or("none", |r| r.path).to_owned(),
        lanes: receipt.map_or_else(String::new, |r| r.lanes.to_string()),
        streams: config.tcp.streams,
        threads: config.agent.copy_threads,
        iters,
        gbps: job.bytes() as f64 / total.percentile(50).as_secs_f64() / 1e9,
        total_us: Percentiles {
            p50: us(total.percentile(50)),
            p99: us(total.percentile(99)),
        },
        post_us: us(post.percentile(50)),
        post_p99_us: us(post.percentile(99)),
        prep_us: us(rig.prepare),
        verified,
    })
}

/// Reads a byte of every cache line.
fn evict(other: &[u8]) {
    let bytes = other.iter().step_by(64).map(|&byte| u64::from(byte));
    black_box(bytes.sum::<u64>());
}

/// Enough for stable percentiles within a few seconds.
fn default_iters(bytes: u64) -> usize {
    (4_000_000_000 / bytes.max(400_000)).clamp(7, 10_000) as usize
}

fn print(r: &Report, json: bool) {
    if json {
        // Strings and numbers always serialise.
        println!("{}", serde_json::to_string(r).unwrap_or_default());
        return;
    }
    println!(
        "{} of {} x {} B, {} layout, {} memory",
        r.op, r.count, r.block, r.layout, r.memory
    );
    println!("  path       {} ({})", r.path, r.lanes);
    println!("  bandwidth  {:.2} GB/s (median of {})", r.gbps, r.iters);
    println!(
        "  total      p50 {:.1} us   p99 {:.1} us",
        r.total_us.p50, r.total_us.p99
    );
    println!(
        "  post       p50 {:.1} us   p99 {:.1} us",
        r.post_us, r.post_p99_us
    );
    println!("  prepare    {:.1} us", r.prep_us);
    let verdict = if r.verified {
        "every byte is right"
    } else {
        "WRONG BYTES"
    };
    println!("  checked    {verdict}");
}
