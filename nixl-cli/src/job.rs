//! A transfer job between two processes: what it moves, and how the two sides talk about it.
//!
//! The *target* holds one region and answers orders; the *initiator* transfers and gives them.
//! Orders and answers are notifications of the library itself, so one host and two hosts work the
//! same way.

use std::time::Duration;

use nixl::{Agent, DescList, MemKind, Region, Result, Run};
use serde::{Deserialize, Serialize};

use crate::{layout::Layout, pattern::Blocks};

/// Patience with the other process: filling and checking gigabytes takes a while.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which memory a side uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Memory {
    /// Allocated by the agent: peers on the host can map it.
    Owned,
    /// Any buffer of the caller's.
    Caller,
}

impl std::str::FromStr for Memory {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        match s {
            "owned" => Ok(Self::Owned),
            "caller" => Ok(Self::Caller),
            s if s == "vram" || s.starts_with("vram:") => {
                Err("GPU memory needs the CUDA backend, which this build does not have".to_owned())
            }
            _ => Err("one of owned, caller, vram[:N]".to_owned()),
        }
    }
}

impl Memory {
    /// Its name in reports.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Owned => "owned",
            Self::Caller => "caller",
        }
    }

    fn allocate(self, agent: &Agent, len: u64) -> Result<Region> {
        match self {
            Self::Owned => agent.allocate(len),
            Self::Caller => agent.register_buffer(vec![0; len as usize]),
        }
    }
}

/// What is moved; equal on both sides but for the seed of the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Blocks.
    pub(crate) count: u64,
    /// Bytes in each.
    pub(crate) block: u64,
    /// How they lie.
    pub(crate) layout: String,
    /// In which memory.
    pub(crate) memory: Memory,
    /// Decides both sides' orders.
    pub(crate) seed: u64,
}

impl Job {
    /// The layout by its name.
    pub(crate) fn layout(&self) -> Layout {
        // The name came from `Layout::as_str`, or from a peer: unknown ones mean no merging.
        self.layout.parse().unwrap_or(Layout::Random)
    }

    /// Bytes in all blocks.
    pub(crate) fn bytes(&self) -> u64 {
        self.count * self.block
    }
}

/// One side's memory and block order.
pub(crate) struct Side {
    /// The memory.
    pub(crate) region: Region,
    slots: Vec<u64>,
    block: u64,
}

impl Side {
    /// Allocates memory for `job`; `salt` makes the two sides' orders differ.
    pub(crate) fn new(agent: &Agent, job: &Job, salt: u64) -> Result<Self> {
        let layout = job.layout();
        let region = job
            .memory
            .allocate(agent, layout.slots(job.count) * job.block)?;
        Ok(Self {
            region,
            slots: layout.order(job.count, job.seed.wrapping_mul(31).wrapping_add(salt)),
            block: job.block,
        })
    }

    /// The blocks' bytes.
    pub(crate) fn blocks(&self) -> Blocks<'_> {
        Blocks {
            region: &self.region,
            slots: &self.slots,
            block_bytes: self.block,
            base: 0,
        }
    }

    /// Descriptors of the blocks, in block order, for memory that begins at `base`.
    fn descriptors(&self, base: u64) -> DescList {
        let mut list = DescList::new(MemKind::Dram);
        list.extend(
            self.slots
                .iter()
                .map(|slot| Run::single(base + slot * self.block, self.block, 0)),
        );
        list
    }

    /// Descriptors of this side's blocks.
    pub(crate) fn here(&self) -> DescList {
        self.descriptors(self.region.addr())
    }
}

/// Salt of the target's order.
pub(crate) const TARGET: u64 = 1;
/// Salt of the initiator's order.
pub(crate) const INITIATOR: u64 = 2;

/// Descriptors of the target's blocks, computed by the initiator.
pub(crate) fn remote_descriptors(job: &Job, base: u64) -> DescList {
    let slots = job
        .layout()
        .order(job.count, job.seed.wrapping_mul(31).wrapping_add(TARGET));
    let mut list = DescList::new(MemKind::Dram);
    list.extend(
        slots
            .iter()
            .map(|slot| Run::single(base + slot * job.block, job.block, 0)),
    );
    list
}

/// What the initiator wants of the target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Allocate memory for a job.
    Prepare(Job),
    /// Write every block's pattern under this seed.
    Fill(u64),
    /// Overwrite every block.
    Poison,
    /// Compare every byte with the pattern under this seed.
    Check(u64),
    /// End.
    Stop,
}

/// What the target says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Done, and for a check: all bytes are right.
    Good,
    /// The job's memory begins at this address; the metadata (in hexadecimal) names it.
    Ready {
        /// First address.
        base: u64,
        /// The target's new metadata.
        metadata: String,
    },
    /// The first block with a wrong byte.
    WrongBlock(u64),
    /// An error.
    Failed(String),
}

/// Serves one initiator until it says stop.
pub(crate) fn serve(agent: &Agent) -> Result<()> {
    let mut side = None;
    loop {
        let Some(order) = agent.wait_notification(PATIENCE) else {
            return Err(gone("no order came from the initiator"));
        };
        let from = order.from.to_string();
        let answer = match serde_json::from_slice(&order.data) {
            Ok(Order::Stop) => return Ok(()),
            Ok(order) => {
                obey(agent, &order, &mut side).unwrap_or_else(|e| Answer::Failed(e.to_string()))
            }
            Err(e) => Answer::Failed(format!("not an order: {e}")),
        };
        agent.notify(&from, json(&answer).as_bytes())?;
    }
}

fn obey(agent: &Agent, order: &Order, side: &mut Option<Side>) -> Result<Answer> {
    if let Order::Prepare(job) = order {
        let new = side.insert(Side::new(agent, job, TARGET)?);
        return Ok(Answer::Ready {
            base: new.region.addr(),
            metadata: hex(&agent.metadata()?),
        });
    }
    let blocks = side
        .as_ref()
        .ok_or_else(|| gone("no job was prepared"))?
        .blocks();
    let wrong = match order {
        Order::Fill(seed) => blocks.fill(*seed).map(|()| None),
        Order::Poison => blocks.poison().map(|()| None),
        Order::Check(seed) => blocks.check(*seed),
        Order::Prepare(_) | Order::Stop => Ok(None),
    }?;
    Ok(wrong.map_or(Answer::Good, Answer::WrongBlock))
}

/// Makes the target allocate memory for `job` and learns about it; returns its first address.
pub(crate) fn prepare(agent: &Agent, target: &str, job: &Job) -> Result<u64> {
    match order(agent, target, &Order::Prepare(job.clone()))? {
        Answer::Ready { base, metadata } => {
            agent.load_metadata(&unhex(&metadata)?)?;
            Ok(base)
        }
        Answer::Failed(why) => Err(gone(&format!("the target cannot prepare: {why}"))),
        other => Err(gone(&format!("the target answered {other:?}"))),
    }
}

/// Gives an order and waits for the answer.
pub(crate) fn order(agent: &Agent, target: &str, order: &Order) -> Result<Answer> {
    agent.notify(target, json(order).as_bytes())?;
    let answer = agent
        .wait_notification(PATIENCE)
        .ok_or_else(|| gone("the target does not answer"))?;
    serde_json::from_slice(&answer.data)
        .map_err(|e| gone(&format!("the target's answer does not parse: {e}")))
}

/// Tells the target to end; it may be gone already.
pub(crate) fn stop(agent: &Agent, target: &str) {
    let _ = agent.notify(target, json(&Order::Stop).as_bytes());
}

fn json(value: &impl Serialize) -> String {
    // Plain enums of numbers and strings always serialise.
    serde_json::to_string(value).unwrap_or_default()
}

fn gone(what: &str) -> nixl::Error {
    nixl::Error::new(nixl::ErrorKind::PeerGone, what.to_owned())
}

/// Bytes as text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Text from [`hex`] as bytes.
pub(crate) fn unhex(text: &str) -> Result<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8);
    let pair = |p: &[u8]| Some((digit(p[0])? << 4) | digit(p[1])?);
    text.as_bytes()
        .chunks_exact(2)
        .map(pair)
        .collect::<Option<_>>()
        .ok_or_else(|| nixl::Error::new(nixl::ErrorKind::Malformed, "metadata is not hexadecimal"))
}
