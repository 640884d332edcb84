//! The path `local`: both agents in one process. Memory is copied directly, messages are handed
//! over, and both sides still prove that they know each other.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
};

use bytes::Bytes;
use nixl_core::{
    Error, ErrorKind, Generation, Op, PathName, Result,
    auth::{Identity, Known, PeerIdentity},
    backend::{ConnectDone, Endpoint, PeerAddress, Transfer},
    error::fail,
    gate::Gate,
    mem::{Access, Pin},
    plan::{Piece, Plan},
    runtime::Turn,
};
use parking_lot::{Mutex, RwLock};

use crate::{
    backend::{IPC, LOCAL, check_plan},
    copy::copy_chunk,
    doorbell::Pump,
    fault,
    mover::{Mover, Side, Waiter},
    node::{Node, named_socket},
};

/// This process's agents, by generation.
static NODES: Mutex<Option<HashMap<Generation, Weak<Node>>>> = Mutex::new(None);

/// Makes an agent known to the others of this process.
pub(crate) fn publish(node: &Arc<Node>) {
    let generation = node.ctx.identity.generation;
    let mut nodes = NODES.lock();
    let nodes = nodes.get_or_insert_default();
    nodes.retain(|_, node| node.strong_count() > 0);
    nodes.insert(generation, Arc::downgrade(node));
}

/// The agent of this process with that generation, if it runs.
pub(crate) fn find(generation: Generation) -> Option<Arc<Node>> {
    let nodes = NODES.lock();
    let node = nodes.as_ref()?.get(&generation)?.upgrade()?;
    node.check().is_ok().then_some(node)
}

/// A connection about to be made, on the reactor.
pub(crate) struct LocalDial {
    from: Arc<Node>,
    to: Arc<Node>,
    peer: Arc<PeerAddress>,
    done: Mutex<Option<ConnectDone>>,
}

impl LocalDial {
    /// Connects `from` to `to`, soon.
    pub(crate) fn ring(from: &Arc<Node>, to: Arc<Node>, peer: Arc<PeerAddress>, done: ConnectDone) {
        from.bell.ring(Arc::new(Self {
            from: from.clone(),
            to,
            peer,
            done: Mutex::new(Some(done)),
        }));
    }

    fn connect(&self, done: ConnectDone) {
        let identity = match self.meet() {
            Ok(identity) => identity,
            Err(why) => return done.failed(why),
        };
        let ours = Arc::new(End::new(self.from.clone()));
        let theirs = Arc::new(End::new(self.to.clone()));
        let here = LocalEndpoint {
            me: ours.clone(),
            other: theirs.clone(),
        };
        let there = LocalEndpoint {
            me: theirs.clone(),
            other: ours.clone(),
        };
        self.from.adopt_end(here.clone());
        self.to.adopt_end(there.clone());
        theirs.attach(self.to.ctx.accepted(IPC, identity, Arc::new(there)));
        match done.connected(Arc::new(here.clone())) {
            Some(conn) => ours.attach(conn),
            None => here.close(),
        }
        // A shutdown in between has not seen the new ends.
        if let Err(why) = self.from.check().and_then(|()| self.to.check()) {
            here.shut(why);
        }
    }

    /// What a handshake would find: the card names the agent and its secret, and the agent knows
    /// the caller under its name or not at all.
    fn meet(&self) -> Result<PeerIdentity> {
        let (me, server) = (&self.from.ctx.identity, &self.to.ctx.identity);
        let card = &self.peer.card;
        if named_socket(&self.peer)? != self.to.socket_name() {
            return Err(fault::gone(
                "the loaded metadata names another socket than this agent's",
            ));
        }
        if card.name != server.name || card.secret != server.secret {
            return Err(fail(
                ErrorKind::Unauthenticated,
                "the loaded metadata names an agent of this process with another name or secret",
            )
            .with_peer(&card.name));
        }
        let verified = match self.to.ctx.known(&me.name, me.generation) {
            Known::No => false,
            Known::Loaded(generation, secret) => {
                check_claim(me, generation, &secret)?;
                true
            }
        };
        Ok(PeerIdentity {
            name: me.name.clone(),
            generation: me.generation,
            verified,
        })
    }
}

fn check_claim(me: &Identity, generation: Generation, secret: &nixl_core::Secret) -> Result<()> {
    if generation == me.generation && *secret == me.secret {
        return Ok(());
    }
    Err(fail(
        ErrorKind::Unauthenticated,
        "the peer has loaded another agent under our name; load our new metadata there",
    ))
}

impl Pump for LocalDial {
    fn pump(self: Arc<Self>) {
        let done = self.done.lock().take();
        if let Some(done) = done {
            self.connect(done);
        }
    }
}

/// One side of a connection inside this process.
pub(crate) struct End {
    node: Arc<Node>,
    gate: Gate,
    turn: Turn,
    inbox: Mutex<VecDeque<Bytes>>,
}

impl End {
    fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            gate: Gate::default(),
            turn: Turn::default(),
            inbox: Mutex::default(),
        }
    }

    fn attach(self: &Arc<Self>, conn: nixl_core::backend::Conn) {
        self.gate.attach(conn);
        self.ring();
    }

    fn ring(self: &Arc<Self>) {
        self.node.bell.ring(self.clone());
    }

    fn shut(self: &Arc<Self>, why: Error) {
        if self.gate.close(why) {
            self.ring();
        }
    }

    fn deliver(&self) {
        while let Some(conn) = self.gate.conn() {
            let Some(message) = self.inbox.lock().pop_front() else {
                return;
            };
            conn.message(&message);
        }
    }
}

impl Pump for End {
    fn pump(self: Arc<Self>) {
        self.turn.take(|| {
            self.deliver();
            if self.gate.check().is_err() {
                self.node.remove_end(&self);
                self.gate.tell();
            }
        });
    }
}

/// The endpoint that core holds: one side, and the other.
#[derive(Clone)]
pub(crate) struct LocalEndpoint {
    me: Arc<End>,
    other: Arc<End>,
}

impl LocalEndpoint {
    pub(crate) fn is(&self, end: &End) -> bool {
        std::ptr::eq(&*self.me, end)
    }

    /// Closes both sides.
    pub(crate) fn shut(&self, why: Error) {
        self.me.inbox.lock().clear();
        self.me.shut(why);
        self.other
            .shut(fault::gone("the peer closed the connection"));
    }
}

// SAFETY: INV-1, `Mover` keeps it.
unsafe impl Endpoint for LocalEndpoint {
    fn prepare(&self, path: PathName, plan: &Arc<Plan>) -> Result<Arc<dyn Transfer>> {
        self.me.gate.check()?;
        check_plan(plan)?;
        if path != LOCAL {
            return Err(fail(
                ErrorKind::Unsupported,
                "the peer is an agent of this process: its path is local",
            ));
        }
        let node = &self.me.node;
        let side = Inside {
            me: self.me.clone(),
            other: self.other.clone(),
            pins: RwLock::new(Vec::with_capacity(plan.remote().regions().len())),
        };
        let inline = node.is_inline(path, plan);
        let runtime = node.ctx.runtime.clone();
        Ok(Arc::new(Mover::new(plan.clone(), side, runtime, inline)))
    }

    fn send(&self, message: Bytes) -> Result<()> {
        self.me.gate.check()?;
        self.other.inbox.lock().push_back(message);
        self.other.ring();
        Ok(())
    }

    fn describe(&self, path: PathName) -> String {
        path.to_owned()
    }

    fn close(&self) {
        self.shut(fault::gone("the connection was closed here"));
    }
}

/// The other agent's side of one request.
struct Inside {
    me: Arc<End>,
    other: Arc<End>,
    /// The present post's hold on the other agent's regions.
    pins: RwLock<Vec<Pin>>,
}

// SAFETY: INV-2, `pins` holds every remote region of the plan from `acquire` to `release`,
// resolved for its whole range; `Plan::build` keeps every block inside.
unsafe impl Side for Inside {
    fn gate(&self) -> &Gate {
        &self.me.gate
    }

    fn last_post(&self) {
        self.me.ring();
    }

    fn acquire(&self, plan: &Plan, _: &Arc<dyn Waiter>, _: bool) -> Result<bool> {
        let access = match plan.op() {
            Op::Read => Access::Read,
            Op::Write => Access::Write,
        };
        let ctx = &self.other.node.ctx;
        let mut pins = self.pins.write();
        pins.clear();
        for region in plan.remote().regions() {
            pins.push(ctx.resolve(&region.key, region.addr, region.len, access)?);
        }
        Ok(true)
    }

    fn release(&self) {
        self.pins.write().clear();
    }

    fn copy(&self, plan: &Plan, index: usize) -> Result<u64> {
        let pins = self.pins.read();
        if pins.iter().any(|pin| pin.is_revoked()) {
            return Err(fail(
                ErrorKind::NotRegistered,
                "the peer withdrew a region while the request was active",
            ));
        }
        // SAFETY: INV-2, the other agent's addresses are ours, and its pins are held.
        Ok(unsafe { copy_chunk(plan, index, |piece: &Piece| piece.remote) })
    }

    fn check(&self) -> Result<()> {
        self.me.gate.check()
    }
}
