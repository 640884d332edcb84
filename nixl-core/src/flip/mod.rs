//! Flipped operations: a READ done as the peer's WRITE, or the reverse.
//!
//! For a path that can do only one direction. The peer gets keys that are made for this one
//! operation and withdrawn before it ends here, so nothing of it can land late: only fenced paths
//! are flipped. The peer must have loaded us, since it connects and proves the path as for a
//! request of its own.

mod perform;
mod wire;

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
pub(crate) use perform::perform;

use crate::{
    Error, ErrorKind, Op, PathName, RegionId, RegionKey, Result,
    agent::{Shared, next_id},
    auth,
    backend::{Refused, Transfer},
    error::fail,
    inflight::Completion,
    mem::{MemoryOwner, Region, Span},
    notify::{MAX_NOTIFICATION, Message},
    peer::{Incoming, Link},
    plan::Plan,
    request::Request,
};

/// Flipped operations of one agent: those it asked for, and those it does for others.
#[derive(Default)]
pub(crate) struct Flips {
    asked: Mutex<HashMap<u64, Weak<FlipTransfer>>>,
    doing: Mutex<Vec<Doing>>,
    /// Over, but somebody is still inside their memory.
    ending: Mutex<Vec<Ended>>,
}

/// Most operations, and most blocks of them all, that one connection may have done at a time.
const MAX_DOING: usize = 4096;
const MAX_BLOCKS: u64 = 1 << 20;

/// How often memory that is still in use is looked at again.
const RECHECK: Duration = Duration::from_millis(5);

struct Doing {
    id: u64,
    from: Arc<Incoming>,
    request: Request,
}

impl Flips {
    fn answered(&self, id: u64, result: Result<()>) {
        let found = self.asked.lock().get(&id).and_then(Weak::upgrade);
        if let Some(transfer) = found {
            transfer.answered.store(true, Ordering::Release);
            transfer.end(result);
        }
    }

    /// Operations that were asked for over a connection that is gone end.
    pub(crate) fn link_closed(&self, link: &Arc<Link>) {
        let asked: Vec<_> = self
            .asked
            .lock()
            .values()
            .filter_map(Weak::upgrade)
            .collect();
        for transfer in asked.iter().filter(|t| Arc::ptr_eq(&t.link, link)) {
            let why = fail(
                ErrorKind::PeerGone,
                "the peer went away during a flipped operation",
            );
            transfer.end(Err(why));
        }
    }

    /// Begins to do an operation for a peer.
    ///
    /// Errors: `Exhausted` when it has asked for too much, `PeerMisbehaved` for a number in use.
    fn admit(&self, new: Doing) -> Result<()> {
        let mut doing = self.doing.lock();
        let (mut count, mut blocks) = (0, new.request.plan().merged());
        for d in doing.iter().filter(|d| Arc::ptr_eq(&d.from, &new.from)) {
            if d.id == new.id {
                let why = "two flipped operations of one number";
                return Err(fail(ErrorKind::PeerMisbehaved, why));
            }
            count += 1;
            blocks += d.request.plan().merged();
        }
        if count >= MAX_DOING || blocks > MAX_BLOCKS {
            return Err(fail(
                ErrorKind::Exhausted,
                format!("the peer does {count} flipped operations for us already"),
            ));
        }
        doing.push(new);
        Ok(())
    }

    fn forget(&self, from: &Arc<Incoming>, id: u64) -> Option<Request> {
        let mut doing = self.doing.lock();
        let at = doing
            .iter()
            .position(|d| d.id == id && Arc::ptr_eq(&d.from, from))?;
        Some(doing.swap_remove(at).request)
    }

    /// Ends operations that are over and whose memory nobody touches any more. When to look again
    /// if there are others.
    pub(crate) fn settle(&self, now: Instant) -> Option<Instant> {
        let (quiet, busy): (Vec<_>, Vec<_>) = {
            let mut ending = self.ending.lock();
            let all = std::mem::take(&mut *ending);
            all.into_iter().partition(Ended::is_quiet)
        };
        let again = (!busy.is_empty()).then_some(now + RECHECK);
        self.ending.lock().extend(busy);
        quiet.into_iter().for_each(Ended::complete);
        again
    }

    /// The peer wants operation `id` to end.
    pub(crate) fn cancel(&self, from: &Arc<Incoming>, id: u64) {
        let found = {
            let doing = self.doing.lock();
            let mut of_peer = doing.iter().filter(|d| Arc::ptr_eq(&d.from, from));
            of_peer.find(|d| d.id == id).map(|d| d.request.0.clone())
        };
        if let Some(request) = found {
            request.stop(fail(ErrorKind::Cancelled, "the peer cancelled it"));
        }
    }

    /// The peer that asked is gone: nobody waits for its operations.
    pub(crate) fn incoming_closed(&self, from: &Arc<Incoming>) {
        let ended: Vec<Doing> = {
            let mut doing = self.doing.lock();
            let all = std::mem::take(&mut *doing);
            let (ended, kept) = all.into_iter().partition(|d| Arc::ptr_eq(&d.from, from));
            *doing = kept;
            ended
        };
        drop(ended);
    }
}

/// A region under a key of its own, for one operation.
struct Alias(Region);

// SAFETY: INV-2, the same memory as the region that it keeps alive.
unsafe impl MemoryOwner for Alias {
    fn span(&self) -> Span {
        self.0.span()
    }
}

/// One request, done by the peer.
pub(crate) struct FlipTransfer {
    shared: Weak<Shared>,
    link: Arc<Link>,
    path: PathName,
    plan: Arc<Plan>,
    posted: Mutex<Option<Posted>>,
    /// The peer said how it ended: it touches nothing any more.
    answered: AtomicBool,
}

struct Posted {
    id: u64,
    done: Completion,
    aliases: Vec<Region>,
}

impl FlipTransfer {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        link: &Arc<Link>,
        path: PathName,
        plan: &Arc<Plan>,
    ) -> Result<Arc<Self>> {
        let size = wire::size(plan);
        if size > MAX_NOTIFICATION {
            return Err(fail(
                ErrorKind::Unsupported,
                format!("a flipped operation's list takes {size} bytes; split the request"),
            ));
        }
        Ok(Arc::new(Self {
            shared: Arc::downgrade(shared),
            link: link.clone(),
            path,
            plan: plan.clone(),
            posted: Mutex::new(None),
            answered: AtomicBool::new(false),
        }))
    }

    fn shared(&self) -> Result<Arc<Shared>> {
        self.shared
            .upgrade()
            .ok_or_else(|| fail(ErrorKind::PeerGone, "the agent was shut down"))
    }

    /// One-time regions over the plan's local ones, registered with the path's backend.
    fn aliases(&self, shared: &Arc<Shared>) -> Result<Vec<Region>> {
        let backend = shared
            .backends
            .iter()
            .find(|b| b.name() == self.link.backend());
        let mut aliases = Vec::with_capacity(self.plan.local().regions().len());
        for region in self.plan.local().regions() {
            let id = RegionId(shared.next_region.fetch_add(1, Ordering::Relaxed));
            let key = RegionKey(auth::random()?);
            // A READ is done as the peer's WRITE, so only then may it write.
            let writable = self.plan.op() == Op::Read;
            let alias = Region::new(Box::new(Alias(region.clone())), id, key, writable)?;
            if let Some(registration) = backend.map(|b| b.register(&alias)).transpose()?.flatten() {
                alias.add_registration(self.link.backend(), registration);
            }
            shared.regions.insert_alias(alias.clone());
            aliases.push(alias);
        }
        Ok(aliases)
    }

    fn ask(&self, shared: &Arc<Shared>, id: u64, aliases: &[Region]) -> Result<()> {
        let order = wire::encode(id, self.path, &self.plan, aliases, shared.config.deadline);
        self.link.endpoint().send(Message::Flip(&order).encode())
    }

    /// Withdraws the keys; the token completes once nobody is inside the memory any more.
    fn end(&self, result: Result<()>) {
        let Some(posted) = self.posted.lock().take() else {
            return;
        };
        let Ok(shared) = self.shared() else {
            // The agent is gone, and with it its regions' keys: dropping the token leaks the
            // memory, which is all that is safe.
            return;
        };
        shared.flips.asked.lock().remove(&posted.id);
        for alias in &posted.aliases {
            shared.regions.withdraw_alias(alias);
        }
        let ended = Ended { posted, result };
        if ended.is_quiet() {
            ended.complete();
        } else {
            shared.flips.ending.lock().push(ended);
            shared.runtime.tick_by(Instant::now() + RECHECK);
        }
    }
}

/// An operation that is over, under keys that are withdrawn.
struct Ended {
    posted: Posted,
    result: Result<()>,
}

impl Ended {
    fn is_quiet(&self) -> bool {
        self.posted.aliases.iter().all(|alias| alias.pins() == 0)
    }

    fn complete(self) {
        for alias in &self.posted.aliases {
            alias.drop_registrations();
        }
        self.posted.done.complete(self.result);
    }
}

// SAFETY: INV-1, only the peer touches the memory, under keys that `end` withdraws; the token
// completes after the last pin under them is gone.
unsafe impl Transfer for FlipTransfer {
    fn post(self: Arc<Self>, done: Completion) -> Result<(), Refused> {
        let prepared = self
            .shared()
            .and_then(|shared| Ok((self.aliases(&shared)?, shared)));
        let (aliases, shared) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Err(Refused { error, done }),
        };
        let id = next_id();
        self.answered.store(false, Ordering::Release);
        shared.flips.asked.lock().insert(id, Arc::downgrade(&self));
        let keys = aliases.clone();
        *self.posted.lock() = Some(Posted { id, done, aliases });
        if let Err(e) = self.ask(&shared, id, &keys) {
            self.end(Err(e));
        }
        Ok(())
    }

    fn cancel(&self) {
        let id = self.posted.lock().as_ref().map(|p| p.id);
        if let Some(id) = id {
            // The peer's answer, or the connection's end, completes the token.
            let _ = self.link.endpoint().send(Message::Unflip(id).encode());
        }
        // A READ ends without the peer's help: without keys nothing of it can land.
        if self.plan.op() == Op::Read {
            self.end(Err(cancelled()));
        }
    }

    fn moved(&self) -> u64 {
        0
    }

    fn fenced(&self) -> bool {
        self.answered.load(Ordering::Acquire)
    }
}

fn cancelled() -> Error {
    fail(ErrorKind::Cancelled, "a flipped operation was cancelled")
}

impl crate::peer::Peer {
    /// The peer says how a flipped operation ended.
    pub(crate) fn flipped(&self, id: u64, status: i32) {
        let result = match status {
            0 => Ok(()),
            status => Err(fail(
                ErrorKind::from_status(status),
                "the peer could not do the flipped operation",
            )),
        };
        if let Some(shared) = self.shared() {
            shared.flips.answered(id, result);
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::{
        inflight::OpOwner,
        mem::{HostMemory, HugePages},
    };

    /// How the operation ended, once it has.
    #[derive(Default)]
    struct Owner(Mutex<Option<Result<()>>>);

    impl OpOwner for Owner {
        fn finished(self: Arc<Self>, _attempt: u32, result: Result<()>) {
            *self.0.lock() = Some(result);
        }
    }

    fn region() -> Region {
        let memory = HostMemory::allocate(4096, HugePages::No).unwrap();
        Region::new(Box::new(memory), RegionId(1), RegionKey([1; 16]), true).unwrap()
    }

    #[test]
    fn an_operation_ends_once_nobody_is_inside_its_memory() {
        let (flips, owner, alias) = (Flips::default(), Arc::new(Owner::default()), region());
        let pin = alias.pin().unwrap();
        flips.ending.lock().push(Ended {
            posted: Posted {
                id: 1,
                done: Completion::new(owner.clone(), 0),
                aliases: vec![region(), alias],
            },
            result: Ok(()),
        });
        let now = Instant::now();
        assert_eq!(flips.settle(now), Some(now + RECHECK));
        assert!(owner.0.lock().is_none());
        drop(pin);
        assert_eq!(flips.settle(now), None);
        assert!(matches!(*owner.0.lock(), Some(Ok(()))));
        assert!(flips.ending.lock().is_empty());
    }
}
