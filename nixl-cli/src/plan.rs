//! `nixl plan`: which path a transfer would take, and why not the others.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use nixl::{
    Agent, MemKind, Op, Result,
    negotiate::{Demand, Negotiation},
};
use serde::Serialize;

use crate::{backend::BackendChoice, child::TargetProcess, out, remote};

/// Print the negotiation table for a peer.
#[derive(Args, Clone, Debug)]
#[command(group(clap::ArgGroup::new("peer").required(true)))]
pub(crate) struct PlanArgs {
    /// Metadata listener of the peer: host:port
    #[arg(value_name = "ADDR", group = "peer")]
    addr: Option<String>,
    /// Plan between two processes here
    #[arg(long = "self", group = "peer")]
    own: bool,
    /// File with the secret that both hosts share
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Blocks of the transfer to plan for
    #[arg(long, default_value_t = 16_000, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Bytes in a block
    #[arg(long, default_value_t = 32 << 10, value_parser = clap::value_parser!(u64).range(1..))]
    block: u64,
    /// One JSON object a line on standard output
    #[arg(long)]
    json: bool,
}

/// One line of JSON: a path in one direction.
#[derive(Serialize)]
struct Line<'a> {
    peer: &'a str,
    op: &'static str,
    memory: &'static str,
    path: &'static str,
    class: &'static str,
    rank: Option<usize>,
    estimate_us: Option<f64>,
    measured: bool,
    proven: bool,
    flipped: bool,
    foreign: bool,
    code: Option<&'static str>,
    reason: Option<String>,
}

/// Longest time to connect over some backend, and then to prove all paths in one direction.
const CONNECT: Duration = Duration::from_secs(5);
const PROVE: Duration = Duration::from_secs(3);

/// Runs the command.
pub(crate) fn run(args: &PlanArgs) -> Result<()> {
    let config = BackendChoice::Auto.config()?;
    let agent = config.agent("plan")?.build()?;
    let (_process, peer) = match &args.addr {
        Some(addr) => (
            None,
            remote::connect(&agent, addr, args.secret_file.as_deref())?,
        ),
        None => {
            let process = TargetProcess::start("plan-peer", &config, &agent)?;
            let name = agent.load_metadata(&process.metadata)?;
            (Some(process), name)
        }
    };
    // Unreachable backends show in the table, each with its reason.
    let _ = agent.connect(&peer, CONNECT);
    for op in [Op::Read, Op::Write] {
        prove(&agent, &peer, args, op)?;
        for shareable in [true, false] {
            let demand = args.demand(op, shareable);
            let found = agent.explain(&peer, &demand)?;
            if args.json {
                print_json(&peer, &demand, &found)?;
            } else {
                print_table(&agent, &peer, &demand, &found)?;
            }
        }
    }
    agent.shutdown(CONNECT)
}

/// Probes until every path that is left is proven; those that need longer show as they stand.
fn prove(agent: &Agent, peer: &str, args: &PlanArgs, op: Op) -> Result<()> {
    let begun = Instant::now();
    let mut open = true;
    while open && begun.elapsed() < PROVE {
        agent.prove(peer, op, PROVE)?;
        let rows = agent.explain(peer, &args.demand(op, true))?.rows();
        open = rows
            .iter()
            .any(|r| r.rank.is_some() && !r.proven && !r.flipped);
        if open {
            agent.progress(Duration::from_millis(10));
        }
    }
    Ok(())
}

impl PlanArgs {
    fn demand(&self, op: Op, all_remote_shareable: bool) -> Demand {
        Demand {
            op,
            local: MemKind::Dram,
            remote: MemKind::Dram,
            all_remote_shareable,
            descs: self.count,
            bytes: self.count.saturating_mul(self.block),
        }
    }
}

/// What the peer's memory is called in `nixl bench --memory`.
fn memory(demand: &Demand) -> &'static str {
    if demand.all_remote_shareable {
        "owned"
    } else {
        "caller"
    }
}

fn print_table(agent: &Agent, peer: &str, demand: &Demand, found: &Negotiation) -> Result<()> {
    let verb = match demand.op {
        Op::Read => "reads from",
        Op::Write => "writes to",
    };
    out::line(&format!(
        "{} {verb} {peer}: {} blocks, {}, {} memory\n{found}",
        agent.name(),
        demand.descs,
        out::size(demand.bytes),
        memory(demand)
    ))
}

fn print_json(peer: &str, demand: &Demand, found: &Negotiation) -> Result<()> {
    for row in found.rows() {
        let line = Line {
            peer,
            op: demand.op.as_str(),
            memory: memory(demand),
            path: row.path,
            class: row.class.as_str(),
            rank: row.rank,
            estimate_us: row.estimate_ns.map(|ns| ns as f64 / 1e3),
            measured: row.measured,
            proven: row.proven,
            flipped: row.flipped,
            foreign: row.foreign,
            code: row.code,
            reason: row.reason,
        };
        out::json(&line)?;
    }
    Ok(())
}
