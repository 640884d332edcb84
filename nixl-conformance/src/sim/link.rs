//! Connections between simulated agents: handshake, messages, the end.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use nixl_core::{
    Error, ErrorKind, PathName, RegionId, RegionKey, Result,
    auth::{ClientHandshake, PeerIdentity, ServerHandshake},
    backend::{Conn, ConnectDone, Endpoint, PeerAddress, Transfer},
    error::fail,
    mem::{Access, Pin},
    plan::{Piece, Plan, RemoteRegion},
};
use parking_lot::Mutex;

use super::{
    engine::{Engine, Event, gone},
    fault::add,
    look_up,
    transfer::SimTransfer,
};

/// One side of a connection. Its engine keeps it alive until the connection is closed.
pub(super) struct SimEndpoint {
    engine: Arc<Engine>,
    link: Arc<Link>,
    conn: OnceLock<Conn>,
    /// The peer's regions pinned here, where revocation is cooperative.
    leases: Mutex<HashMap<RegionId, Arc<Pin>>>,
    first: bool,
    /// The connection is one to an agent of NIXL's: the other side knows nothing of it.
    foreign: bool,
}

/// What both sides share.
struct Link {
    closed: AtomicBool,
    ends: OnceLock<[Weak<SimEndpoint>; 2]>,
}

impl SimEndpoint {
    fn pair(client: &Arc<Engine>, server: &Arc<Engine>, foreign: bool) -> [Arc<Self>; 2] {
        let link = Arc::new(Link {
            closed: AtomicBool::new(false),
            ends: OnceLock::new(),
        });
        let end = |engine: &Arc<Engine>, first| {
            Arc::new(Self {
                engine: engine.clone(),
                link: link.clone(),
                conn: OnceLock::new(),
                leases: Mutex::new(HashMap::new()),
                first,
                foreign,
            })
        };
        let ends = [end(client, true), end(server, false)];
        link.ends
            .get_or_init(|| [Arc::downgrade(&ends[0]), Arc::downgrade(&ends[1])]);
        ends
    }

    pub(super) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(super) fn is_closed(&self) -> bool {
        self.link.closed.load(Ordering::SeqCst)
    }

    fn peer(&self) -> Result<Arc<Self>> {
        let ends = self.link.ends.get();
        ends.and_then(|ends| ends[usize::from(self.first)].upgrade())
            .ok_or_else(|| gone("the connection is closed"))
    }

    /// Closes both sides: each engine completes what is in flight and reports the end. Messages
    /// that are on their way arrive first, unless it is `abrupt`.
    pub(super) fn hang_up(&self, why: &Error, abrupt: bool) {
        if self.link.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        for end in self.link.ends.get().into_iter().flatten() {
            if let Some(end) = end.upgrade() {
                end.engine.push_end(end.clone(), why.clone(), abrupt);
            }
        }
    }

    pub(super) fn deliver(&self, message: &[u8]) {
        if self.foreign {
            if let Ok(ctx) = self.engine.context() {
                ctx.foreign_message(self.engine.config.name, message);
            }
        } else if let Some(conn) = self.conn.get() {
            conn.message(message);
        }
    }

    pub(super) fn ended(&self, why: Error) {
        self.leases.lock().clear();
        if let Some(conn) = self.conn.get() {
            conn.closed(why);
        }
    }

    /// The peer's region that `piece` names, checked as the target would check it.
    pub(super) fn reach(&self, plan: &Plan, piece: &Piece, access: Access) -> Result<Arc<Pin>> {
        let region = &plan.remote().regions()[piece.remote_region as usize];
        if self.engine.config.revocation == nixl_core::Revocation::Cooperative
            && let Some(pin) = self.leases.lock().get(&region.id)
            && pin.key() == region.key
            && piece.remote >= pin.addr()
            && piece.remote + piece.len <= pin.addr() + pin.len()
            && (access == Access::Read || pin.is_writable())
        {
            return Ok(pin.clone());
        }
        let peer = self.peer()?;
        let ctx = peer.engine.context()?;
        let key = if self.foreign {
            nixl_key(region, self.engine.config.name)?
        } else {
            region.key
        };
        let pin = Arc::new(ctx.resolve(&key, piece.remote, piece.len, access)?);
        if self.engine.config.revocation == nixl_core::Revocation::Cooperative {
            self.leases.lock().insert(region.id, pin.clone());
        }
        Ok(pin)
    }
}

fn nixl_key(region: &RemoteRegion, backend: &str) -> Result<RegionKey> {
    let bytes = region
        .extras
        .of(backend)
        .and_then(|b| b[..].try_into().ok());
    bytes.map(RegionKey).ok_or_else(|| {
        fail(
            ErrorKind::Malformed,
            "this is no key of a simulated backend",
        )
    })
}

/// What core holds of a connection.
struct Handle(Arc<SimEndpoint>);

// SAFETY: INV-1, `SimTransfer` is what touches memory, see there.
unsafe impl Endpoint for Handle {
    fn prepare(&self, path: PathName, plan: &Arc<Plan>) -> Result<Arc<dyn Transfer>> {
        let config = &self.0.engine.config;
        let unsupported = |why: String| Err(fail(ErrorKind::Unsupported, why).with_path(path));
        if path != config.name {
            return unsupported(format!("the simulated backend has no path {path:?}"));
        }
        let asked = (plan.op(), plan.local().kind(), plan.remote().kind());
        if !config.mem.contains(&asked) {
            return unsupported(format!("it is configured not to do {asked:?}"));
        }
        if config.needs_shareable && plan.remote().regions().iter().any(|r| !r.shareable) {
            return unsupported("a remote region is not shareable".to_owned());
        }
        Ok(SimTransfer::new(self.0.clone(), plan.clone()))
    }

    fn send(&self, message: Bytes) -> Result<()> {
        if self.0.is_closed() {
            return Err(gone("the connection is closed"));
        }
        let peer = self.0.peer()?;
        add(&self.0.engine.counters.sends, 1);
        peer.engine.push(Event::Message(peer.clone(), message));
        Ok(())
    }

    fn unsent(&self) -> u64 {
        let peer = self.0.peer();
        peer.map_or(0, |peer| peer.engine.queued_for(&peer))
    }

    fn forget(&self, region: RegionId) {
        add(&self.0.engine.counters.forgets, 1);
        if !self.0.engine.keeps_leases() {
            self.0.leases.lock().remove(&region);
        }
    }

    fn describe(&self, path: PathName) -> String {
        format!("{path} (simulated)")
    }

    fn close(&self) {
        self.0.hang_up(&gone("the connection was closed"), false);
    }
}

/// Connects `engine` to `peer`, on the connecting agent's thread.
pub(super) fn connect(engine: &Arc<Engine>, peer: &PeerAddress, done: ConnectDone) {
    let shaken = if peer.card.foreign {
        reach_foreign(engine, peer)
    } else {
        shake_hands(engine, peer)
    };
    match shaken {
        Err(e) => done.failed(e),
        Ok((end, server, identity)) => {
            let far = server.engine.clone();
            if let Some(identity) = identity {
                far.push(Event::Accepted(server, identity));
            }
            match done.connected(Arc::new(Handle(end.clone()))) {
                Some(conn) => {
                    end.conn.get_or_init(|| conn);
                }
                None => end.hang_up(&gone("the connecting agent changed its mind"), false),
            }
        }
    }
}

/// Our end, theirs, and who they are told that we are.
type Shaken = (Arc<SimEndpoint>, Arc<SimEndpoint>, Option<PeerIdentity>);

/// An agent of NIXL's is not asked, and is not told who connects.
fn reach_foreign(engine: &Arc<Engine>, peer: &PeerAddress) -> Result<Shaken> {
    let far = look_up(engine.config.name, peer)?;
    let [mine, theirs] = SimEndpoint::pair(engine, &far, true);
    adopt(engine, &mine, &far, &theirs)?;
    Ok((mine, theirs, None))
}

fn adopt(
    engine: &Arc<Engine>,
    mine: &Arc<SimEndpoint>,
    far: &Arc<Engine>,
    theirs: &Arc<SimEndpoint>,
) -> Result<()> {
    far.adopt(theirs)?;
    engine.adopt(mine).inspect_err(|e| theirs.hang_up(e, false))
}

fn shake_hands(engine: &Arc<Engine>, peer: &PeerAddress) -> Result<Shaken> {
    let name = engine.config.name;
    let far = look_up(name, peer)?;
    let (me, them) = (engine.context()?, far.context()?);
    let (client, hello) = ClientHandshake::new(name, me.identity.clone(), peer.identity())?;
    let (server, reply) = ServerHandshake::new(name, them.identity.clone(), &hello)?;
    let (finish, _key) = client.finish(&reply)?;
    let known = {
        let (claimed, generation) = server.claims();
        them.known(claimed, generation)
    };
    let (identity, _key) = server.finish(&finish, known)?;
    let [mine, theirs] = SimEndpoint::pair(engine, &far, false);
    adopt(engine, &mine, &far, &theirs)?;
    Ok((mine, theirs, Some(identity)))
}

/// Reports a peer that connected, on the accepting agent's thread.
pub(super) fn accepted(engine: &Arc<Engine>, end: Arc<SimEndpoint>, peer: PeerIdentity) {
    match engine.context() {
        Ok(ctx) => {
            let conn = ctx.accepted(engine.config.name, peer, Arc::new(Handle(end.clone())));
            end.conn.get_or_init(|| conn);
        }
        Err(e) => end.hang_up(&e, false),
    }
}
