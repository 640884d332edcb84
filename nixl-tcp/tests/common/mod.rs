//! Two agents' worth of backend without the agents: what core would do, done by hand.
#![allow(dead_code)] // each test binary uses its part

pub(crate) mod proxy;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nixl_core::{
    AgentCard, BackendCard, DescList, Error, Generation, HostId, HostMemory, HugePages, MemKind,
    Op, Region, RegionId, RegionKey, RegionTable, Result, Secret,
    auth::{Identity, Known, PeerIdentity},
    backend::{
        Backend, Conn, ConnHandler, ConnectDone, Context, Endpoint, PeerAddress, Refused, Transfer,
        Upcalls,
    },
    inflight::{Completion, OpOwner},
    mem::SpanIndex,
    plan::{LocalList, Plan, RemoteList, RemoteRegion, Select},
    runtime::{Progress, Runtime, Tick},
};
use nixl_tcp::{TcpBackend, TcpConfig};
use parking_lot::Mutex;

pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Messages and the end of one connection.
#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) messages: Mutex<Vec<Vec<u8>>>,
    pub(crate) closed: Mutex<Option<Error>>,
}

impl ConnHandler for Inbox {
    fn message(&self, message: &[u8]) {
        assert!(self.closed.lock().is_none(), "a message after the end");
        self.messages.lock().push(message.to_vec());
    }

    fn closed(&self, why: Error) {
        assert!(self.closed.lock().replace(why).is_none(), "closed twice");
    }
}

/// One side of a connection.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) endpoint: Arc<dyn Endpoint>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) peer: Option<PeerIdentity>,
}

#[derive(Default)]
pub(crate) struct Upper {
    pub(crate) loaded: Mutex<Vec<Identity>>,
    pub(crate) accepted: Mutex<Vec<Link>>,
}

impl Upcalls for Upper {
    fn known(&self, name: &str, _: Generation) -> Known {
        let loaded = self.loaded.lock();
        match loaded.iter().find(|i| i.name == name) {
            Some(i) => Known::Loaded(i.generation, i.secret.clone()),
            None => Known::No,
        }
    }

    fn accepted(&self, _: &'static str, peer: PeerIdentity, endpoint: Arc<dyn Endpoint>) -> Conn {
        let inbox = Arc::new(Inbox::default());
        self.accepted.lock().push(Link {
            endpoint,
            inbox: inbox.clone(),
            peer: Some(peer),
        });
        Conn::new(inbox)
    }
}

struct Ticker(Arc<TcpBackend>);

impl Tick for Ticker {
    fn tick(&self, now: Instant) -> Option<Instant> {
        self.0.tick(now)
    }
}

pub(crate) struct Node {
    pub(crate) identity: Identity,
    pub(crate) backend: Arc<TcpBackend>,
    pub(crate) card: AgentCard,
    pub(crate) regions: Arc<RegionTable>,
    pub(crate) upper: Arc<Upper>,
    pub(crate) runtime: Runtime,
    _ticker: Arc<dyn Tick>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.backend.shutdown();
        self.runtime.stop();
    }
}

pub(crate) fn loopback() -> TcpConfig {
    TcpConfig {
        bind: Some("127.0.0.1".parse().unwrap()),
        ..TcpConfig::default()
    }
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Node {
    pub(crate) fn new(name: &str, config: TcpConfig) -> Self {
        Self::with(name, config, Progress::Threads { copy_threads: 2 })
    }

    pub(crate) fn with(name: &str, config: TcpConfig, progress: Progress) -> Self {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let identity = Identity {
            name: name.to_owned(),
            generation: Generation(n),
            secret: Secret([n as u8; 32]),
        };
        let runtime = Runtime::start(progress, Duration::from_micros(50)).unwrap();
        let (regions, upper) = (Arc::new(RegionTable::default()), Arc::new(Upper::default()));
        let backend = Arc::new(TcpBackend::new(config).unwrap());
        let ctx = Context::new(
            identity.clone(),
            runtime.clone(),
            regions.clone(),
            upper.clone(),
        );
        let address = backend.start(ctx).unwrap();
        let ticker: Arc<dyn Tick> = Arc::new(Ticker(backend.clone()));
        let weak: Weak<dyn Tick> = Arc::downgrade(&ticker);
        runtime.add_ticker(weak);
        let card = AgentCard {
            name: identity.name.clone(),
            generation: identity.generation,
            secret: identity.secret.clone(),
            host: HostId::default(),
            progresses: true,
            backends: vec![BackendCard {
                backend: "tcp".to_owned(),
                address,
                paths: Vec::new(),
            }],
            probes: Vec::new(),
            foreign: false,
        };
        Self {
            identity,
            backend,
            card,
            regions,
            upper,
            runtime,
            _ticker: ticker,
        }
    }

    /// A context of its own for another backend of this node.
    pub(crate) fn context(&self) -> Context {
        Context::new(
            self.identity.clone(),
            self.runtime.clone(),
            self.regions.clone(),
            self.upper.clone(),
        )
    }

    /// Allocates and registers `len` bytes of `byte`.
    pub(crate) fn filled(&self, len: u64, byte: u8) -> Region {
        self.with_bytes(&vec![byte; len as usize])
    }

    /// Allocates and registers `len` bytes, the i-th `byte(i)`.
    pub(crate) fn region(&self, len: u64, byte: impl Fn(u64) -> u8) -> Region {
        self.with_bytes(&(0..len).map(byte).collect::<Vec<u8>>())
    }

    fn with_bytes(&self, bytes: &[u8]) -> Region {
        let len = bytes.len() as u64;
        let memory = HostMemory::allocate(len, HugePages::No).unwrap();
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let key = RegionKey((u128::from(id) << 64 | 0x5eed).to_le_bytes());
        let region = Region::new(Box::new(memory), RegionId(id), key, true).unwrap();
        region.write_at(0, bytes).unwrap();
        self.regions.insert(region.clone());
        region
    }

    pub(crate) fn try_connect(&self, card: &AgentCard) -> Result<Link> {
        type Slot = Arc<Mutex<Option<Result<Link>>>>;
        let slot: Slot = Arc::default();
        let out = slot.clone();
        let done = ConnectDone::new(move |result| {
            let inbox = Arc::new(Inbox::default());
            let link = result.map(|endpoint| Link {
                endpoint,
                inbox: inbox.clone(),
                peer: None,
            });
            let conn = link.is_ok().then(|| Conn::new(inbox));
            *out.lock() = Some(link);
            conn
        });
        let peer = Arc::new(PeerAddress { card: card.clone() });
        self.backend.connect(peer, done);
        self.until("the connect to end", || slot.lock().is_some());
        slot.lock().take().unwrap()
    }

    /// Connects to `other` and returns both ends.
    pub(crate) fn connect(&self, other: &Node) -> (Link, Link) {
        let before = other.upper.accepted.lock().len();
        let link = self.try_connect(&other.card).unwrap();
        other.until("the peer to accept", || {
            other.upper.accepted.lock().len() > before
        });
        let far = other.upper.accepted.lock()[before].clone();
        (link, far)
    }

    #[track_caller]
    pub(crate) fn until(&self, what: &str, done: impl FnMut() -> bool) {
        assert!(
            self.runtime.wait(Instant::now() + LONG, done),
            "waited too long for {what}"
        );
    }
}

pub(crate) type Blocks = Vec<(u64, u64)>;

/// A plan between blocks (offset, length) of two regions.
pub(crate) fn plan(
    op: Op,
    local: &Region,
    mine: &Blocks,
    remote: &Region,
    theirs: &Blocks,
) -> Arc<Plan> {
    plan_with(op, local, mine, &RemoteRegion::from(&remote.card()), theirs)
}

pub(crate) fn plan_with(
    op: Op,
    local: &Region,
    mine: &Blocks,
    remote: &RemoteRegion,
    theirs: &Blocks,
) -> Arc<Plan> {
    let table = RegionTable::default();
    table.insert(local.clone());
    let mut index = SpanIndex::default();
    index.insert(MemKind::Dram, 0, remote.addr, remote.len, remote.clone());
    let near = DescList::dram(mine.iter().map(|(o, l)| (local.addr() + o, *l)));
    let far = DescList::dram(theirs.iter().map(|(o, l)| (remote.addr + o, *l)));
    let near = Arc::new(LocalList::resolve(&near, &table).unwrap());
    let far = Arc::new(RemoteList::resolve(&far, &index).unwrap());
    Arc::new(Plan::build(op, near, Select::All, far, Select::All).unwrap())
}

/// Holds what an operation holds and remembers how it ended.
pub(crate) struct Op1 {
    _plan: Arc<Plan>,
    pub(crate) result: Mutex<Option<Result<()>>>,
}

impl OpOwner for Op1 {
    fn finished(self: Arc<Self>, _: u32, result: Result<()>) {
        assert!(
            self.result.lock().replace(result).is_none(),
            "completed twice"
        );
    }
}

/// Posts `transfer`; the operation ends later.
pub(crate) fn post(transfer: &Arc<dyn Transfer>, plan: &Arc<Plan>) -> Result<Arc<Op1>> {
    let op = Arc::new(Op1 {
        _plan: plan.clone(),
        result: Mutex::new(None),
    });
    match transfer.clone().post(Completion::new(op.clone(), 1)) {
        Ok(()) => Ok(op),
        Err(Refused { error, done }) => {
            done.complete(Err(error.clone()));
            Err(error)
        }
    }
}

impl Op1 {
    pub(crate) fn is_done(&self) -> bool {
        self.result.lock().is_some()
    }

    #[track_caller]
    pub(crate) fn wait(&self, node: &Node) -> Result<()> {
        node.until("the operation to end", || self.is_done());
        self.result.lock().clone().unwrap()
    }
}

/// Prepares, posts and waits.
#[track_caller]
pub(crate) fn run(node: &Node, link: &Link, plan: &Arc<Plan>) -> Result<()> {
    let transfer = link.endpoint.prepare("tcp", plan)?;
    post(&transfer, plan)?.wait(node)
}

pub(crate) fn bytes(region: &Region) -> Vec<u8> {
    let mut out = vec![0; region.len() as usize];
    region.read_at(0, &mut out).unwrap();
    out
}

pub(crate) fn pattern(i: u64) -> u8 {
    (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8
}

pub(crate) struct Lcg(pub(crate) u64);

impl Lcg {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    /// `n` blocks of `len` bytes in random order, with a gap behind each.
    pub(crate) fn blocks(&mut self, n: u64, len: u64) -> Blocks {
        let mut all: Vec<u64> = (0..n).collect();
        for i in (1..n).rev() {
            all.swap(i as usize, self.below(i + 1) as usize);
        }
        all.into_iter().map(|i| (i * 2 * len, len)).collect()
    }
}

/// What `dst` should hold after `src`'s blocks came to `to`.
pub(crate) fn expected(before: &[u8], to: &Blocks, src: &[u8], from: &Blocks) -> Vec<u8> {
    let mut out = before.to_vec();
    for ((t, len), (f, _)) in to.iter().zip(from) {
        let (t, f, len) = (*t as usize, *f as usize, *len as usize);
        out[t..t + len].copy_from_slice(&src[f..f + len]);
    }
    out
}
