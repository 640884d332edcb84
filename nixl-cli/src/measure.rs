//! The initiator's side of a job: transfer, time, check.

use std::time::{Duration, Instant};

use nixl::{Error, ErrorKind, Op, Receipt, Request, Result, Select, Status};

use crate::{
    job::{Job, Role, Side, target_descriptors},
    talk::{Order, Target},
};

/// How often a watched transfer is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Longest time to reach the target.
const CONNECT: Duration = Duration::from_secs(10);

/// A request between this process and a target, ready to be posted.
pub(crate) struct Rig<'a> {
    target: Target<'a>,
    op: Op,
    side: Side,
    request: Request,
    /// Time that resolving the lists and preparing the request took.
    pub(crate) prepare: Duration,
}

/// What one timed transfer took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Post call.
    pub(crate) post: Duration,
    /// From post to completion, as the caller sees it.
    pub(crate) total: Duration,
}

/// Times of many transfers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// The `p`-th percentile (0 to 100), nearest rank.
    pub(crate) fn percentile(&mut self, p: usize) -> Duration {
        self.0.sort_unstable();
        let rank = (self.0.len() * p).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        Self(times.into_iter().collect())
    }
}

impl<'a> Rig<'a> {
    /// Allocates memory on both sides and prepares the request.
    pub(crate) fn new(target: Target<'a>, job: &Job, op: Op) -> Result<Self> {
        let agent = target.agent;
        let side = Side::new(agent, job, Role::Initiator)?;
        agent.connect(target.name, CONNECT)?;
        let base = target.prepare(job)?;
        let (here, there) = (side.descriptors(), target_descriptors(job, base)?);
        let begun = Instant::now();
        let local = agent.prepare_local(&here)?;
        let remote = agent.prepare_remote(target.name, &there)?;
        let request = agent.request(op, &local, Select::All, &remote, Select::All)?;
        let prepare = begun.elapsed();
        Ok(Self {
            target,
            op,
            side,
            request,
            prepare,
        })
    }

    /// Puts pattern `seed` at the source and other bytes at the destination.
    pub(crate) fn fill(&self, seed: u64) -> Result<()> {
        let blocks = self.side.blocks();
        match self.op {
            Op::Read => {
                blocks.poison()?;
                self.target.order(&Order::Fill(seed))
            }
            Op::Write => {
                blocks.fill(seed)?;
                self.target.order(&Order::Poison)
            }
        }
    }

    /// The destination's first block with a wrong byte.
    pub(crate) fn check(&self, seed: u64) -> Result<Option<u64>> {
        match self.op {
            Op::Read => self.side.blocks().check(seed),
            Op::Write => self.target.check(seed),
        }
    }

    /// One transfer, timed. It ends by the request's deadline.
    pub(crate) fn transfer(&self) -> Result<Sample> {
        let begun = Instant::now();
        self.request.post()?;
        let post = begun.elapsed();
        self.request.wait(Duration::MAX)?;
        Ok(Sample {
            post,
            total: begun.elapsed(),
        })
    }

    /// One transfer that `watch` looks at until it ends; how long it took.
    pub(crate) fn transfer_watched(&self, mut watch: impl FnMut(&Request)) -> Result<Duration> {
        let begun = Instant::now();
        self.request.post()?;
        loop {
            let ended = self.request.wait(LOOK);
            let total = begun.elapsed();
            if !matches!(self.request.status(), Status::Active | Status::Stalled) {
                // It may have ended after the wait gave up.
                return ended.or_else(|_| self.request.wait(LOOK)).map(|()| total);
            }
            watch(&self.request);
        }
    }

    /// The account of the last transfer.
    pub(crate) fn receipt(&self) -> Result<Receipt> {
        let missing = || Error::new(ErrorKind::NotPosted, "no transfer left a receipt");
        self.request.receipt().ok_or_else(missing)
    }
}
