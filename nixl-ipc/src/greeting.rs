//! How a connection begins: authentication, then introductions, then it is open.
//!
//! ```text
//! client                                server
//! Hello  ------------------------------>
//!        <------------------------------  Reply
//! Finish, Intro ----------------------->            (the server is known: pid and proof address)
//!        <------------------------------  Intro     (the client is known)
//! ```
//!
//! Nothing of ours but names and proofs of secrets is sent before the other side is known.

use std::sync::Arc;

use nixl_core::{
    Error, Result,
    auth::{ClientHandshake, Identity, PeerIdentity, ServerHandshake, SessionKey},
    backend::ConnectDone,
};

use crate::{
    backend::IPC,
    endpoint::SocketEndpoint,
    fault::misbehaved,
    link::{Link, Met},
    wire::{Frame, Intro},
};

/// Separates this backend's handshakes from others'.
const CHANNEL: &str = "ipc";
const CLIENT_PROOF: &[u8] = b"ipc client memory";
const SERVER_PROOF: &[u8] = b"ipc server memory";

/// What a connection waits for.
pub(crate) enum Greeting {
    /// Server: the client's `Hello`.
    Hello,
    /// Server: the client's `Finish`.
    Finish(Box<ServerHandshake>),
    /// Server: the client's `Intro`.
    ClientIntro(PeerIdentity, SessionKey),
    /// Client: the server's `Reply`.
    Reply(Box<ClientHandshake>, ConnectDone),
    /// Client: the server's `Intro`.
    ServerIntro(SessionKey, ConnectDone),
    /// Nothing more: messages flow.
    Open,
    /// It came to nothing.
    Over,
}

impl Greeting {
    /// The client's first step: the `Hello` to send.
    pub(crate) fn client(
        me: Identity,
        server: Identity,
        done: ConnectDone,
    ) -> Result<(Self, Vec<u8>), (Error, ConnectDone)> {
        match ClientHandshake::new(CHANNEL, me, server) {
            Ok((shake, hello)) => Ok((Self::Reply(Box::new(shake), done), hello)),
            Err(e) => Err((e, done)),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    /// The connection closed: a client that waits is told `why`.
    pub(crate) fn abandon(&mut self, why: &Error) {
        match std::mem::replace(self, Self::Over) {
            Self::Reply(_, done) | Self::ServerIntro(_, done) => done.failed(why.clone()),
            _ => {}
        }
    }

    /// Takes the next step. Errors are for the peer too.
    pub(crate) fn advance(&mut self, link: &Arc<Link>, frame: Frame<'_>) -> Result<()> {
        if let Frame::Reject(why) = frame {
            link.shut(why);
            return Ok(());
        }
        *self = match (std::mem::replace(self, Self::Over), frame) {
            (Self::Hello, Frame::Hello(hello)) => {
                let me = link.node.ctx.identity.clone();
                let (shake, reply) = ServerHandshake::new(CHANNEL, me, hello)?;
                link.control(&Frame::Reply(&reply));
                Self::Finish(Box::new(shake))
            }
            (Self::Finish(shake), Frame::Finish(finish)) => {
                let (name, generation) = shake.claims();
                let known = link.node.ctx.known(name, generation);
                let (peer, key) = shake.finish(finish, known)?;
                Self::ClientIntro(peer, key)
            }
            (Self::ClientIntro(peer, key), Frame::Intro(intro)) => {
                introduce(link, &key, SERVER_PROOF);
                meet(link, intro, &key, CLIENT_PROOF);
                let endpoint = Arc::new(SocketEndpoint(link.clone()));
                let conn = link.node.ctx.accepted(IPC, peer, endpoint);
                link.gate().attach(conn);
                Self::Open
            }
            (Self::Reply(shake, done), Frame::Reply(reply)) => {
                let (finish, key) = match shake.finish(reply) {
                    Ok(both) => both,
                    Err(why) => {
                        done.failed(why.clone());
                        return Err(why);
                    }
                };
                link.control(&Frame::Finish(&finish));
                introduce(link, &key, CLIENT_PROOF);
                Self::ServerIntro(key, done)
            }
            (Self::ServerIntro(key, done), Frame::Intro(intro)) => {
                meet(link, intro, &key, SERVER_PROOF);
                match done.connected(Arc::new(SocketEndpoint(link.clone()))) {
                    Some(conn) => {
                        link.gate().attach(conn);
                        Self::Open
                    }
                    None => {
                        link.shut(crate::fault::gone("the agent wants the connection no more"));
                        Self::Over
                    }
                }
            }
            (was, _) => {
                *self = was;
                return Err(misbehaved("a frame that is not due in the handshake"));
            }
        };
        Ok(())
    }
}

/// Tells the peer where our proof stands.
fn introduce(link: &Arc<Link>, key: &SessionKey, purpose: &[u8]) {
    let proof = link.proof.get_or_init(|| key.derive(purpose));
    link.control(&Frame::Intro(Intro {
        pid: std::process::id(),
        pid_ns: link.node.pid_ns,
        proof_at: proof.as_ptr() as u64,
    }));
}

/// Reads the peer's proof, as far as that is possible.
fn meet(link: &Link, intro: Intro, key: &SessionKey, purpose: &[u8]) {
    let proven = link
        .process
        .prove(intro, &key.derive(purpose), link.node.pid_ns)
        .and_then(|()| link.process.pid());
    if let Err(why) = &proven {
        tracing::debug!(%why, "no CMA to a peer");
    }
    // Once: the greeting passes here a single time.
    let _ = link.met.set(Met { cma: proven });
}
