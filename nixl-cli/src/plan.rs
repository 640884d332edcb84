//! `nixl plan`: which path a transfer would take, and why not the others.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use nixl::{
    Agent, MemKind, Op, Result,
    negotiate::{Demand, Negotiation},
};
use serde::Serialize;

use crate::{backend::BackendChoice, child::Target, remote};

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
    #[arg(long, default_value_t = 16_000)]
    count: u64,
    /// Bytes in a block
    #[arg(long, default_value_t = 32 << 10)]
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
    code: Option<&'static str>,
    reason: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &PlanArgs) -> Result<()> {
    let config = BackendChoice::Auto.config()?;
    let agent = config.agent("plan")?.build()?;
    let (_child, peer) = match &args.addr {
        Some(addr) => (
            None,
            remote::connect(&agent, addr, args.secret_file.as_deref())?,
        ),
        None => {
            let child = Target::start("plan-peer", &config, &agent)?;
            let name = agent.load_metadata(&child.metadata)?;
            (Some(child), name)
        }
    };
    // Unreachable backends show in the table, each with its reason.
    let _ = agent.connect(&peer, Duration::from_secs(5));
    for (op, shareable) in [
        (Op::Read, true),
        (Op::Read, false),
        (Op::Write, true),
        (Op::Write, false),
    ] {
        let demand = Demand {
            op,
            local: MemKind::Dram,
            remote: MemKind::Dram,
            all_remote_shareable: shareable,
            descs: args.count,
            bytes: args.count.saturating_mul(args.block),
        };
        agent.prove(&peer, op, Duration::from_secs(2))?;
        let found = agent.explain(&peer, &demand)?;
        print(&agent, &peer, &demand, &found, args.json);
    }
    Ok(())
}

fn print(agent: &Agent, peer: &str, demand: &Demand, found: &Negotiation, json: bool) {
    let memory = if demand.all_remote_shareable {
        "owned"
    } else {
        "caller"
    };
    if !json {
        println!(
            "{} {} {peer}, {} blocks, {} bytes, {memory} memory",
            agent.name(),
            if demand.op == Op::Read {
                "reads from"
            } else {
                "writes to"
            },
            demand.descs,
            demand.bytes
        );
        println!("{found}");
        return;
    }
    for row in found.rows() {
        let line = Line {
            peer,
            op: demand.op.as_str(),
            memory,
            path: row.path,
            class: row.class.as_str(),
            rank: row.rank,
            estimate_us: row.estimate_ns.map(|ns| ns as f64 / 1e3),
            measured: row.measured,
            proven: row.proven,
            code: row.code,
            reason: row.reason,
        };
        // Strings and numbers always serialise.
        println!("{}", serde_json::to_string(&line).unwrap_or_default());
    }
}
