//! Descriptors as the caller writes them: address, length, device, and strided runs of them.

use crate::{ErrorKind, MemKind, Result, error::fail};

/// `count` blocks of `len` bytes, the i-th at `addr + i · stride`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Address of the first block.
    pub addr: u64,
    /// Bytes in each block.
    pub len: u64,
    /// Device number, 0 for host memory.
    pub dev: u64,
    /// Distance between the starts of two blocks, in bytes.
    pub stride: u64,
    /// Number of blocks.
    pub count: u64,
}

impl Run {
    /// One block.
    pub fn single(addr: u64, len: u64, dev: u64) -> Self {
        Self {
            addr,
            len,
            dev,
            stride: len,
            count: 1,
        }
    }

    /// Bytes from the first block's start to the last block's end, if that does not wrap.
    pub fn extent(&self) -> Option<u64> {
        let last = self.count.checked_sub(1)?.checked_mul(self.stride)?;
        let extent = last.checked_add(self.len)?;
        self.addr.checked_add(extent)?;
        Some(extent)
    }
}

/// An ordered list of descriptors of one memory kind. A run of `count` blocks counts as `count`
/// descriptors, and indices run over blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescList {
    kind: MemKind,
    runs: Vec<Run>,
    len: u64,
}

impl DescList {
    /// An empty list of `kind`.
    pub fn new(kind: MemKind) -> Self {
        Self {
            kind,
            runs: Vec::new(),
            len: 0,
        }
    }

    /// A list of host-memory blocks: (address, length in bytes).
    pub fn dram(blocks: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut list = Self::new(MemKind::Dram);
        list.extend(
            blocks
                .into_iter()
                .map(|(addr, len)| Run::single(addr, len, 0)),
        );
        list
    }

    /// Adds one block.
    pub fn push(&mut self, addr: u64, len: u64, dev: u64) {
        self.push_run(Run::single(addr, len, dev));
    }

    /// Adds a strided run.
    pub fn push_run(&mut self, run: Run) {
        self.len = self.len.saturating_add(run.count);
        self.runs.push(run);
    }

    /// Kind of memory.
    pub fn kind(&self) -> MemKind {
        self.kind
    }

    /// Number of blocks.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it names no block.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The runs, in order.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Checks what can be checked without knowing any region: no empty block, no wrap, ≤ 2³² − 1
    /// blocks.
    pub(crate) fn check(&self) -> Result<()> {
        for (i, run) in self.runs.iter().enumerate() {
            if run.len == 0 || run.count == 0 {
                return Err(fail(
                    ErrorKind::ApiMisuse,
                    format!("run {i} of the descriptor list is empty: {run:x?}"),
                ));
            }
            if run.extent().is_none() {
                return Err(fail(
                    ErrorKind::ApiMisuse,
                    format!("run {i} passes the end of the address space: {run:x?}"),
                ));
            }
        }
        if self.len >= u64::from(u32::MAX) {
            return Err(fail(
                ErrorKind::Exhausted,
                format!("{} descriptors in one list; split it", self.len),
            ));
        }
        Ok(())
    }
}

impl Extend<Run> for DescList {
    fn extend<I: IntoIterator<Item = Run>>(&mut self, runs: I) {
        for run in runs {
            self.push_run(run);
        }
    }
}
