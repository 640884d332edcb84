//! The `nixl` command: demo, bench, plan.

mod backend;
mod bench;
mod child;
mod demo;
mod guide;
mod idle;
mod job;
mod layout;
mod measure;
mod model;
mod out;
mod pattern;
mod plan;
mod remote;
mod talk;

use std::{io::IsTerminal, process::ExitCode};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// KV-cache transfer for disaggregated inference.
#[derive(Parser)]
#[command(name = "nixl", version, max_term_width = 80)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Bench(bench::BenchArgs),
    Plan(plan::PlanArgs),
    #[command(name = child::SUBCOMMAND, hide = true)]
    Target,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("NIXL_RS_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let good = match &cli.command {
        Command::Demo(args) => demo::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Plan(args) => plan::run(args).map(|()| true),
        Command::Target => child::run().map(|()| true),
    };
    match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("error: bytes arrived wrong; please report this with the command you ran");
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
