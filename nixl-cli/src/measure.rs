//! The initiator's side of a job: transfer, time, check.

use std::time::{Duration, Instant};

use nixl::{Agent, Op, PreparedLocal, PreparedRemote, Receipt, Request, Result, Select};

use crate::job::{Answer, INITIATOR, Job, Order, Side, order, prepare, remote_descriptors};

/// Longest time of one transfer.
const LIMIT: Duration = Duration::from_secs(120);

/// A request between this process and a target, ready to be posted.
pub(crate) struct Rig<'a> {
    agent: &'a Agent,
    target: &'a str,
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
    pub(crate) fn new(agent: &'a Agent, target: &'a str, job: &Job, op: Op) -> Result<Self> {
        let side = Side::new(agent, job, INITIATOR)?;
        agent.connect(target, Duration::from_secs(10))?;
        let base = prepare(agent, target, job)?;
        let (here, there) = (side.here(), remote_descriptors(job, base));
        let begun = Instant::now();
        let local: PreparedLocal = agent.prepare_local(&here)?;
        let remote: PreparedRemote = agent.prepare_remote(target, &there)?;
        let request = agent.request(op, &local, Select::All, &remote, Select::All)?;
        let prepare = begun.elapsed();
        Ok(Self {
            agent,
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
                self.ask(&Order::Fill(seed))
            }
            Op::Write => {
                blocks.fill(seed)?;
                self.ask(&Order::Poison)
            }
        }
    }

    /// Whether every byte of the destination is right; else the first wrong block.
    pub(crate) fn check(&self, seed: u64) -> Result<Option<u64>> {
        match self.op {
            Op::Read => self.side.blocks().check(seed),
            Op::Write => match order(self.agent, self.target, &Order::Check(seed))? {
                Answer::Good => Ok(None),
                Answer::WrongBlock(block) => Ok(Some(block)),
                Answer::Failed(why) => Err(target_failed(why)),
                other @ Answer::Ready { .. } => {
                    Err(target_failed(format!("it answered {other:?}")))
                }
            },
        }
    }

    fn ask(&self, what: &Order) -> Result<()> {
        match order(self.agent, self.target, what)? {
            Answer::Good => Ok(()),
            Answer::Failed(why) => Err(target_failed(why)),
            other => Err(target_failed(format!("it answered {other:?}"))),
        }
    }

    /// One transfer, timed.
    pub(crate) fn transfer(&self) -> Result<Sample> {
        let begun = Instant::now();
        self.request.post()?;
        let post = begun.elapsed();
        self.request.wait(LIMIT)?;
        Ok(Sample {
            post,
            total: begun.elapsed(),
        })
    }

    /// Starts a transfer and lets `watch` look at it until it ends.
    pub(crate) fn transfer_watched(&self, mut watch: impl FnMut(&Request)) -> Result<Sample> {
        let begun = Instant::now();
        self.request.post()?;
        let post = begun.elapsed();
        while let Err(e) = self.request.wait(Duration::from_millis(20)) {
            if !matches!(
                self.request.status(),
                nixl::Status::Active | nixl::Status::Stalled
            ) {
                return Err(e);
            }
            watch(&self.request);
        }
        Ok(Sample {
            post,
            total: begun.elapsed(),
        })
    }

    /// The account of the last transfer.
    pub(crate) fn receipt(&self) -> Option<Receipt> {
        self.request.receipt()
    }
}

fn target_failed(why: String) -> nixl::Error {
    nixl::Error::new(
        nixl::ErrorKind::PeerMisbehaved,
        format!("the target: {why}"),
    )
}
