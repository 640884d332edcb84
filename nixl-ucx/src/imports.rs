//! Remote keys of the peer's regions: asked for once per region and connection, kept until the peer
//! withdraws the region or nobody needs it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use nixl_core::{Error, ErrorKind, RegionId, RegionKey, Result, error::fail, plan::RemoteRegion};
use parking_lot::Mutex;

use crate::{fault::misbehaved, ucp::RemoteKey, wire::Import};

/// What we want to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Want {
    key: RegionKey,
    addr: u64,
    len: u64,
}

/// The peer's leave to use a region.
pub(crate) struct Grant {
    pub(crate) key: RemoteKey,
    writable: bool,
}

impl Grant {
    pub(crate) fn new(key: RemoteKey, writable: bool) -> Self {
        Self { key, writable }
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
    /// `stale`: the region was forgotten meanwhile.
    Asked {
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
    questions: VecDeque<Arc<Slot>>,
    next: u64,
}

impl Imports {
    /// The slot of a region; asks for it if nobody has.
    pub(crate) fn slot(&self, region: &RemoteRegion) -> Arc<Slot> {
        let want = Want {
            key: region.key,
            addr: region.addr,
            len: region.len,
        };
        let mut inner = self.0.lock();
        let slot = inner.slots.entry(want).or_insert_with(|| {
            Arc::new(Slot {
                want,
                region: region.id,
                state: Mutex::new(State::Empty),
            })
        });
        let slot = slot.clone();
        inner.ask(&slot);
        slot
    }

    /// The grant, or `None` while it is asked for. A `fresh` caller asks again after a failure.
    pub(crate) fn get(&self, slot: &Arc<Slot>, fresh: bool) -> Result<Option<Arc<Grant>>> {
        match &*slot.state.lock() {
            State::Granted(grant) => return Ok(Some(grant.clone())),
            State::Asked { .. } => return Ok(None),
            State::Failed(why) if !fresh => return Err(why.clone()),
            State::Empty | State::Failed(_) => {}
        }
        self.0.lock().ask(slot);
        Ok(None)
    }

    /// The next question to send.
    pub(crate) fn question(&self) -> Option<Import> {
        let mut inner = self.0.lock();
        let slot = inner.questions.pop_front()?;
        let id = inner.next;
        inner.next += 1;
        let Want { key, addr, len } = slot.want;
        inner.asked.insert(id, slot);
        Some(Import { id, key, addr, len })
    }

    /// The peer answered question `id`.
    ///
    /// Errors: `PeerMisbehaved` for a number that was not asked.
    pub(crate) fn answered(&self, id: u64, answer: Result<Grant>) -> Result<()> {
        let slot = self.0.lock().asked.remove(&id);
        let slot =
            slot.ok_or_else(|| misbehaved("the peer answered a question that was not asked"))?;
        let mut state = slot.state.lock();
        *state = match (answer, &*state) {
            (Ok(_), State::Asked { stale: true }) => State::Failed(fail(
                ErrorKind::NotRegistered,
                "the peer withdrew the region",
            )),
            (Ok(grant), _) => State::Granted(Arc::new(grant)),
            (Err(why), _) => State::Failed(why),
        };
        Ok(())
    }

    /// Lets go of a region; transfers that hold its key keep it to their end.
    pub(crate) fn forget(&self, region: RegionId) {
        let mut inner = self.0.lock();
        let forgotten = inner.slots.extract_if(|_, slot| slot.region == region);
        for (_, slot) in forgotten {
            let mut state = slot.state.lock();
            match &mut *state {
                State::Asked { stale } => *stale = true,
                other => *other = State::Empty,
            }
        }
    }

    /// The connection closed: every key goes with its last user.
    pub(crate) fn close(&self) {
        let slots = {
            let mut inner = self.0.lock();
            inner.asked.clear();
            inner.questions.clear();
            std::mem::take(&mut inner.slots)
        };
        for slot in slots.into_values() {
            *slot.state.lock() = State::Empty;
        }
    }
}

impl Inner {
    fn ask(&mut self, slot: &Arc<Slot>) {
        let mut state = slot.state.lock();
        if matches!(*state, State::Empty | State::Failed(_)) {
            *state = State::Asked { stale: false };
            self.questions.push_back(slot.clone());
        }
    }
}
