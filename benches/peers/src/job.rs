//! What to measure: the command line, the same for both processes.

use std::fmt::Display;
use std::str::FromStr;

/// The plain program to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Copies between shared mappings of two memfds.
    Memcpy,
    /// `process_vm_readv` and `process_vm_writev`, up to 1024 blocks a call.
    Cma,
    /// TCP over loopback, straight from and into the scattered blocks.
    Rawsock,
}

/// Which way the blocks go, as seen by the process that measures.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Read,
    Write,
}

/// Which blocks of a region are moved, and in which order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// All blocks in order: a plain program merges them.
    Adjacent,
    /// Every other block, in order.
    Strided,
    /// All blocks in random order, on either side its own, neighbours never in sequence.
    Random,
}

/// A measurement. Sizes are in bytes.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) peer: Peer,
    pub(crate) op: Op,
    pub(crate) block: usize,
    pub(crate) count: usize,
    pub(crate) layout: Layout,
    /// Copy threads, or TCP streams with a thread each.
    pub(crate) threads: usize,
    pub(crate) warmup: usize,
    pub(crate) iters: usize,
    pub(crate) seed: u64,
    /// Bytes of other memory to read before each pass, so that it starts with cold caches.
    pub(crate) evict: usize,
    /// Flip a byte of what arrived before it is checked: the result must not be verified.
    pub(crate) corrupt: bool,
    /// Whether this process is the one that only holds memory and answers.
    pub(crate) target: bool,
}

pub(crate) const USAGE: &str = "\
limit --peer memcpy|cma|rawsock [--op read|write] [--block BYTES] [--count N]
      [--layout adjacent|strided|random] [--threads N] [--warmup N] [--iters N]
      [--evict BYTES] [--seed N] [--corrupt]";

impl Job {
    /// Reads a command line without the program's name.
    pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Job, String> {
        let mut peer = None;
        let mut job = Job {
            peer: Peer::Memcpy,
            op: Op::Read,
            block: 32 << 10,
            count: 1000,
            layout: Layout::Random,
            threads: 1,
            warmup: 1,
            iters: 5,
            seed: 1,
            evict: 0,
            corrupt: false,
            target: false,
        };
        let mut args = args.into_iter();
        while let Some(flag) = args.next() {
            let mut value = || args.next().ok_or(format!("{flag} needs a value"));
            match flag.as_str() {
                "--peer" => peer = Some(choose(&value()?, &PEERS)?),
                "--op" => job.op = choose(&value()?, &OPS)?,
                "--block" => job.block = number(&value()?)?,
                "--count" => job.count = number(&value()?)?,
                "--layout" => job.layout = choose(&value()?, &LAYOUTS)?,
                "--threads" => job.threads = number(&value()?)?,
                "--warmup" => job.warmup = number(&value()?)?,
                "--iters" => job.iters = number(&value()?)?,
                "--seed" => job.seed = number(&value()?)?,
                "--evict" => job.evict = number(&value()?)?,
                "--corrupt" => job.corrupt = true,
                "--target" => job.target = true,
                _ => return Err(format!("unknown flag {flag}")),
            }
        }
        job.peer = peer.ok_or("--peer is missing")?;
        if [job.block, job.count, job.threads, job.iters].contains(&0) {
            return Err("block, count, threads and iters start at 1".to_owned());
        }
        job.bytes()
            .checked_mul(2)
            .ok_or("block times count is too large")?;
        Ok(job)
    }

    /// Bytes moved in one pass.
    pub(crate) fn bytes(&self) -> usize {
        self.block.saturating_mul(self.count)
    }

    /// Bytes of the region on either side.
    pub(crate) fn region(&self) -> usize {
        match self.layout {
            Layout::Strided => 2 * self.bytes(),
            Layout::Adjacent | Layout::Random => self.bytes(),
        }
    }

    /// Whether this process holds the blocks that are sent, not those that arrive.
    pub(crate) fn is_source(&self) -> bool {
        (self.op == Op::Read) == self.target
    }

    /// Names for the report: peer, operation, layout.
    pub(crate) fn names(&self) -> (&'static str, &'static str, &'static str) {
        (
            name(self.peer, &PEERS),
            name(self.op, &OPS),
            name(self.layout, &LAYOUTS),
        )
    }
}

const PEERS: [(&str, Peer); 3] = [
    ("memcpy", Peer::Memcpy),
    ("cma", Peer::Cma),
    ("rawsock", Peer::Rawsock),
];
const OPS: [(&str, Op); 2] = [("read", Op::Read), ("write", Op::Write)];
const LAYOUTS: [(&str, Layout); 3] = [
    ("adjacent", Layout::Adjacent),
    ("strided", Layout::Strided),
    ("random", Layout::Random),
];

fn choose<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| *name == text);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| format!("{text} is not one of the choices"))
}

fn name<T: Copy + PartialEq>(value: T, choices: &[(&'static str, T)]) -> &'static str {
    let found = choices.iter().find(|(_, choice)| *choice == value);
    found.map_or("?", |(name, _)| name)
}

fn number<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e| format!("{text}: {e}"))
}
