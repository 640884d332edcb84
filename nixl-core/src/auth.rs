//! The handshake of every connection: both sides prove their secrets, none crosses the wire.
//!
//! Three messages. `Hello` (client): names, generations, nonce. `Reply` (server): nonce, proof
//! over the server's secret. `Finish` (client): proof over the server's secret (so it holds the
//! server's card) and over its own (so it is who it says). Every proof is HMAC-SHA256 over role
//! and the whole transcript, compared in constant time; nonces are fresh, so nothing replays.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{Error, ErrorKind, Generation, Result, Secret, error::fail};

const MAGIC: [u8; 4] = *b"NXH1";
const MAC: usize = 32;
const NONCE: usize = 32;
const MAX_NAME: usize = 255;

/// Longest handshake message in bytes.
pub const MAX_MESSAGE: usize = 4 + 2 * (1 + MAX_NAME + 8) + 1 + MAX_NAME + NONCE;

/// Who an agent is, secret included.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Agent name.
    pub name: String,
    /// This incarnation.
    pub generation: Generation,
    /// Its secret.
    pub secret: Secret,
}

/// Whom a server is talking to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Name it gave.
    pub name: String,
    /// Generation it gave.
    pub generation: Generation,
    /// It is loaded here and proved its own secret. False: name and generation are only claims.
    pub verified: bool,
}

/// Both sides' result: the key that this connection's other keys derive from.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionKey(Secret);

impl SessionKey {
    /// A key for one purpose, e.g. joining a further stream to the session.
    pub fn derive(&self, purpose: &[u8]) -> [u8; MAC] {
        mac(&self.0, &[b"derive", purpose])
    }
}

/// What the server knows of a client's name.
pub enum Known {
    /// Not loaded here.
    No,
    /// Loaded with this generation and secret.
    Loaded(Generation, Secret),
}

fn mac(secret: &Secret, parts: &[&[u8]]) -> [u8; MAC] {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&secret.0)
        .expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn check(secret: &Secret, parts: &[&[u8]], got: &[u8]) -> bool {
    subtle::ConstantTimeEq::ct_eq(&mac(secret, parts)[..], got).into()
}

/// `N` fresh random bytes (getrandom(2)).
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Error::os("getrandom", e))?;
    Ok(bytes)
}

/// The client's side, after `Hello` was made.
pub struct ClientHandshake {
    me: Identity,
    server: Identity,
    hello: Vec<u8>,
}

impl ClientHandshake {
    /// Begins; returns the `Hello` to send. `channel` separates kinds of connections, so that a
    /// proof for one is worthless on another.
    pub fn new(channel: &str, me: Identity, server: Identity) -> Result<(Self, Vec<u8>)> {
        let nonce = random::<NONCE>()?;
        let mut hello = MAGIC.to_vec();
        put_name(&mut hello, channel)?;
        put_name(&mut hello, &me.name)?;
        hello.extend(me.generation.0.to_le_bytes());
        put_name(&mut hello, &server.name)?;
        hello.extend(server.generation.0.to_le_bytes());
        hello.extend(nonce);
        let this = Self {
            me,
            server,
            hello: hello.clone(),
        };
        Ok((this, hello))
    }

    /// Checks the server's `Reply`; returns the `Finish` to send and the session key.
    ///
    /// Errors: `PeerGone` when another generation answers (the peer restarted),
    /// `Unauthenticated` when the proof is wrong, `PeerMisbehaved` for anything malformed.
    pub fn finish(self, reply: &[u8]) -> Result<(Vec<u8>, SessionKey)> {
        let mut r = Reader(reply);
        let generation = Generation(r.u64()?);
        let nonce = r.take(NONCE)?;
        let proof = r.take(MAC)?;
        r.end()?;
        if generation != self.server.generation {
            return Err(fail(
                ErrorKind::PeerGone,
                format!(
                    "another incarnation answers there: generation {generation}, the loaded metadata \
                     says {}; load its new metadata",
                    self.server.generation
                ),
            )
            .with_peer(&self.server.name));
        }
        let secret = &self.server.secret;
        if !check(secret, &[b"server", &self.hello, nonce], proof) {
            return Err(fail(
                ErrorKind::Unauthenticated,
                "whoever answers there does not know the peer's secret",
            )
            .with_peer(&self.server.name));
        }
        let mut finish = mac(secret, &[b"client", &self.hello, nonce]).to_vec();
        finish.extend(mac(&self.me.secret, &[b"self", &self.hello, nonce]));
        Ok((finish, session_key(secret, &self.hello, nonce)))
    }
}

fn session_key(secret: &Secret, hello: &[u8], nonce: &[u8]) -> SessionKey {
    SessionKey(Secret(mac(secret, &[b"session", hello, nonce])))
}

/// The server's side, after `Reply` was made.
pub struct ServerHandshake {
    me: Identity,
    hello: Vec<u8>,
    nonce: [u8; NONCE],
    client: String,
    generation: Generation,
}

impl ServerHandshake {
    /// Reads a `Hello`; returns the `Reply` to send.
    pub fn new(channel: &str, me: Identity, hello: &[u8]) -> Result<(Self, Vec<u8>)> {
        let mut r = Reader(hello);
        if r.take(MAGIC.len())? != MAGIC {
            return Err(malformed("it does not begin as one"));
        }
        let asked = r.name()?;
        let client = r.name()?.to_owned();
        let generation = Generation(r.u64()?);
        let (name, _generation_asked) = (r.name()?, r.u64()?);
        r.take(NONCE)?;
        r.end()?;
        if asked != channel {
            return Err(malformed("it is for another kind of connection"));
        }
        if name != me.name {
            return Err(fail(
                ErrorKind::PeerMisbehaved,
                format!("{client:?} asks for agent {name:?}, this is {:?}", me.name),
            ));
        }
        let nonce = random::<NONCE>()?;
        let mut reply = me.generation.0.to_le_bytes().to_vec();
        reply.extend(nonce);
        reply.extend(mac(&me.secret, &[b"server", hello, &nonce]));
        let this = Self {
            me,
            hello: hello.to_vec(),
            nonce,
            client,
            generation,
        };
        Ok((this, reply))
    }

    /// Name and generation that the client claims.
    pub fn claims(&self) -> (&str, Generation) {
        (&self.client, self.generation)
    }

    /// Checks the client's `Finish` against what is `known` of its name.
    ///
    /// Errors: `Unauthenticated` when a proof is wrong, or when the name is loaded here and the
    /// client cannot prove to be that peer.
    pub fn finish(self, finish: &[u8], known: Known) -> Result<(PeerIdentity, SessionKey)> {
        let mut r = Reader(finish);
        let (card_proof, own_proof) = (r.take(MAC)?, r.take(MAC)?);
        r.end()?;
        let refuse = |why: &str| {
            Err(fail(ErrorKind::Unauthenticated, why.to_owned()).with_peer(&self.client))
        };
        if !check(
            &self.me.secret,
            &[b"client", &self.hello, &self.nonce],
            card_proof,
        ) {
            return refuse("the connecting agent does not hold our metadata (wrong secret)");
        }
        let verified = match known {
            Known::No => false,
            Known::Loaded(generation, secret) => {
                let same = generation == self.generation;
                if !same || !check(&secret, &[b"self", &self.hello, &self.nonce], own_proof) {
                    return refuse(
                        "the connecting agent uses the name of a loaded peer and cannot prove to be \
                         it; if that peer restarted, load its new metadata",
                    );
                }
                true
            }
        };
        let key = session_key(&self.me.secret, &self.hello, &self.nonce);
        let peer = PeerIdentity {
            name: self.client,
            generation: self.generation,
            verified,
        };
        Ok((peer, key))
    }
}

fn put_name(out: &mut Vec<u8>, name: &str) -> Result<()> {
    let len = u8::try_from(name.len())
        .map_err(|_| fail(ErrorKind::ApiMisuse, "a name is longer than 255 bytes"))?;
    out.push(len);
    out.extend(name.as_bytes());
    Ok(())
}

fn malformed(what: &str) -> Error {
    fail(
        ErrorKind::PeerMisbehaved,
        format!("malformed handshake message: {what}"),
    )
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, tail) = self
            .0
            .split_at_checked(n)
            .ok_or_else(|| malformed("it is too short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn u64(&mut self) -> Result<u64> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(bytes))
    }

    fn name(&mut self) -> Result<&'a str> {
        let len = self.take(1)?[0];
        std::str::from_utf8(self.take(usize::from(len))?)
            .map_err(|_| malformed("a name is not UTF-8"))
    }

    fn end(&self) -> Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(malformed("it has bytes left over"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str, n: u8) -> Identity {
        Identity {
            name: name.to_owned(),
            generation: Generation(u64::from(n)),
            secret: Secret([n; 32]),
        }
    }

    fn known(a: &Identity) -> Known {
        Known::Loaded(a.generation, a.secret.clone())
    }

    fn shake(
        client: Identity,
        server_as_seen: Identity,
        server: Identity,
        k: Known,
    ) -> Result<PeerIdentity> {
        let (c, hello) = ClientHandshake::new("tcp", client, server_as_seen)?;
        let (s, reply) = ServerHandshake::new("tcp", server, &hello)?;
        let (finish, ckey) = c.finish(&reply)?;
        let (peer, skey) = s.finish(&finish, k)?;
        assert_eq!(ckey.derive(b"x"), skey.derive(b"x"));
        assert_ne!(ckey.derive(b"x"), skey.derive(b"y"));
        Ok(peer)
    }

    #[test]
    fn loaded_peers_are_verified_and_strangers_are_not() {
        let (a, b) = (agent("a", 1), agent("b", 2));
        let p = shake(a.clone(), b.clone(), b.clone(), known(&a)).unwrap();
        assert!(p.verified && p.name == "a" && p.generation == a.generation);
        assert!(!shake(a, b.clone(), b, Known::No).unwrap().verified);
    }

    #[test]
    fn wrong_secrets_and_generations_are_refused() {
        let (a, b) = (agent("a", 1), agent("b", 2));
        let wrong = Identity {
            secret: Secret([9; 32]),
            ..b.clone()
        };
        let e = shake(a.clone(), wrong, b.clone(), Known::No).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unauthenticated);
        let old = Identity {
            generation: Generation(77),
            ..b.clone()
        };
        let e = shake(a.clone(), old, b.clone(), Known::No).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PeerGone);
        let impostor = Identity {
            secret: Secret([3; 32]),
            ..a.clone()
        };
        let e = shake(impostor, b.clone(), b.clone(), known(&a)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unauthenticated);
        let restarted = Identity {
            generation: Generation(5),
            ..a.clone()
        };
        let e = shake(restarted, b.clone(), b, known(&a)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unauthenticated);
    }

    #[test]
    fn a_client_without_the_servers_card_is_refused() {
        let (a, b) = (agent("a", 1), agent("b", 2));
        let (_, hello) = ClientHandshake::new("tcp", a, b.clone()).unwrap();
        let (s, _) = ServerHandshake::new("tcp", b, &hello).unwrap();
        let e = s.finish(&[0; 64], Known::No).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unauthenticated);
    }

    #[test]
    fn a_replayed_handshake_fails() {
        let (a, b) = (agent("a", 1), agent("b", 2));
        let (c, hello) = ClientHandshake::new("tcp", a, b.clone()).unwrap();
        let (s, reply) = ServerHandshake::new("tcp", b.clone(), &hello).unwrap();
        let (finish, _) = c.finish(&reply).unwrap();
        s.finish(&finish, Known::No).unwrap();
        let (again, _) = ServerHandshake::new("tcp", b.clone(), &hello).unwrap();
        let e = again.finish(&finish, Known::No).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unauthenticated);
        assert!(
            ServerHandshake::new("ipc", b, &hello).is_err(),
            "another channel"
        );
    }

    #[test]
    fn garbage_and_truncation_are_errors() {
        let (a, b) = (agent("a", 1), agent("b", 2));
        let (_, hello) = ClientHandshake::new("tcp", a, b.clone()).unwrap();
        assert!(hello.len() <= MAX_MESSAGE);
        for n in 0..hello.len() {
            assert!(ServerHandshake::new("tcp", b.clone(), &hello[..n]).is_err());
        }
        for seed in 0..=255u8 {
            let junk = [seed; 80];
            assert!(ServerHandshake::new("tcp", b.clone(), &junk).is_err());
        }
    }
}
