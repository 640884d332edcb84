//! Agents without an agent: contexts around backends, connected, with memory to move.
//!
//! Test code: it panics where a backend breaks its promise on a calling thread, and keeps a
//! journal of what happens on other threads.

mod journal;
mod memory;
mod node;
mod op;
mod side;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nixl_core::{
    AgentCard, DescList, MemKind, Op, PathCaps, PathName, RegionCard, Result,
    backend::{Backend, Conn, ConnectDone, PeerAddress},
    mem::SpanIndex,
    plan::{LocalList, Plan, RemoteList, RemoteRegion, Select},
    runtime::Progress,
};
use parking_lot::Mutex;

use journal::Journal;
pub use memory::{GUARD, Layout, Spread, pattern};
pub use node::{Memory, Node};
use op::Ops;
pub use op::{Hook, TestOp, must_fail};
pub use side::Side;

/// Longest wait for something that has to happen, unless [`Rig::with_patience`] says otherwise.
const PATIENCE: Duration = Duration::from_secs(20);

/// Makes one backend under test; called once for each agent.
pub type Factory = Box<dyn Fn() -> Arc<dyn Backend> + Send + Sync>;

/// Agents around backends under test, and the path that is tested.
pub struct Rig {
    journal: Arc<Journal>,
    ops: Ops,
    make: Factory,
    /// Made to look at its capabilities; the first agent gets it.
    spare: Mutex<Option<Arc<dyn Backend>>>,
    caps: PathCaps,
    progress: Progress,
    patience: Duration,
    nodes: Mutex<Vec<Arc<Node>>>,
    sides: Mutex<Vec<Arc<Side>>>,
}

/// Both ends of one connection.
pub struct Link {
    /// The connecting agent.
    pub from: Arc<Node>,
    /// The accepting agent.
    pub to: Arc<Node>,
    /// The connecting end.
    pub near: Arc<Side>,
    /// The accepting end.
    pub far: Arc<Side>,
}

impl Rig {
    /// A rig whose agents get their backend from `make` and move bytes over `path`.
    pub fn new(make: Factory, path: PathName, progress: Progress) -> Self {
        let backend = make();
        let caps = backend
            .paths()
            .iter()
            .find(|p| p.path == path)
            .cloned()
            .unwrap_or_else(|| panic!("the backend has no path {path:?}"));
        Self {
            journal: Arc::default(),
            ops: Ops::default(),
            make,
            spare: Mutex::new(Some(backend)),
            caps,
            progress,
            patience: PATIENCE,
            nodes: Mutex::default(),
            sides: Mutex::default(),
        }
    }

    /// The same, giving up after `patience` on what has to happen: for backends that are meant to
    /// fail.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Longest wait for something that has to happen (20 s).
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// What the path under test can do.
    pub fn caps(&self) -> &PathCaps {
        &self.caps
    }

    /// The operations that the path has between host memory.
    pub fn ops(&self) -> Vec<Op> {
        [Op::Read, Op::Write]
            .into_iter()
            .filter(|op| {
                let want = (*op, MemKind::Dram, MemKind::Dram);
                self.caps.mem.contains(&want)
            })
            .collect()
    }

    /// The kinds of memory that the path reaches at a peer.
    pub fn remote_memories(&self) -> &'static [Memory] {
        if self.caps.needs_shareable {
            &[Memory::Agent]
        } else {
            &[Memory::Agent, Memory::Heap]
        }
    }

    /// Starts an agent.
    pub fn node(&self, name: &str) -> Arc<Node> {
        let backend = self.spare.lock().take().unwrap_or_else(|| (self.make)());
        let node = Arc::new(Node::start(name, backend, self.progress, &self.journal));
        self.nodes.lock().push(node.clone());
        node
    }

    /// Two agents that have loaded each other, connected.
    pub fn pair(&self) -> Link {
        let (a, b) = (self.node("a"), self.node("b"));
        self.connect(&a, &b)
    }

    /// Has `from` and `to` load each other and connects them.
    pub fn connect(&self, from: &Arc<Node>, to: &Arc<Node>) -> Link {
        from.load(&to.identity);
        to.load(&from.identity);
        let before = self.accepted_from(to, from).len();
        let near = self.try_connect(from, to.card()).expect("they connect");
        let far = self.accepted_after(to, from, before);
        Link {
            from: from.clone(),
            to: to.clone(),
            near,
            far,
        }
    }

    fn accepted_from(&self, to: &Node, from: &Node) -> Vec<Arc<Side>> {
        let name = &from.identity.name;
        let is = |s: &Arc<Side>| s.peer.as_ref().is_some_and(|p| p.name == *name);
        to.accepted().into_iter().filter(is).collect()
    }

    /// Waits for connection number `before` of `from`, as `to` sees it.
    pub fn accepted_after(&self, to: &Node, from: &Node, before: usize) -> Arc<Side> {
        self.wait("the connection to be accepted", || {
            self.accepted_from(to, from).len() > before
        });
        let side = self.accepted_from(to, from).swap_remove(before);
        let peer = side.peer.as_ref().expect("an accepted side has a peer");
        assert_eq!(peer.generation, from.identity.generation);
        assert!(peer.verified, "a loaded peer that proved its secret");
        side
    }

    /// Begins to connect; the slot is filled when the backend reports.
    pub fn begin_connect(&self, from: &Node, card: AgentCard) -> Arc<Connecting> {
        let slot = Arc::new(Connecting(Mutex::new(None)));
        let (report, journal) = (slot.clone(), self.journal.clone());
        let done = ConnectDone::new(move |result| {
            let result = result.map(|endpoint| Side::new(journal.clone(), endpoint, None));
            let conn = result.as_ref().ok().map(|side| Conn::new(side.clone()));
            *report.0.lock() = Some(result);
            journal.ring();
            conn
        });
        from.backend.connect(Arc::new(PeerAddress { card }), done);
        slot
    }

    /// Waits for what [`Rig::begin_connect`] began.
    pub fn end_connect(&self, slot: &Connecting) -> Result<Arc<Side>> {
        self.wait("connect to report", || slot.0.lock().is_some());
        let side = slot.0.lock().take().expect("waited for above")?;
        self.sides.lock().push(side.clone());
        Ok(side)
    }

    /// Connects `from` to whoever `card` describes.
    pub fn try_connect(&self, from: &Node, card: AgentCard) -> Result<Arc<Side>> {
        let slot = self.begin_connect(from, card);
        self.end_connect(&slot)
    }

    /// Resolves both sides and pairs all their blocks.
    pub fn plan(
        &self,
        op: Op,
        from: &Node,
        local: &DescList,
        cards: &[RegionCard],
        remote: &DescList,
    ) -> Arc<Plan> {
        let mut index = SpanIndex::default();
        for card in cards {
            index.insert(
                card.kind,
                card.dev,
                card.addr,
                card.len,
                RemoteRegion::from(card),
            );
        }
        let local = LocalList::resolve(local, from.regions()).expect("local blocks resolve");
        let remote = RemoteList::resolve(remote, &index).expect("remote blocks resolve");
        let plan = Plan::build(
            op,
            Arc::new(local),
            Select::All,
            Arc::new(remote),
            Select::All,
        );
        Arc::new(plan.expect("the lists match"))
    }

    /// Readies `plan` on the path under test; `hook` runs at completion on the thread that
    /// completes.
    pub fn try_prepare(
        &self,
        side: &Arc<Side>,
        plan: &Arc<Plan>,
        hook: Option<Hook>,
    ) -> Result<Arc<TestOp>> {
        let transfer = side.endpoint().prepare(self.caps.path, plan)?;
        let op = TestOp::new(
            self.journal.clone(),
            side.clone(),
            plan.clone(),
            transfer,
            hook,
        );
        self.ops.add(&op);
        Ok(op)
    }

    /// [`Rig::try_prepare`] of what can be prepared.
    pub fn prepare(&self, side: &Arc<Side>, plan: &Arc<Plan>) -> Arc<TestOp> {
        self.try_prepare(side, plan, None)
            .expect("the plan can be prepared")
    }

    /// Waits for the end of the attempt that was posted.
    pub fn end(&self, op: &TestOp) -> Result<()> {
        self.wait("the token to be completed", || op.result().is_some());
        op.result().expect("waited for above")
    }

    /// Posts and waits.
    pub fn run(&self, op: &Arc<TestOp>) -> Result<()> {
        let _ = op.post();
        self.end(op)
    }

    /// Prepares, posts and waits: the first error of the three.
    pub fn attempt(&self, side: &Arc<Side>, plan: &Arc<Plan>) -> Result<()> {
        let op = self.try_prepare(side, plan, None)?;
        self.run(&op)
    }

    /// Waits until `done`, driving the agents where nobody else does. Panics when it runs out of
    /// patience.
    pub fn wait(&self, what: &str, done: impl FnMut() -> bool) {
        if !self.wait_for(self.patience, done) {
            self.journal.check();
            let (patience, ends) = (self.patience, self.journal.ends());
            panic!("waited {patience:?} in vain for {what}; connections ended: {ends}");
        }
    }

    /// Waits until `done` or `limit` is over; true if `done`.
    pub fn wait_for(&self, limit: Duration, mut done: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let rings = self.journal.rings();
            if done() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            if self.progress != Progress::Caller {
                self.journal.wait(rings, Duration::from_millis(1));
            } else if !self.progress_once() {
                std::thread::yield_now();
            }
        }
    }

    fn progress_once(&self) -> bool {
        let nodes = self.nodes.lock().clone();
        let did = |node: &Arc<Node>| node.runtime.progress(Duration::ZERO);
        nodes.iter().map(did).fold(false, |any, one| any | one)
    }

    /// Sends a message each way and waits for both: whatever was on its way has landed.
    pub fn settle(&self, link: &Link) {
        for (from, to) in [(&link.near, &link.far), (&link.far, &link.near)] {
            let before = to.received();
            from.send(&b"settle"[..]);
            self.wait("a message to arrive", || to.received() > before);
        }
    }

    /// Takes everything down and checks what the journal says: tokens, ends, messages.
    pub fn finish(self) {
        let nodes = self.nodes.lock().clone();
        for node in &nodes {
            node.backend.shutdown();
        }
        let mut sides = self.sides.lock().clone();
        sides.extend(nodes.iter().flat_map(|n| n.accepted()));
        self.wait("every token after shutdown", || self.ops.open() == 0);
        self.wait("every connection to report its end", || {
            sides.iter().all(|s| s.closed().is_some())
        });
        for node in &nodes {
            node.runtime.stop();
        }
        for side in &sides {
            side.release();
        }
        self.journal.check();
    }
}

/// A connect that is under way.
pub struct Connecting(Mutex<Option<Result<Arc<Side>>>>);

impl Connecting {
    /// Whether the backend has reported.
    pub fn is_over(&self) -> bool {
        self.0.lock().is_some()
    }
}
