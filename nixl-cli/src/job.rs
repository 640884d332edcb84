//! A transfer job between two processes: how much it moves, from where to where.

use nixl::{Agent, DescList, Error, ErrorKind, Region, Result};
use serde::{Deserialize, Serialize};

use crate::{layout::Layout, out::size, pattern::Blocks};

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
}

/// What is moved; the same on both sides but for the order of the blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Blocks.
    pub(crate) count: u64,
    /// Bytes in each.
    pub(crate) block: u64,
    /// How they lie.
    pub(crate) layout: Layout,
    /// In which memory.
    pub(crate) memory: Memory,
    /// Decides both sides' orders.
    pub(crate) seed: u64,
}

/// What a side keeps for each block besides its bytes: slot, descriptor, prepared list, plan.
const BOOKKEEPING: u64 = 160;

impl Job {
    /// Bytes in all blocks.
    pub(crate) fn bytes(&self) -> u64 {
        self.count.saturating_mul(self.block)
    }

    /// Bytes of one side's region.
    fn region(&self) -> u64 {
        let slots = self.layout.slots(self.count);
        slots.saturating_mul(self.block)
    }

    /// Whether this machine can hold `sides` sides of the job. Jobs come from other hosts, too.
    ///
    /// Errors: `ApiMisuse` without a block, `Exhausted` with the figures.
    pub(crate) fn check(&self, sides: u64) -> Result<()> {
        if self.block == 0 || !(1..u64::from(u32::MAX)).contains(&self.count) {
            let text = format!("{} blocks of {} bytes are no job", self.count, self.block);
            return Err(Error::new(ErrorKind::ApiMisuse, text));
        }
        let side = self
            .region()
            .saturating_add(self.count.saturating_mul(BOOKKEEPING));
        match free_memory() {
            Some(free) if side.saturating_mul(sides) > free => {
                let text = format!(
                    "{} for each side of the transfer, {sides} of them here, do not fit into the \
                     {} of free memory; take fewer or smaller blocks",
                    size(side),
                    size(free)
                );
                Err(Error::new(ErrorKind::Exhausted, text))
            }
            _ => Ok(()),
        }
    }
}

/// Bytes that can be allocated without swapping (`MemAvailable` of proc_meminfo(5)).
fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Slots begin on a page's first byte, as in the pools of inference engines: a block that lies
/// across pages costs the kernel's copy more.
const PAGE: u64 = 4096;

/// Which side of a job: their blocks lie in different orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Answers.
    Target,
    /// Posts.
    Initiator,
}

impl Role {
    /// Slot of each block.
    fn order(self, job: &Job) -> Vec<u64> {
        let salt = match self {
            Self::Target => 1,
            Self::Initiator => 2,
        };
        let seed = job.seed.wrapping_mul(31).wrapping_add(salt);
        job.layout.order(job.count, seed)
    }
}

/// One side's memory and block order.
pub(crate) struct Side {
    region: Region,
    /// Where the first slot begins in it.
    start: u64,
    slots: Vec<u64>,
    block: u64,
}

impl Side {
    /// Allocates memory for a job that was checked.
    pub(crate) fn new(agent: &Agent, job: &Job, role: Role) -> Result<Self> {
        let len = job.region();
        let region = match job.memory {
            Memory::Owned => agent.allocate(len)?,
            Memory::Caller => agent.register_buffer(vec![0; (len + PAGE) as usize])?,
        };
        Ok(Self {
            start: region.addr().next_multiple_of(PAGE) - region.addr(),
            region,
            slots: role.order(job),
            block: job.block,
        })
    }

    /// The blocks' bytes.
    pub(crate) fn blocks(&self) -> Blocks<'_> {
        Blocks {
            region: &self.region,
            start: self.start,
            slots: &self.slots,
            block_bytes: self.block,
        }
    }

    /// Descriptors of the blocks, in block order.
    pub(crate) fn descriptors(&self) -> DescList {
        descriptors(&self.slots, self.block, self.base())
    }

    /// Address of the first slot.
    pub(crate) fn base(&self) -> u64 {
        self.region.addr() + self.start
    }
}

/// Descriptors of the target's blocks, for the initiator; its memory begins at `base`.
pub(crate) fn target_descriptors(job: &Job, base: u64) -> Result<DescList> {
    if base.checked_add(job.region()).is_none() {
        let text = "the target's memory wraps around the address space";
        return Err(Error::new(ErrorKind::PeerMisbehaved, text));
    }
    Ok(descriptors(&Role::Target.order(job), job.block, base))
}

fn descriptors(slots: &[u64], block: u64, base: u64) -> DescList {
    DescList::dram(slots.iter().map(|slot| (base + slot * block, block)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(count: u64, block: u64) -> Job {
        Job {
            count,
            block,
            layout: Layout::Strided,
            memory: Memory::Owned,
            seed: 1,
        }
    }

    #[test]
    fn impossible_jobs_are_refused_before_memory_is_touched() {
        assert_eq!(job(4, 8).check(2), Ok(()));
        for (count, block, kind) in [
            (0, 1, ErrorKind::ApiMisuse),
            (1, 0, ErrorKind::ApiMisuse),
            (u64::MAX, 1, ErrorKind::ApiMisuse),
            (1, u64::MAX, ErrorKind::Exhausted),
            (1 << 31, 1 << 40, ErrorKind::Exhausted),
        ] {
            assert_eq!(job(count, block).check(1).unwrap_err().kind(), kind);
        }
    }

    #[test]
    fn a_target_cannot_make_descriptors_wrap() {
        let e = target_descriptors(&job(4, 8), u64::MAX - 8).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PeerMisbehaved);
    }
}
