//! The paths `shm` and `cma`: another process's memory, mapped here or reached by the kernel.

use std::sync::Arc;

use nixl_core::{
    Op, Result,
    gate::Gate,
    plan::{Piece, Plan},
};
use parking_lot::RwLock;
use rustix::process::Pid;

use crate::{
    cma::Batch,
    copy::copy_chunk,
    imports::{Grant, Slot, Want},
    link::Link,
    mover::{Side, Waiter},
    wire::Frame,
};

/// How the bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The peer's memory is mapped here.
    Mapped,
    /// The kernel copies, for the process with this pid.
    Cross(Pid),
}

/// The peer's side of one request.
pub(crate) struct Remote {
    link: Arc<Link>,
    way: Way,
    /// One for each remote region of the plan.
    slots: Box<[Arc<Slot>]>,
    /// What the present post holds, in the same order.
    held: RwLock<Vec<Arc<Grant>>>,
}

impl Remote {
    /// Readies `plan`: asks the peer for each region, so that a post finds it there.
    pub(crate) fn new(link: Arc<Link>, way: Way, plan: &Plan) -> Self {
        let map = way == Way::Mapped;
        let slots: Box<[_]> = plan
            .remote()
            .regions()
            .iter()
            .map(|region| link.imports().slot(Want::new(region, map), region.id))
            .collect();
        for slot in &slots {
            link.imports().prefetch(slot, &|frame| link.control(&frame));
        }
        Self {
            way,
            held: RwLock::new(Vec::with_capacity(slots.len())),
            slots,
            link,
        }
    }
}

// SAFETY: INV-2 and INV-4, `held` keeps a mapping of every remote region of the plan from
// `acquire` to `release`; each covers its region whole, and `Plan::build` keeps every block inside.
unsafe impl Side for Remote {
    fn gate(&self) -> &Gate {
        self.link.gate()
    }

    fn last_post(&self) {
        self.link.ring();
    }

    fn acquire(&self, plan: &Plan, waiter: &Arc<dyn Waiter>, fresh: bool) -> Result<bool> {
        let mut held = self.held.write();
        held.clear();
        for slot in &self.slots {
            let send = |frame: Frame<'_>| self.link.control(&frame);
            match self.link.imports().acquire(slot, waiter, fresh, &send)? {
                Some(grant) => held.push(grant),
                None => return Ok(false),
            }
        }
        if plan.op() == Op::Write {
            held.iter().try_for_each(|grant| grant.check_writable())?;
        }
        Ok(true)
    }

    fn release(&self) {
        self.held.write().clear();
    }

    fn copy(&self, plan: &Plan, index: usize) -> Result<u64> {
        let held = self.held.read();
        match self.way {
            Way::Mapped => {
                let here = |p: &Piece| held[p.remote_region as usize].translate(p.remote);
                // SAFETY: INV-2 and INV-4, the grants held map each region whole, and for a WRITE
                // `acquire` checked that they are writable.
                Ok(unsafe { copy_chunk(plan, index, here) })
            }
            Way::Cross(pid) => {
                self.link.check_peer()?;
                Batch::with(|batch| {
                    let mut bytes = 0;
                    for piece in plan.chunk(index) {
                        batch.push(piece.local, piece.remote, piece.len);
                        bytes += piece.len;
                    }
                    batch.run(pid, plan.op()).map(|()| bytes)
                })
            }
        }
    }

    fn check(&self) -> Result<()> {
        self.link.check_peer()
    }
}
