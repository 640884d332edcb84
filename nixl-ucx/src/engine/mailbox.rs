//! What UCX reports while it makes progress: noted here, handled when it has returned.
//!
//! Only the server's side of the handshake is answered at once, since a client that proved nothing
//! yet has no endpoint of ours: the way back exists for the length of the callback.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nixl_core::{
    Error, ErrorKind, Result, Secret,
    auth::{self, PeerIdentity, ServerHandshake, SessionKey},
    backend::Context,
    error::fail,
};
use parking_lot::Mutex;

use super::{CHANNEL, foreign::NOTIFICATION, rma::Rma};
use crate::{
    fault::{gone, misbehaved},
    shape,
    ucp::{Reply, Sink, Status, Way},
    wire::{Finish, Head, Kind, Shake, Token, encode_error},
};

/// Clients that may be in the handshake at once.
const MAX_GREETING: usize = 64;
/// Endpoints that are remembered although nobody uses them.
const MAX_STRAYS: usize = 256;
/// What binds a client's worker address to its proofs.
const SEAL: &[u8] = b"ucx worker address";

/// Something to handle.
pub(super) enum Event {
    /// A frame of a connection.
    Frame(Head, Vec<u8>),
    /// A client proved who it is.
    Met(Met),
    /// The endpoint of the connection with this number failed.
    Failed(u64, Status),
    /// Nothing of a transfer is in flight any more.
    Quiet(Arc<Rma>),
    /// The lanes of the connection with this number to a NIXL agent are connected, or not.
    Reached(u64, Result<(), Status>),
    /// A notification of a NIXL agent.
    Foreign(Vec<u8>),
}

/// A client that proved who it is.
pub(super) struct Met {
    pub(super) peer: PeerIdentity,
    pub(super) key: SessionKey,
    /// Its worker's, with the shape of one.
    pub(super) address: Vec<u8>,
    /// The way back to the endpoint that it has made for this.
    pub(super) way: Option<Way>,
}

/// Ways back to endpoints of clients that said hello, and for which there is none of ours: they
/// were refused, or went away in the handshake.
#[derive(Default)]
pub(super) struct Strays(VecDeque<Way>);

impl Strays {
    fn add(&mut self, way: Option<Way>) {
        let Some(way) = way else { return };
        self.0.retain(|known| *known != way);
        if self.0.len() >= MAX_STRAYS {
            self.0.pop_front();
        }
        self.0.push_back(way);
    }

    /// Forgets an endpoint; whether it was one of these.
    pub(super) fn remove(&mut self, mut is: impl FnMut(Way) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|way| !is(*way));
        self.0.len() < before
    }
}

struct Greeting {
    shake: ServerHandshake,
    /// The client's name for the connection.
    client: Token,
    until: Instant,
}

pub(super) struct Mailbox {
    ctx: Context,
    patience: Duration,
    events: Mutex<VecDeque<Event>>,
    greetings: Mutex<HashMap<Token, Greeting>>,
    pub(super) strays: Mutex<Strays>,
    shut: AtomicBool,
}

impl Mailbox {
    pub(super) fn new(ctx: Context, patience: Duration) -> Self {
        Self {
            ctx,
            patience,
            events: Mutex::default(),
            greetings: Mutex::default(),
            strays: Mutex::default(),
            shut: AtomicBool::new(false),
        }
    }

    pub(super) fn push(&self, event: Event) {
        self.events.lock().push_back(event);
    }

    pub(super) fn pop(&self) -> Option<Event> {
        self.events.lock().pop_front()
    }

    /// Takes in nobody any more.
    pub(super) fn shut(&self) {
        self.shut.store(true, Ordering::Release);
        self.greetings.lock().clear();
    }

    fn hello(&self, body: &[u8]) -> Result<(Token, Token, Vec<u8>), Refused> {
        let shake = Shake::decode(body).map_err(|_| None)?;
        let client = shake.from;
        let answer = || {
            if self.shut.load(Ordering::Acquire) {
                return Err(gone("the agent shut down"));
            }
            let me = self.ctx.identity.clone();
            let (shake, reply) = ServerHandshake::new(CHANNEL, me, shake.proof)?;
            let token: Token = auth::random()?;
            let mut greetings = self.greetings.lock();
            let now = Instant::now();
            greetings.retain(|_, greeting| greeting.until > now);
            if greetings.len() >= MAX_GREETING {
                return Err(fail(
                    ErrorKind::Exhausted,
                    "too many others are in the handshake; try again",
                ));
            }
            let until = now + self.patience;
            let greeting = Greeting {
                shake,
                client,
                until,
            };
            greetings.insert(token, greeting);
            Ok((client, token, reply))
        };
        answer().map_err(|why| Some((client, why)))
    }

    /// Answers a hello.
    fn greet(&self, body: &[u8], reply: &Reply<'_>) {
        match self.hello(body) {
            Ok((to, from, proof)) => {
                let head = Head {
                    kind: Kind::Reply,
                    to,
                    number: 0,
                };
                let proof = &proof;
                reply.send(&head.encode(), Shake { from, proof }.encode());
            }
            Err(refused) => reject(reply, refused),
        }
    }

    fn finish(&self, to: &Token, body: &[u8], way: Option<Way>) -> Result<Met, Refused> {
        let Greeting { shake, client, .. } = self.greetings.lock().remove(to).ok_or(None)?;
        let check = || {
            let finish = Finish::decode(body)?;
            let (name, generation) = shake.claims();
            let known = self.ctx.known(name, generation);
            let (peer, key) = shake.finish(finish.proof, known)?;
            if Secret(seal(&key, finish.address)) != Secret(finish.seal) {
                return Err(misbehaved("a worker address that was not sealed"));
            }
            shape::check_worker_address(finish.address)?;
            let address = finish.address.to_vec();
            Ok(Met {
                peer,
                key,
                address,
                way,
            })
        };
        check().map_err(|why| Some((client, why)))
    }
}

/// What proves that whoever holds `key` sent `address`.
pub(super) fn seal(key: &SessionKey, address: &[u8]) -> [u8; 32] {
    key.derive(&[SEAL, address].concat())
}

/// Why a greeting is not answered, and to which token that is told, if one is known.
type Refused = Option<(Token, Error)>;

fn reject(reply: &Reply<'_>, refused: Refused) {
    // Without a token nobody would know what the answer is for.
    let Some((to, why)) = refused else { return };
    tracing::warn!(%why, "refusing a UCX connection");
    let head = Head {
        kind: Kind::Reject,
        to,
        number: 0,
    };
    reply.send(&head.encode(), encode_error(&why));
}

impl Sink for Mailbox {
    fn received(&self, id: u32, head: &[u8], body: &[u8], reply: &Reply<'_>) {
        if id == NOTIFICATION && head.is_empty() {
            return self.push(Event::Foreign(body.to_vec()));
        }
        let head = match Head::decode(head) {
            Ok(head) => head,
            Err(why) => return tracing::debug!(%why, "dropping a UCX message"),
        };
        match head.kind {
            Kind::Hello => {
                self.strays.lock().add(reply.way());
                self.greet(body, reply);
            }
            Kind::Finish => match self.finish(&head.to, body, reply.way()) {
                Ok(met) => self.push(Event::Met(met)),
                Err(refused) => reject(reply, refused),
            },
            _ => self.push(Event::Frame(head, body.to_vec())),
        }
    }

    fn failed(&self, tag: u64, status: Status) {
        self.push(Event::Failed(tag, status));
    }
}
