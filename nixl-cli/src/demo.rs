//! `nixl demo`: a model's KV cache from a prefill process to a decode process, block by block.

use std::{io::IsTerminal, path::PathBuf, time::Duration};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use nixl::{Error, ErrorKind, Op, Receipt, Result};
use serde::Serialize;

use crate::{
    backend::BackendChoice,
    child::TargetProcess,
    guide,
    job::{Job, Memory},
    layout::Layout,
    measure::{Rig, Times},
    model::{KvShape, MAX_LAYERS, MAX_TOKEN_BYTES},
    out::{self, size},
    talk::Target,
};

/// Move a model's KV cache between two processes here, and check every byte.
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// Model: llama3.1-8b, llama3.1-70b, qwen3-8b or deepseek-v3
    #[arg(long, default_value = "llama3.1-8b")]
    model: KvShape,
    /// Take the shape from a Hugging Face config.json
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "layers"])]
    config: Option<PathBuf>,
    /// Layers of a custom shape
    #[arg(long, requires = "token_bytes", conflicts_with = "model",
          value_parser = clap::value_parser!(u64).range(1..=MAX_LAYERS))]
    layers: Option<u64>,
    /// Tensors per layer of a custom shape: 2 (keys, values) or 1 (MLA)
    #[arg(long, requires = "layers", default_value_t = 2,
          value_parser = clap::value_parser!(u64).range(1..=2))]
    tensors: u64,
    /// Bytes of one token in one tensor of a custom shape
    #[arg(long, requires = "layers",
          value_parser = clap::value_parser!(u64).range(1..=MAX_TOKEN_BYTES))]
    token_bytes: Option<u64>,
    /// Tokens in the prompt
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    tokens: u64,
    /// Tokens in a page
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=4096))]
    block_tokens: u64,
    /// Backend or path to use: auto, ipc, shm, cma, tcp or ucx
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
    path: &'static str,
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
        layout: Layout::Random,
        memory: Memory::Owned,
        seed: 0x6b76,
    };
    job.check(2)?;
    let progress = Steps { quiet: args.json };
    progress.say(&format!(
        "{}: {} tokens, {} blocks of {}, {} in all",
        shape.model,
        args.tokens,
        job.count,
        size(job.block),
        size(job.bytes())
    ));
    let config = args.backend.config()?;
    let agent = config.agent(DECODE)?.build()?;
    progress.say("starting the prefill process");
    let prefill = TargetProcess::start(PREFILL, &config, &agent)?;
    agent.load_metadata(&prefill.metadata)?;
    let target = Target {
        agent: &agent,
        name: PREFILL,
    };
    let moved = pull(target, &job, &progress);
    target.stop();
    let moved = moved?;
    let seconds = moved.median.as_secs_f64();
    let report = Report {
        model: shape.model,
        tokens: args.tokens,
        blocks: job.count,
        block_bytes: job.block,
        bytes: job.bytes(),
        path: moved.receipt.path,
        gbps: job.bytes() as f64 / seconds / 1e9,
        seconds,
        ttft_overhead_ms: seconds * 1e3,
        verified: moved.wrong.is_none(),
    };
    if args.json {
        out::json(&report)?;
    } else {
        out::line(&text(&report, &moved))?;
    }
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
fn pull(target: Target<'_>, job: &Job, progress: &Steps) -> Result<Moved> {
    let rig = Rig::new(target, job, Op::Read)?;
    progress.say("prefill writes its cache");
    rig.fill(1)?;
    progress.say("decode pulls it, block by block in random order");
    let bar = progress.bar(job.bytes());
    let first = rig.transfer_watched(|request| bar.set_position(request.moved()))?;
    bar.finish_and_clear();
    progress.say("decode checks every byte");
    let wrong = rig.check(1)?;
    progress.say(&format!("{ITERS} more transfers, timed"));
    rig.fill(2)?;
    let mut times = (0..ITERS)
        .map(|_| rig.transfer().map(|s| s.total))
        .collect::<Result<Times>>()?;
    progress.say("decode checks every byte again");
    Ok(Moved {
        first,
        median: times.percentile(50),
        receipt: rig.receipt()?,
        wrong: wrong.or(rig.check(2)?),
    })
}

fn shape(args: &DemoArgs) -> Result<KvShape> {
    if let Some(file) = &args.config {
        let bad = |e: &dyn std::fmt::Display| {
            Error::new(ErrorKind::ApiMisuse, format!("{}: {e}", file.display()))
        };
        let json = std::fs::read_to_string(file).map_err(|e| bad(&e))?;
        return KvShape::from_config(&json).map_err(|e| bad(&e));
    }
    Ok(match (args.layers, args.token_bytes) {
        (Some(layers), Some(token_bytes)) => KvShape {
            model: "custom".to_owned(),
            layers,
            tensors: args.tensors,
            token_bytes,
        },
        _ => args.model.clone(),
    })
}

fn text(r: &Report, moved: &Moved) -> String {
    let ms = |d: Duration| format!("{:.1} ms", d.as_secs_f64() * 1e3);
    let wrong = moved
        .wrong
        .map_or_else(String::new, |block| format!(", first in block {block}"));
    format!(
        "
  model         {}, {} tokens
  moved         {} in {} blocks of {} ({} after merging)
  path          {} ({})
  bandwidth     {:.2} GB/s (median of {ITERS})
  added to TTFT {} (the very first transfer: {})
  the guide     {}
  checked       {}{wrong}",
        r.model,
        r.tokens,
        size(r.bytes),
        r.blocks,
        size(r.block_bytes),
        moved.receipt.merged,
        r.path,
        moved.receipt.lanes,
        r.gbps,
        ms(moved.median),
        ms(moved.first),
        guide::figure(r.path),
        out::verdict(r.verified),
    )
}

/// What goes on meanwhile, on standard error; silent with `--json`.
struct Steps {
    quiet: bool,
}

impl Steps {
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
