//! Requests that this side initiates.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::Ordering::{AcqRel, Relaxed},
    },
    time::Instant,
};

use nixl_core::{Result, backend::Refused, inflight::Completion};
use nixl_tcp_proto::{InitiatorSlots, ProtocolError, Settings, Status, Xfer, put_cancel};

use super::{Connection, Job, Push, misbehaved, too_many_descriptors};
use crate::transfer::{Active, Begun, Outbound};

impl Connection {
    /// Queues a post and starts it: small ones from this thread, others on the copy threads.
    pub(crate) fn submit(&self, outbound: Arc<Outbound>, done: Completion) -> Result<(), Refused> {
        let small = {
            let mut work = self.work.lock();
            if work.closed {
                let error = self.gone();
                return Err(Refused { error, done });
            }
            self.tokens.fetch_add(1, Relaxed);
            let small = outbound.is_small();
            let generation = outbound.arm(done);
            work.pending.push_back(Active {
                outbound,
                generation,
            });
            small
        };
        self.kick_one(small);
        Ok(())
    }

    /// Lets an idle stream look for work.
    pub(super) fn kick_one(&self, inline: bool) {
        let n = self.streams.len();
        let start = self.next_stream.fetch_add(1, Relaxed);
        for i in 0..n {
            let stream = &self.streams[(start + i) % n];
            if !stream.is_sending() {
                return stream.kick_tx(inline);
            }
        }
    }

    pub(super) fn kick_all(&self) {
        for stream in &self.streams {
            if !stream.is_sending() {
                stream.kick_tx(false);
            }
        }
    }

    /// What an idle stream sends next.
    pub(crate) fn next_job(&self) -> Option<Job> {
        let mut work = self.work.lock();
        let work = &mut *work;
        if let Some(slots) = &mut work.slots {
            while let Some(active) = work.pending.front() {
                let cost = active.outbound.cost();
                let begun = active.begin(|| slots.acquire(cost, active.clone()).ok());
                let xfer = match begun {
                    Begun::Wait => break,
                    Begun::Over => None,
                    Begun::Opened(xfer) => Some(xfer),
                };
                let active = work.pending.pop_front()?;
                let Some(xfer) = xfer else { continue };
                let first = active.is_write().then(|| active.next_chunk()).flatten();
                if active.is_write() && active.outbound.plan().chunks() > 1 {
                    work.pushes.push_back(Push::Write(xfer, active.clone()));
                    self.kick_all();
                }
                return Some(Job::Open(xfer, active, first));
            }
        }
        while let Some(push) = work.pushes.pop_front() {
            // The last chunk takes the request out of the queue, the others put it at the end.
            let (job, more) = match &push {
                Push::Write(xfer, active) => {
                    let Some(i) = active.next_chunk() else {
                        continue;
                    };
                    let more = (i as usize + 1) < active.outbound.plan().chunks();
                    (Job::Write(*xfer, active.clone(), i), more)
                }
                Push::Read(inbound) => {
                    let Some(i) = inbound.next_chunk() else {
                        continue;
                    };
                    (Job::Read(inbound.clone(), i), i + 1 < inbound.chunks())
                }
            };
            if more {
                work.pushes.push_back(push);
            }
            return Some(job);
        }
        None
    }

    /// The peer's settings are here: posts may go.
    pub(crate) fn settled(&self, peer: Settings) -> Result<()> {
        if usize::from(peer.streams) != self.streams.len() {
            return Err(misbehaved(ProtocolError::BadField("streams")));
        }
        let too_long: VecDeque<Active> = {
            let mut work = self.work.lock();
            work.slots = Some(InitiatorSlots::new(peer));
            let limit = peer.list_bytes;
            let pending = std::mem::take(&mut work.pending);
            let (fit, too_long) = pending
                .into_iter()
                .partition(|a| a.outbound.cost() <= limit);
            work.pending = fit;
            too_long
        };
        for active in too_long {
            active.abandon(&too_many_descriptors(active.outbound.cost()));
        }
        self.kick_all();
        Ok(())
    }

    /// The target said how a request ended.
    pub(crate) fn acked(&self, xfer: Xfer, status: Status) -> Result<()> {
        let unknown = || misbehaved(ProtocolError::UnknownXfer);
        let (active, waiting) = {
            let mut work = self.work.lock();
            let slots = work.slots.as_mut().ok_or_else(unknown)?;
            let active = slots.release(xfer).ok_or_else(unknown)?;
            (active, !work.pending.is_empty())
        };
        if status == Status::Ok && !active.is_write() {
            return Err(misbehaved(ProtocolError::BadField("status")));
        }
        active.acked(status);
        if waiting {
            self.kick_one(false);
        }
        Ok(())
    }

    /// All chunks of a READ are in place.
    pub(crate) fn read_done(&self, xfer: Xfer, active: &Active) {
        let mut waiting = false;
        active.finish(|| {
            let mut work = self.work.lock();
            if let Some(slots) = work.slots.as_mut() {
                slots.release(xfer);
            }
            waiting = !work.pending.is_empty();
        });
        if waiting {
            self.kick_one(false);
        }
    }

    /// Tells the target that a request is not wanted any more.
    pub(crate) fn send_cancel(&self, xfer: Xfer, waits: bool) {
        self.tell(|out| put_cancel(out, xfer));
        if waits {
            self.ctx
                .runtime
                .tick_by(Instant::now() + self.config.cancel_grace);
        }
    }

    /// A token was completed.
    pub(crate) fn token_done(&self) {
        if self.tokens.fetch_sub(1, AcqRel) == 1 && self.is_closed() {
            self.report();
        }
    }
}
