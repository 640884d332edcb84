//! Limit programs: what a plain program reaches with the same bytes, layout and threads.
//!
//! `limit` starts a second process that holds the remote region, moves the blocks `warmup`
//! plus `iters` times, checks every byte that arrived, and prints one JSON line. `gbps` is
//! 10⁹ bytes a second, from the median pass; times are microseconds. Every pass moves the same
//! regions; `--evict` makes it start with cold caches.

mod copy;
mod crew;
mod job;
mod layout;
mod memory;
mod pattern;
mod sock;
mod target;

use std::hint::black_box;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use copy::{Copier, Remote, Share};
use job::{Job, Op, Peer};
use memory::Memory;
use target::Target;

fn main() -> ExitCode {
    let job = match Job::parse(std::env::args().skip(1)) {
        Ok(job) => job,
        Err(message) => {
            eprintln!("limit: {message}\n{}", job::USAGE);
            return ExitCode::from(2);
        }
    };
    let result = if job.target {
        target::serve(&job)
    } else {
        measure(&job)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("limit: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(job: &Job) -> io::Result<()> {
    let mut target = Target::spawn()?;
    let (times, arrived) = match job.peer {
        Peer::Memcpy | Peer::Cma => copy_passes(job, &target)?,
        Peer::Rawsock => stream_passes(job, &target)?,
    };
    let verified = match job.op {
        Op::Read => arrived,
        Op::Write => target.check()?,
    };
    report(job, times, verified);
    Ok(())
}

/// The times of the passes, and for a READ whether the right bytes arrived.
type Passes = (Vec<Duration>, bool);

fn copy_passes(job: &Job, target: &Target) -> io::Result<Passes> {
    let (mut local, remote) = match job.peer {
        Peer::Memcpy => {
            let (local, _) = Memory::shared(job.region())?;
            let remote = Memory::map(target.memfd()?, job.region())?;
            (local, Remote::Mapped(remote))
        }
        Peer::Cma | Peer::Rawsock => {
            let pid = libc::pid_t::try_from(target.pid()).map_err(io::Error::other)?;
            let remote = Remote::Process(pid, target.address());
            (Memory::private(job.region())?, remote)
        }
    };
    pattern::prepare(job, local.bytes());
    let share = Share::new(layout::pieces(job), job.threads);
    let copier = || Copier {
        op: job.op,
        local: &local,
        remote: &remote,
        share: &share,
    };
    let copiers = (0..job.threads).map(|_| copier()).collect();
    let evict = eviction(job);
    let times = crew::run(copiers, job.warmup, job.iters, || {
        share.restart();
        evict();
    })?;
    Ok((times, target::arrived(job, local.bytes())))
}

fn stream_passes(job: &Job, target: &Target) -> io::Result<Passes> {
    let mut local = Memory::private(job.region())?;
    pattern::prepare(job, local.bytes());
    let pieces = layout::pieces(job);
    let sockets = (0..job.threads.min(pieces.len())).map(|_| target.connect());
    let sockets = sockets.collect::<io::Result<_>>()?;
    let (region, sends) = (local.bytes(), job.is_source());
    let streams = sock::streams(sockets, region, &pieces, |piece| piece.local, sends)?;
    let times = crew::run(streams, job.warmup, job.iters, eviction(job))?;
    Ok((times, target::arrived(job, local.bytes())))
}

/// Reads other memory, a byte of every cache line.
fn eviction(job: &Job) -> impl Fn() + use<> {
    let other = vec![1_u8; job.evict];
    move || {
        let bytes = other.iter().step_by(64).map(|&byte| u64::from(byte));
        black_box(bytes.sum::<u64>());
    }
}

fn report(job: &Job, mut times: Vec<Duration>, verified: bool) {
    times.sort_unstable();
    let quantile = |hundredths: usize| {
        let rank = (times.len() * hundredths).div_ceil(100).max(1);
        times[rank - 1].as_secs_f64() * 1e6
    };
    let (p50, p99) = (quantile(50), quantile(99));
    let gbps = job.bytes() as f64 / p50 / 1e3;
    let (peer, op, layout) = job.names();
    let Job {
        block,
        count,
        threads,
        ..
    } = job;
    println!(
        "{{\"peer\":\"limit-{peer}\",\"op\":\"{op}\",\"block\":{block},\"count\":{count},\
         \"layout\":\"{layout}\",\"threads\":{threads},\"gbps\":{gbps:.4},\
         \"total_us\":{{\"p50\":{p50:.3},\"p99\":{p99:.3}}},\"verified\":{verified}}}"
    );
}
