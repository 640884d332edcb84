//! `nixl demo`: a model's KV cache from a prefill process to a decode process, block by block.

use std::{io::IsTerminal, path::PathBuf, time::Duration};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use nixl::{Error, ErrorKind, Op, Receipt, Result};
use serde::Serialize;

use crate::{
    backend::BackendChoice,
    child::Target,
    guide,
    job::{self, Job, Memory},
    measure::{Rig, Times},
    model::KvShape,
};

/// Move a model's KV cache between two processes here, and check every byte.
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// Model: llama3.1-8b, llama3.1-70b, qwen3-8b or deepseek-v3
    #[arg(long, default_value = "llama3.1-8b")]
    model: String,
    /// Take the shape from a Hugging Face config.json
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Layers of a custom shape
    #[arg(long, requires = "token_bytes", value_parser = clap::value_parser!(u64).range(1..=1000))]
    layers: Option<u64>,
    /// Tensors per layer of a custom shape: 2 (keys, values) or 1 (MLA)
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=2))]
    tensors: u64,
    /// Bytes of one token in one tensor of a custom shape
    #[arg(long, requires = "layers", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    token_bytes: Option<u64>,
    /// Tokens in the prompt
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    tokens: u64,
    /// Tokens in a page
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=4096))]
    block_tokens: u64,
    /// Paths to allow: auto, ipc, shm, cma, tcp or ucx
    #[arg(long, default_value = "auto")]
    backend: BackendChoice,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// The JSON object, keys as the design fixes them.
#[derive(Serialize)]
struct Report {
    model: String,
    tokens: u64,
    blocks: u64,
    block_bytes: u64,
    bytes: u64,
    path: String,
    gbps: f64,
    seconds: f64,
    ttft_overhead_ms: f64,
    verified: bool,
}

/// Timed transfers after the first.
const ITERS: usize = 5;
const PREFILL: &str = "prefill";
const DECODE: &str = "decode";

/// Runs the demo; false if a byte was wrong.
pub(crate) fn run(args: &DemoArgs) -> Result<bool> {
    let shape = shape(args)?;
    let job = Job {
        count: shape.blocks(args.tokens, args.block_tokens),
        block: shape.block_bytes(args.block_tokens),
        layout: "random".to_owned(),
        memory: Memory::Owned,
        seed: 0x6b76,
    };
    let progress = Steps::new(args.json);
    progress.say(&format!(
        "{}: {} tokens, {} blocks of {} in random order, {} in all",
        shape.model,
        args.tokens,
        job.count,
        size(job.block),
        size(job.bytes())
    ));
    let config = args.backend.config()?;
    let agent = config.agent(DECODE)?.build()?;
    progress.say("starting the prefill process");
    let prefill = Target::start(PREFILL, &config, &agent)?;
    agent.load_metadata(&prefill.metadata)?;
    let rig = Rig::new(&agent, PREFILL, &job, Op::Read)?;
    let moved = pull(&rig, &job, &progress);
    job::stop(&agent, PREFILL);
    let moved = moved?;
    let report = Report {
        model: shape.model,
        tokens: args.tokens,
        blocks: job.count,
        block_bytes: job.block,
        bytes: job.bytes(),
        path: moved.receipt.path.to_owned(),
        gbps: job.bytes() as f64 / moved.median.as_secs_f64() / 1e9,
        seconds: moved.median.as_secs_f64(),
        ttft_overhead_ms: moved.median.as_secs_f64() * 1e3,
        verified: moved.wrong.is_none(),
    };
    print(&report, &moved, args.json);
    agent.shutdown(Duration::from_secs(2))?;
    Ok(report.verified)
}

struct Moved {
    first: Duration,
    median: Duration,
    receipt: Receipt,
    wrong: Option<u64>,
}

/// First a transfer as a decode worker would see it, then some to time; all bytes checked after
/// the first and after the last.
fn pull(rig: &Rig<'_>, job: &Job, progress: &Steps) -> Result<Moved> {
    progress.say("prefill writes its cache");
    rig.fill(1)?;
    let bar = progress.bar(job.bytes());
    let first = rig.transfer_watched(|request| bar.set_position(request.moved()))?;
    bar.finish_and_clear();
    progress.say("decode checks every byte");
    let mut wrong = rig.check(1)?;
    progress.say(&format!("timing {ITERS} more transfers"));
    rig.fill(2)?;
    let mut times = (0..ITERS)
        .map(|_| rig.transfer().map(|s| s.total))
        .collect::<Result<Times>>()?;
    progress.say("decode checks every byte again");
    wrong = wrong.or(rig.check(2)?);
    let receipt = rig
        .receipt()
        .ok_or_else(|| Error::new(ErrorKind::Backend, "the transfer left no receipt"))?;
    Ok(Moved {
        first: first.total,
        median: times.percentile(50),
        receipt,
        wrong,
    })
}

fn shape(args: &DemoArgs) -> Result<KvShape> {
    let bad = |text: String| Error::new(ErrorKind::ApiMisuse, text);
    if let Some(file) = &args.config {
        let json =
            std::fs::read_to_string(file).map_err(|e| bad(format!("{}: {e}", file.display())))?;
        return KvShape::from_config(&json).map_err(|e| bad(format!("{}: {e}", file.display())));
    }
    if let (Some(layers), Some(token_bytes)) = (args.layers, args.token_bytes) {
        return Ok(KvShape {
            model: "custom".to_owned(),
            layers,
            tensors: args.tensors,
            token_bytes,
        });
    }
    KvShape::named(&args.model).ok_or_else(|| {
        bad(format!(
            "unknown model {:?}; known: {}; or give --config, or --layers and --token-bytes",
            args.model,
            KvShape::names().join(", ")
        ))
    })
}

fn print(r: &Report, moved: &Moved, json: bool) {
    if json {
        // Strings and numbers always serialise.
        println!("{}", serde_json::to_string(r).unwrap_or_default());
        return;
    }
    let ms = |d: Duration| format!("{:.1} ms", d.as_secs_f64() * 1e3);
    let merged = moved.receipt.merged;
    println!();
    println!("  model         {}, {} tokens", r.model, r.tokens);
    println!(
        "  moved         {} in {} blocks of {} ({merged} after merging)",
        size(r.bytes),
        r.blocks,
        size(r.block_bytes)
    );
    println!("  path          {} ({})", r.path, moved.receipt.lanes);
    println!("  bandwidth     {:.2} GB/s (median of {ITERS})", r.gbps);
    println!(
        "  added to TTFT {} (the very first transfer: {})",
        ms(moved.median),
        ms(moved.first)
    );
    println!("  the guide     {}", guide::figure(&r.path));
    match moved.wrong {
        None => println!("  checked       every byte is right"),
        Some(block) => println!("  checked       WRONG BYTES, first in block {block}"),
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("KiB", 1024)];
    let unit = UNITS.iter().find(|(_, one)| bytes >= *one);
    match unit {
        Some((name, one)) if bytes.is_multiple_of(*one) => format!("{} {name}", bytes / one),
        Some((name, one)) => format!("{:.1} {name}", bytes as f64 / *one as f64),
        None => format!("{bytes} B"),
    }
}

/// What goes on meanwhile, on standard error; silent with `--json`.
struct Steps {
    quiet: bool,
}

impl Steps {
    fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    fn bar(&self, bytes: u64) -> ProgressBar {
        if self.quiet || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec}";
        let bar = ProgressBar::new(bytes);
        // The template is constant; a bar without it still shows progress.
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar
    }
}
