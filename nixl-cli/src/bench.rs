//! `nixl bench`: one workload, many times, every byte checked.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use clap::Args;
use nixl::{Agent, Op, Receipt, Result};
use serde::Serialize;

use crate::{
    backend::BackendChoice,
    child::TargetProcess,
    idle,
    job::{Job, Memory},
    layout::Layout,
    measure::{Rig, Sample, Times},
    out, remote,
    talk::Target,
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
    /// Backend or path to use: auto, ipc, shm, cma, tcp or ucx
    #[arg(long, default_value = "auto")]
    backend: BackendChoice,
    /// TCP data streams
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=16))]
    streams: Option<u16>,
    /// Copy threads; 0: none, progress is made by the callers
    #[arg(long, value_parser = clap::value_parser!(u16).range(..=256))]
    threads: Option<u16>,
    /// Timed transfers; default by size
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    iters: Option<u32>,
    /// Then leave the agent idle and measure how much of a core it uses
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    idle: Option<u64>,
    /// Then send so many notifications of 64 bytes to the target and back, one by one
    #[arg(long, value_name = "ROUNDS", value_parser = clap::value_parser!(u32).range(1..))]
    echo: Option<u32>,
    /// Then register other memory of the same size, and deregister it, so many times
    #[arg(long, value_name = "ROUNDS", value_parser = clap::value_parser!(u32).range(1..))]
    registrations: Option<u32>,
    /// Bytes of other memory to read before each timed transfer: twice the last-level cache
    /// makes every transfer start cold
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    evict: usize,
    /// Decides block order and payload
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Serve one benchmark from another host at this address
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["connect", "json"])]
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

/// The JSON object. Scripts read these keys: add some, never rename or remove one.
#[derive(Serialize)]
struct Report {
    op: &'static str,
    block: u64,
    count: u64,
    layout: &'static str,
    memory: &'static str,
    backend: String,
    path: &'static str,
    streams: u16,
    gbps: f64,
    total_us: Percentiles,
    /// All transfers together, per transfer.
    mean_us: f64,
    post_us: f64,
    prep_us: f64,
    verified: bool,
    lanes: String,
    threads: usize,
    iters: usize,
    post_p99_us: f64,
    #[serde(flatten)]
    extras: Extras,
}

/// What is measured only if it is asked for.
#[derive(Serialize)]
struct Extras {
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_cpu_percent: Option<f64>,
    /// Half of the way to the target and back.
    #[serde(skip_serializing_if = "Option::is_none")]
    notify_us: Option<Percentiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    register_us: Option<Percentiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deregister_us: Option<Percentiles>,
}

const INITIATOR: &str = "bench-initiator";
const TARGET: &str = "bench-target";
/// Bytes of a notification that is sent to and fro.
const ECHO_BYTES: usize = 64;
/// Patience with whoever may still touch memory that is deregistered.
const GOODBYE: Duration = Duration::from_secs(2);

/// Runs the benchmark; false if a byte was wrong.
pub(crate) fn run(args: &BenchArgs) -> Result<bool> {
    let mut config = args.backend.config()?;
    if let Some(threads) = args.threads {
        config.agent.copy_threads = usize::from(threads);
    }
    if let Some(streams) = args.streams {
        config.tcp.streams = streams;
    }
    let secret = args.secret_file.as_deref();
    if let Some(addr) = &args.listen {
        return remote::listen(&config, TARGET, addr, secret).map(|()| true);
    }
    let job = Job {
        count: args.count,
        block: args.block,
        layout: args.layout,
        memory: args.memory,
        seed: args.seed,
    };
    job.check(if args.connect.is_some() { 1 } else { 2 })?;
    let agent = config.agent(INITIATOR)?.build()?;
    let (_process, name) = match &args.connect {
        Some(addr) => (None, remote::connect(&agent, addr, secret)?),
        None => {
            let process = TargetProcess::start(TARGET, &config, &agent)?;
            let name = agent.load_metadata(&process.metadata)?;
            (Some(process), name)
        }
    };
    let target = Target {
        agent: &agent,
        name: &name,
    };
    let report = measure(args, &config, target, &job);
    target.stop();
    let report = report?;
    print(&report, args.json)?;
    agent.shutdown(Duration::from_secs(2))?;
    Ok(report.verified)
}

fn measure(
    args: &BenchArgs,
    config: &nixl::Config,
    target: Target<'_>,
    job: &Job,
) -> Result<Report> {
    let rig = Rig::new(target, job, args.op)?;
    let (samples, verified) = sample(args, &rig, job)?;
    let sum: Duration = samples.iter().map(|s| s.total).sum();
    let total = percentiles(samples.iter().map(|s| s.total));
    let post = percentiles(samples.iter().map(|s| s.post));
    let Receipt { path, lanes, .. } = rig.receipt()?;
    Ok(Report {
        op: args.op.as_str(),
        block: job.block,
        count: job.count,
        layout: args.layout.as_str(),
        memory: args.memory.as_str(),
        backend: args.backend.to_string(),
        path,
        streams: config.tcp.streams,
        gbps: job.bytes() as f64 / total.p50 / 1e3,
        total_us: total,
        mean_us: us(sum) / samples.len() as f64,
        post_us: post.p50,
        prep_us: us(rig.prepare),
        verified,
        lanes: lanes.to_string(),
        threads: config.agent.copy_threads,
        iters: samples.len(),
        post_p99_us: post.p99,
        extras: Extras::measure(args, target, job)?,
    })
}

impl Extras {
    fn measure(args: &BenchArgs, target: Target<'_>, job: &Job) -> Result<Self> {
        let echo = |rounds| target.echo(rounds, ECHO_BYTES);
        let halves = args.echo.map(echo).transpose()?;
        let register = |rounds| registrations(target.agent, job, rounds);
        let (register_us, deregister_us) = args.registrations.map(register).transpose()?.unzip();
        Ok(Self {
            notify_us: halves.map(|times| percentiles(times.into_iter().map(|time| time / 2))),
            register_us,
            deregister_us,
            idle_cpu_percent: args
                .idle
                .map(|seconds| idle::cpu_percent(Duration::from_secs(seconds))),
        })
    }

    /// A line for each that was measured, with a line break before.
    fn lines(&self) -> String {
        let idle = self.idle_cpu_percent;
        let lines = [
            self.notify_us.as_ref().map(|half| {
                let Percentiles { p50, p99 } = half;
                format!("\n  notify     p50 {p50:.1} us   p99 {p99:.1} us, one way")
            }),
            self.register_us
                .as_ref()
                .map(|time| format!("\n  register   p50 {:.1} us", time.p50)),
            self.deregister_us
                .as_ref()
                .map(|time| format!("\n  deregister p50 {:.1} us", time.p50)),
            idle.map(|percent| format!("\n  idle       {percent:.3} % of a core")),
        ];
        lines.into_iter().flatten().collect()
    }
}

/// What registering and deregistering memory takes that was written before.
fn registrations(agent: &Agent, job: &Job, rounds: u32) -> Result<(Percentiles, Percentiles)> {
    let mut times = Vec::with_capacity(rounds as usize);
    let mut buffer = vec![1; job.bytes() as usize];
    for _ in 0..rounds {
        let begun = Instant::now();
        let region = agent.register_buffer(std::mem::take(&mut buffer))?;
        let registered = begun.elapsed();
        let begun = Instant::now();
        agent.deregister(&region, GOODBYE)?;
        times.push((registered, begun.elapsed()));
        drop(region);
        buffer = vec![1; job.bytes() as usize];
    }
    let register = percentiles(times.iter().map(|t| t.0));
    Ok((register, percentiles(times.iter().map(|t| t.1))))
}

fn us(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

fn percentiles(times: impl Iterator<Item = Duration>) -> Percentiles {
    let mut times: Times = times.collect();
    Percentiles {
        p50: us(times.percentile(50)),
        p99: us(times.percentile(99)),
    }
}

/// The timed transfers, and whether every byte was right: the first transfer proves it and warms
/// up, the last proves it again.
fn sample(args: &BenchArgs, rig: &Rig<'_>, job: &Job) -> Result<(Vec<Sample>, bool)> {
    rig.fill(args.seed)?;
    rig.transfer()?;
    let first = rig.check(args.seed)?;
    let last = args.seed.wrapping_add(1);
    rig.fill(last)?;
    let other = vec![1_u8; args.evict];
    let iters = args.iters.unwrap_or_else(|| default_iters(job.bytes()));
    let samples = (0..iters)
        .map(|_| {
            evict(&other);
            rig.transfer()
        })
        .collect::<Result<_>>()?;
    let last = rig.check(last)?;
    Ok((samples, first.is_none() && last.is_none()))
}

/// Reads a byte of every cache line.
fn evict(other: &[u8]) {
    let bytes = other.iter().step_by(64).map(|&byte| u64::from(byte));
    black_box(bytes.sum::<u64>());
}

/// Enough for stable percentiles within a few seconds.
fn default_iters(bytes: u64) -> u32 {
    (4_000_000_000 / bytes.max(400_000)).clamp(7, 10_000) as u32
}

fn print(r: &Report, json: bool) -> Result<()> {
    if json {
        return out::json(r);
    }
    let extras = r.extras.lines();
    out::line(&format!(
        "{} of {} x {} B, {} layout, {} memory
  path       {} ({})
  bandwidth  {:.2} GB/s (median of {})
  total      p50 {:.1} us   p99 {:.1} us
  post       p50 {:.1} us   p99 {:.1} us
  prepare    {:.1} us{extras}
  checked    {}",
        r.op,
        r.count,
        r.block,
        r.layout,
        r.memory,
        r.path,
        r.lanes,
        r.gbps,
        r.iters,
        r.total_us.p50,
        r.total_us.p99,
        r.post_us,
        r.post_p99_us,
        r.prep_us,
        out::verdict(r.verified)
    ))
}
