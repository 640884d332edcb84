//! A backend of your own: `cargo run --example custom_backend`.
//!
//! It copies between agents of one process, and is complete: it passes the conformance suite
//! (`tests/examples.rs`). Read `docs/backend-guide.md` beside it; here is how the pieces map.
//!
//! - [`CopyBackend`] is one agent's; a registry stands in for the network.
//! - [`End`] is one side of a connection: a queue of events that one task at a time works off on
//!   core's threads. So messages stay in order, and a transfer takes its turn chunk by chunk.
//! - [`transfer::CopyTransfer`] is a prepared request, [`transfer::Posted`] a posted one with its
//!   completion token.

mod end;
mod transfer;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, OnceLock, Weak},
    time::Duration,
};

use bytes::Bytes;
use end::{End, Handle};
use nixl::{
    Agent, BackendName, Cost, DescList, Error, ErrorKind, Generation, MemKind, Op, PathCaps,
    PathClass, Reach, Result, Revocation,
    auth::{ClientHandshake, PeerIdentity, ServerHandshake},
    backend::{Backend, ConnectDone, Context, PeerAddress},
};
use parking_lot::Mutex;

pub(crate) fn main() -> Result<()> {
    let agent = |name| Agent::builder(name).backend(CopyBackend::default()).build();
    let (prefill, decode) = (agent("prefill")?, agent("decode")?);
    let (cache, memory) = (
        prefill.register_buffer(vec![7; 4096])?,
        decode.allocate(4096)?,
    );
    decode.load_metadata(&prefill.metadata()?)?;
    let request = decode.create_request(
        Op::Read,
        &DescList::dram([(memory.addr(), 4096)]),
        "prefill",
        &DescList::dram([(cache.addr(), 4096)]),
    )?;
    request.post()?;
    request.wait(Duration::from_secs(10))?;
    let mut bytes = [0; 4096];
    memory.read_at(0, &mut bytes)?;
    assert_eq!(bytes, [7; 4096]);
    println!("{:#?}", request.receipt());
    Ok(())
}

/// Name of the backend and of its only path.
const NAME: &str = "copy";
/// The address bytes in the agent card: the generation finds the agent.
const ADDRESS: Bytes = Bytes::from_static(b"this process");
/// Operation, local kind, remote kind.
const HOST_MEMORY: &[(Op, MemKind, MemKind)] = &[
    (Op::Read, MemKind::Dram, MemKind::Dram),
    (Op::Write, MemKind::Dram, MemKind::Dram),
];
const CAPS: PathCaps = PathCaps {
    path: NAME,
    backend: NAME,
    class: PathClass::SameProcess,
    wire: 1..=1,
    reach: Reach::Process,
    mem: HOST_MEMORY,
    needs_shareable: false,
    target_must_progress: false,
    // The target's key is looked up for each piece.
    revocation: Revocation::Fenced,
    hazard: None,
    cost: Cost {
        latency_ns: 5_000,
        per_desc_ns: 200,
        bytes_per_sec: 4_000_000_000,
    },
};

static AGENTS: LazyLock<Mutex<HashMap<Generation, Weak<Node>>>> = LazyLock::new(Mutex::default);

/// The backend of one agent.
#[derive(Default)]
pub(crate) struct CopyBackend(Arc<Node>);

#[derive(Default)]
struct Node {
    ctx: OnceLock<Context>,
    ends: Mutex<Vec<Weak<End>>>,
}

impl Backend for CopyBackend {
    fn name(&self) -> BackendName {
        NAME
    }

    fn paths(&self) -> &[PathCaps] {
        &[CAPS]
    }

    fn start(&self, ctx: Context) -> Result<Bytes> {
        let ctx = self.0.ctx.get_or_init(|| ctx);
        AGENTS
            .lock()
            .insert(ctx.identity.generation, Arc::downgrade(&self.0));
        Ok(ADDRESS)
    }

    fn connect(&self, peer: Arc<PeerAddress>, done: ConnectDone) {
        let (far, identity) = match shake_hands(&self.0, &peer) {
            Ok(shaken) => shaken,
            Err(e) => return done.failed(e),
        };
        let (near_end, far_end) = End::pair(&self.0, &far);
        if let Ok(ctx) = far.context() {
            far_end.open(ctx.accepted(NAME, identity, Arc::new(Handle(far_end.clone()))));
        }
        match done.connected(Arc::new(Handle(near_end.clone()))) {
            Some(conn) => near_end.open(conn),
            None => near_end.hang_up("the connecting agent changed its mind"),
        }
        if !self.0.is_up() || !far.is_up() {
            near_end.hang_up("an agent was shut down meanwhile");
        }
    }

    fn shutdown(&self) {
        if let Ok(ctx) = self.0.context() {
            AGENTS.lock().remove(&ctx.identity.generation);
        }
        let ends = std::mem::take(&mut *self.0.ends.lock());
        for end in ends.iter().filter_map(Weak::upgrade) {
            end.hang_up("the agent was shut down");
        }
    }
}

impl Node {
    fn context(&self) -> Result<&Context> {
        let missing = || Error::new(ErrorKind::PeerGone, "the agent has not started");
        self.ctx.get().ok_or_else(missing)
    }

    fn is_up(&self) -> bool {
        self.context()
            .is_ok_and(|ctx| AGENTS.lock().contains_key(&ctx.identity.generation))
    }
}

/// Finds the peer, and lets both sides prove their secrets. The messages of the handshake would
/// go over the network.
fn shake_hands(near: &Node, peer: &PeerAddress) -> Result<(Arc<Node>, PeerIdentity)> {
    let address = peer.card.backend(NAME).map(|card| &card.address);
    if address != Some(&ADDRESS) {
        let text = "the peer's address is not one of a copying backend";
        return Err(Error::new(ErrorKind::Malformed, text));
    }
    let found = AGENTS.lock().get(&peer.card.generation).cloned();
    let far = found
        .and_then(|node| node.upgrade())
        .ok_or_else(|| Error::new(ErrorKind::PeerGone, "no such agent in this process"))?;
    let (me, them) = (near.context()?, far.context()?);
    let (client, hello) = ClientHandshake::new(NAME, me.identity.clone(), peer.identity())?;
    let (server, reply) = ServerHandshake::new(NAME, them.identity.clone(), &hello)?;
    let (finish, _) = client.finish(&reply)?;
    let (name, generation) = server.claims();
    let known = them.known(name, generation);
    let (identity, _) = server.finish(&finish, known)?;
    Ok((far, identity))
}
