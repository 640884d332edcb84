//! The peer's regions that we may use: asked for once per region and connection, kept until the
//! peer withdraws them or nobody needs them.

use std::{
    collections::{HashMap, VecDeque},
    os::fd::OwnedFd,
    sync::Arc,
};

use nixl_core::{Error, ErrorKind, RegionId, RegionKey, Result, error::fail, plan::RemoteRegion};
use parking_lot::Mutex;

use crate::{
    fault::misbehaved,
    mapping::Mapping,
    mover::Waiter,
    wire::{Frame, Import},
};

/// Questions under way at once: bounds the descriptors on their way through the kernel.
const WINDOW: usize = 16;

/// What we want to use, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Want {
    key: RegionKey,
    addr: u64,
    len: u64,
    /// Mapped here; else only leave to use it is asked for.
    map: bool,
}

impl Want {
    pub(crate) fn new(region: &RemoteRegion, map: bool) -> Self {
        Self {
            key: region.key,
            addr: region.addr,
            len: region.len,
            map,
        }
    }
}

/// The peer's leave to use a region, with its mapping where one was wanted.
#[derive(Debug)]
pub(crate) struct Grant {
    writable: bool,
    /// Kept for `shift`; unmapped with the grant.
    _mapping: Option<Mapping>,
    /// What to add to an address of the peer's for the address here.
    shift: u64,
}

impl Grant {
    /// Address here of an address of the peer's, inside the range that was granted.
    pub(crate) fn translate(&self, remote: u64) -> u64 {
        remote.wrapping_add(self.shift)
    }

    /// Errors unless the peer lets us write.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.writable {
            return Ok(());
        }
        Err(fail(
            ErrorKind::NotAllowed,
            "the peer registered the region read-only",
        ))
    }
}

/// One wanted region.
pub(crate) struct Slot {
    want: Want,
    region: RegionId,
    state: Mutex<State>,
}

enum State {
    Empty,
    /// The answer resumes these. `stale`: the region was forgotten meanwhile.
    Asked {
        waiters: Vec<Arc<dyn Waiter>>,
        stale: bool,
    },
    Granted(Arc<Grant>),
    Failed(Error),
}

/// All of one connection.
#[derive(Default)]
pub(crate) struct Imports(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    slots: HashMap<Want, Arc<Slot>>,
    asked: HashMap<u64, Arc<Slot>>,
    queue: VecDeque<Arc<Slot>>,
    next: u64,
    closed: Option<Error>,
}

impl Inner {
    /// The next question to send, if there is room for one.
    fn ask(&mut self) -> Option<Frame<'static>> {
        if self.asked.len() >= WINDOW {
            return None;
        }
        let slot = self.queue.pop_front()?;
        let id = self.next;
        self.next += 1;
        let Want {
            key,
            addr,
            len,
            map,
        } = slot.want;
        self.asked.insert(id, slot);
        Some(Frame::Import(Import {
            id,
            map,
            key,
            addr,
            len,
        }))
    }
}

impl Imports {
    /// The slot of a wanted region.
    pub(crate) fn slot(&self, want: Want, region: RegionId) -> Arc<Slot> {
        let fresh = || {
            Arc::new(Slot {
                want,
                region,
                state: Mutex::new(State::Empty),
            })
        };
        let mut inner = self.0.lock();
        inner.slots.entry(want).or_insert_with(fresh).clone()
    }

    /// Asks for a slot nobody asked for yet. Sends what `send` is given.
    pub(crate) fn prefetch(&self, slot: &Arc<Slot>, send: &dyn Fn(Frame<'_>)) {
        let mut state = slot.state.lock();
        if matches!(*state, State::Empty | State::Failed(_)) {
            // Errors are met again, and reported, by the post.
            let _ = self.enqueue(slot, &mut state, Vec::new());
            drop(state);
            self.send_questions(send);
        }
    }

    /// The grant, or `None` after noting `waiter`. A `fresh` caller asks again after a failure.
    /// Resumes nobody: the caller may hold locks that a waiter needs.
    pub(crate) fn acquire(
        &self,
        slot: &Arc<Slot>,
        waiter: &Arc<dyn Waiter>,
        fresh: bool,
        send: &dyn Fn(Frame<'_>),
    ) -> Result<Option<Arc<Grant>>> {
        let mut state = slot.state.lock();
        match &mut *state {
            State::Granted(grant) => return Ok(Some(grant.clone())),
            State::Asked { waiters, .. } => {
                waiters.push(waiter.clone());
                return Ok(None);
            }
            State::Failed(why) if !fresh => return Err(why.clone()),
            State::Empty | State::Failed(_) => {}
        }
        self.enqueue(slot, &mut state, vec![waiter.clone()])?;
        drop(state);
        self.send_questions(send);
        Ok(None)
    }

    /// Queues a slot whose state is locked and becomes `Asked`.
    fn enqueue(
        &self,
        slot: &Arc<Slot>,
        state: &mut State,
        waiters: Vec<Arc<dyn Waiter>>,
    ) -> Result<()> {
        let mut inner = self.0.lock();
        if let Some(why) = inner.closed.clone() {
            *state = State::Failed(why.clone());
            return Err(why);
        }
        inner.queue.push_back(slot.clone());
        *state = State::Asked {
            waiters,
            stale: false,
        };
        Ok(())
    }

    fn send_questions(&self, send: &dyn Fn(Frame<'_>)) {
        loop {
            let question = self.0.lock().ask();
            match question {
                Some(frame) => send(frame),
                None => return,
            }
        }
    }

    /// The peer answered question `id`: leave with its terms, or why not.
    ///
    /// Errors: `PeerMisbehaved` for a number that was not asked.
    pub(crate) fn answered(
        &self,
        id: u64,
        answer: Result<Terms>,
        send: &dyn Fn(Frame<'_>),
    ) -> Result<()> {
        let slot = self
            .0
            .lock()
            .asked
            .remove(&id)
            .ok_or_else(|| misbehaved("the peer answered a question that was not asked"))?;
        slot.settle(answer.and_then(|terms| slot.want.grant(terms)));
        self.send_questions(send);
        Ok(())
    }

    /// Lets go of a region; transfers that hold it keep it to their end.
    pub(crate) fn forget(&self, region: RegionId) {
        let slots: Vec<_> = {
            let mut inner = self.0.lock();
            inner
                .slots
                .extract_if(|_, slot| slot.region == region)
                .map(|(_, slot)| slot)
                .collect()
        };
        for slot in slots {
            let mut state = slot.state.lock();
            match &mut *state {
                State::Asked { stale, .. } => *stale = true,
                other => *other = State::Empty,
            }
        }
    }

    /// The connection closed: every wait ends with `why`, every mapping goes with its last user.
    pub(crate) fn close(&self, why: &Error) {
        let slots = {
            let mut inner = self.0.lock();
            inner.closed = Some(why.clone());
            let mut slots: Vec<_> = inner.slots.drain().map(|(_, slot)| slot).collect();
            slots.extend(inner.asked.drain().map(|(_, slot)| slot));
            slots.extend(inner.queue.drain(..));
            slots
        };
        for slot in slots {
            slot.settle(Err(why.clone()));
        }
    }
}

impl Slot {
    /// Notes the outcome and resumes whoever waits for it.
    fn settle(&self, outcome: Result<Grant>) {
        let waiters = {
            let mut state = self.state.lock();
            let (waiters, stale) = match std::mem::replace(&mut *state, State::Empty) {
                State::Asked { waiters, stale } => (waiters, stale),
                _ => (Vec::new(), false),
            };
            *state = match outcome {
                Ok(_) if stale => State::Failed(fail(
                    ErrorKind::NotRegistered,
                    "the peer withdrew the region",
                )),
                Ok(grant) => State::Granted(Arc::new(grant)),
                Err(why) => State::Failed(why),
            };
            waiters
        };
        for waiter in waiters {
            waiter.resume();
        }
    }
}

/// What the peer granted.
pub(crate) struct Terms {
    pub(crate) writable: bool,
    /// Where the asked address lies in the file.
    pub(crate) offset: u64,
    pub(crate) fd: Option<OwnedFd>,
    /// A descriptor came, but there was no room for it here.
    pub(crate) fd_lost: bool,
}

impl Want {
    fn grant(&self, terms: Terms) -> Result<Grant> {
        if !self.map {
            return Ok(Grant {
                writable: terms.writable,
                _mapping: None,
                shift: 0,
            });
        }
        let fd = match terms.fd {
            Some(fd) => fd,
            None if terms.fd_lost => {
                return Err(fail(
                    ErrorKind::Exhausted,
                    "no file descriptor left in this process to map the peer's memory; raise \
                     ulimit -n",
                ));
            }
            None => return Err(misbehaved("the peer granted a mapping without memory")),
        };
        let end = terms
            .offset
            .checked_add(self.len)
            .ok_or_else(|| misbehaved("the peer granted memory past the end of its file"))?;
        let mapping = Mapping::new(&fd, end, terms.writable)?;
        let shift = mapping
            .base()
            .wrapping_add(terms.offset)
            .wrapping_sub(self.addr);
        Ok(Grant {
            writable: terms.writable,
            _mapping: Some(mapping),
            shift,
        })
    }
}
