//! Connecting to a peer: names, addresses, handshake, data streams.

use std::{
    collections::VecDeque,
    net::{SocketAddr, ToSocketAddrs},
    os::fd::OwnedFd,
    sync::{Arc, Weak},
    time::Instant,
};

use nixl_core::{
    Error, ErrorKind, Result,
    auth::{ClientHandshake, SessionKey},
    backend::{ConnectDone, PeerAddress},
    runtime::{Readiness, Watch, WatchToken},
};
use nixl_tcp_proto::GreetingKind;
use parking_lot::Mutex;

use crate::{
    NAME, PATH,
    address::{Address, Host},
    conn::misbehaved,
    gate::Turn,
    greet::{CHANNEL, Greeter, Streams, is_proof, join_proof, welcome_proof},
    lobby::Lobby,
    sock,
};

/// One attempt to connect; tries the peer's addresses one after the other.
pub(crate) struct Dialer {
    me: Weak<Dialer>,
    lobby: Weak<Lobby>,
    peer: Arc<PeerAddress>,
    streams: u8,
    turn: Turn,
    dial: Mutex<Dial>,
}

struct Dial {
    done: Option<ConnectDone>,
    left: VecDeque<SocketAddr>,
    at: Option<SocketAddr>,
    try_until: Instant,
    until: Instant,
    lines: Vec<Line>,
    stage: Stage,
    errors: Vec<Error>,
}

/// One socket of the attempt.
struct Line {
    greeter: Greeter,
    connected: bool,
    /// A data stream that asked to join, and that was let in.
    said: bool,
    joined: bool,
    _watch: WatchToken,
}

enum Stage {
    /// Waiting for the control stream to connect.
    Calling,
    Proving(Box<ClientHandshake>),
    /// Waiting to be let in.
    Proved(SessionKey),
    Joining {
        key: SessionKey,
        session: [u8; 8],
        control: OwnedFd,
    },
    /// Nothing more to do, or a step in progress.
    Over,
}

impl Dialer {
    /// Starts to connect and reports through `done`.
    pub(crate) fn start(lobby: &Arc<Lobby>, peer: Arc<PeerAddress>, done: ConnectDone) {
        let address = peer
            .card
            .backend(NAME)
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, "the peer does not listen on TCP"))
            .and_then(|b| Address::decode(&b.address));
        let address = match address {
            Ok(address) => address,
            Err(e) => return done.failed(e.with_peer(&peer.card.name).with_path(PATH)),
        };
        let until = Instant::now() + lobby.config.connect_timeout;
        let this = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            lobby: Arc::downgrade(lobby),
            peer,
            streams: lobby.config.streams as u8,
            turn: Turn::default(),
            dial: Mutex::new(Dial {
                done: Some(done),
                left: VecDeque::new(),
                at: None,
                try_until: until,
                until,
                lines: Vec::new(),
                stage: Stage::Calling,
                errors: Vec::new(),
            }),
        });
        lobby.add_dialer(&this);
        lobby.ctx.runtime.tick_by(Instant::now());
        this.resolve(address);
    }

    /// Host names need a thread: the system's resolver blocks.
    fn resolve(self: &Arc<Self>, address: Address) {
        let numeric = address.hosts.iter().all(|h| matches!(h, Host::Ip(_)));
        if numeric {
            return self.call(resolved(&address).0);
        }
        let this = self.clone();
        let spawned = std::thread::Builder::new()
            .name("nixl-resolve".to_owned())
            .spawn(move || {
                let (found, errors) = resolved(&address);
                this.dial.lock().errors.extend(errors);
                this.call(found);
            });
        if let Err(e) = spawned {
            self.fail(Error::os("starting a thread to resolve a host name", e));
        }
    }

    fn call(&self, addresses: Vec<SocketAddr>) {
        self.dial.lock().left.extend(addresses);
        self.next_address(None);
    }

    /// Gives up the current address and tries the next one.
    fn next_address(&self, why: Option<Error>) {
        let mut dial = self.dial.lock();
        if dial.done.is_none() {
            return;
        }
        if let Some(e) = why {
            let at = dial.at.map_or_else(String::new, |a| format!("{a}: "));
            let text = format!("{at}{}", e.message());
            dial.errors.push(Error::new(e.kind(), text));
        }
        loop {
            dial.lines.clear();
            let Some(at) = dial.left.pop_front() else {
                let e = summary(&dial.errors);
                drop(dial);
                return self.fail(e);
            };
            let now = Instant::now();
            let share = dial.until.saturating_duration_since(now) / (dial.left.len() as u32 + 1);
            (dial.at, dial.try_until, dial.stage) = (Some(at), now + share, Stage::Calling);
            match self.line(at) {
                Ok(line) => {
                    dial.lines.push(line);
                    break;
                }
                Err(e) => dial
                    .errors
                    .push(Error::new(e.kind(), format!("{at}: {}", e.message()))),
            }
        }
        drop(dial);
        self.ready_now();
    }

    fn line(&self, to: SocketAddr) -> Result<Line> {
        let (Some(lobby), Some(me)) = (self.lobby.upgrade(), self.me.upgrade()) else {
            return Err(Error::new(ErrorKind::PeerGone, "this agent is gone"));
        };
        let fd = sock::connect(to).map_err(|e| sock::gone("connecting failed", e))?;
        sock::tune(&fd).map_err(|e| Error::os("setting options of a TCP socket", e))?;
        let watch = lobby.ctx.runtime.watch(std::os::fd::AsFd::as_fd(&fd), me)?;
        Ok(Line {
            greeter: Greeter::new(fd),
            connected: false,
            said: false,
            joined: false,
            _watch: watch,
        })
    }

    fn ready_now(&self) {
        if !self.turn.take() {
            return;
        }
        loop {
            let went = {
                let mut dial = self.dial.lock();
                self.advance(&mut dial)
            };
            match went {
                Ok(None) => {}
                Ok(Some(streams)) => self.finish(streams),
                Err(e) => self.next_address(Some(e)),
            }
            if self.turn.done() {
                return;
            }
        }
    }

    /// Goes on as far as it can; the sockets once all is done.
    fn advance(&self, dial: &mut Dial) -> Result<Option<Streams>> {
        loop {
            for line in &mut dial.lines {
                if !line.connected {
                    line.connected = sock::connected(line.greeter.fd())
                        .map_err(|e| sock::gone("connecting failed", e))?;
                }
            }
            let before = std::mem::discriminant(&dial.stage);
            match std::mem::replace(&mut dial.stage, Stage::Over) {
                Stage::Over => return Ok(None),
                Stage::Joining {
                    key,
                    session,
                    control,
                } => {
                    if join(&mut dial.lines, &key, session)? {
                        let data = dial.lines.drain(..).map(|l| l.greeter.into_fd()).collect();
                        return Ok(Some(Streams { control, data }));
                    }
                    dial.stage = Stage::Joining {
                        key,
                        session,
                        control,
                    };
                    return Ok(None);
                }
                stage => dial.stage = self.prove(&mut dial.lines, stage)?,
            }
            if std::mem::discriminant(&dial.stage) == before {
                return Ok(None);
            }
            if let Stage::Joining { .. } = dial.stage {
                let at = dial
                    .at
                    .ok_or_else(|| sock::gone("connecting", "no address"))?;
                dial.lines = (0..self.streams)
                    .map(|_| self.line(at))
                    .collect::<Result<_>>()?;
            }
        }
    }

    /// The control stream's handshake, a step at a time.
    fn prove(&self, lines: &mut Vec<Line>, stage: Stage) -> Result<Stage> {
        let Some(line) = lines.first_mut().filter(|l| l.connected) else {
            return Ok(stage);
        };
        if let Stage::Calling = stage {
            let me = self.lobby.upgrade().map(|l| l.ctx.identity.clone());
            let me = me.ok_or_else(|| Error::new(ErrorKind::PeerGone, "this agent is gone"))?;
            let (handshake, hello) = ClientHandshake::new(CHANNEL, me, self.peer.identity())?;
            line.greeter.say(GreetingKind::Hello, &hello)?;
            return Ok(Stage::Proving(Box::new(handshake)));
        }
        let Some((kind, body)) = line.greeter.hear()? else {
            return Ok(stage);
        };
        match (kind, stage) {
            (GreetingKind::HelloReply, Stage::Proving(handshake)) => {
                let (mut finish, key) = handshake.finish(&body)?;
                finish.push(self.streams);
                line.greeter.say(GreetingKind::Finish, &finish)?;
                Ok(Stage::Proved(key))
            }
            (GreetingKind::Welcome, Stage::Proved(key)) => {
                let bad = |_| misbehaved(nixl_tcp_proto::ProtocolError::BadField("session"));
                let session = <[u8; 8]>::try_from(&body[..]).map_err(bad)?;
                let control = lines.remove(0).greeter.into_fd();
                Ok(Stage::Joining {
                    key,
                    session,
                    control,
                })
            }
            (kind, _) => Err(misbehaved(nixl_tcp_proto::ProtocolError::BadType(
                kind as u8,
            ))),
        }
    }

    fn finish(&self, streams: Streams) {
        let done = self.dial.lock().done.take();
        let (Some(done), Some(lobby)) = (done, self.lobby.upgrade()) else {
            return;
        };
        match lobby.establish(&self.peer.card.name, streams) {
            Err(e) => done.failed(e),
            Ok(conn) => match done.connected(conn.clone()) {
                Some(handler) => conn.start(handler),
                None => nixl_core::backend::Endpoint::close(&*conn),
            },
        }
    }

    fn fail(&self, why: Error) {
        let done = {
            let mut dial = self.dial.lock();
            dial.stage = Stage::Over;
            dial.lines.clear();
            dial.done.take()
        };
        if let Some(done) = done {
            done.failed(why.with_peer(&self.peer.card.name).with_path(PATH));
        }
    }

    /// The agent shuts down.
    pub(crate) fn give_up(&self) {
        self.fail(Error::new(
            ErrorKind::PeerGone,
            "this agent is shutting down",
        ));
    }

    /// Ends an address, or the whole attempt, that takes too long.
    pub(crate) fn tick(&self, now: Instant) {
        let (all, this) = {
            let dial = self.dial.lock();
            if matches!(dial.stage, Stage::Over) {
                return;
            }
            (
                now >= dial.until,
                dial.at.is_some() && now >= dial.try_until,
            )
        };
        let late = |what| Error::new(ErrorKind::Timeout, what);
        if all {
            let mut dial = self.dial.lock();
            let at = dial.at.map_or_else(String::new, |a| format!("{a}: "));
            dial.errors.push(late(format!("{at}no answer in time")));
            let e = summary(&dial.errors);
            drop(dial);
            self.fail(e);
        } else if this {
            self.next_address(Some(late("no answer in time".to_owned())));
        }
    }
}

impl Watch for Dialer {
    fn ready(&self, _: Readiness) {
        self.ready_now();
    }
}

/// The data streams' handshake; true once all are in.
fn join(lines: &mut [Line], key: &SessionKey, session: [u8; 8]) -> Result<bool> {
    for (i, line) in lines.iter_mut().enumerate().filter(|(_, l)| l.connected) {
        let index = i as u8;
        if !line.said {
            let mut body = session.to_vec();
            body.push(index);
            body.extend(join_proof(key, index));
            line.greeter.say(GreetingKind::Join, &body)?;
            line.said = true;
        }
        if line.joined {
            continue;
        }
        if let Some((kind, body)) = line.greeter.hear()? {
            if kind != GreetingKind::Welcome || !is_proof(welcome_proof(key, index), &body) {
                return Err(Error::new(
                    ErrorKind::Unauthenticated,
                    "a data stream reached somebody who does not know the session's key",
                ));
            }
            line.joined = true;
        }
    }
    Ok(lines.iter().all(|l| l.joined))
}

/// What to report after every address failed: the most telling error, and all texts.
fn summary(errors: &[Error]) -> Error {
    let telling = |e: &&Error| !matches!(e.kind(), ErrorKind::Timeout | ErrorKind::Backend);
    let auth = |e: &&Error| e.kind() == ErrorKind::Unauthenticated;
    let kind = errors
        .iter()
        .find(auth)
        .or_else(|| errors.iter().find(telling))
        .or(errors.first())
        .map_or(ErrorKind::PeerGone, Error::kind);
    let texts: Vec<_> = errors.iter().map(Error::message).collect();
    let text = if texts.is_empty() {
        "none of its host names has an address".to_owned()
    } else {
        texts.join("; ")
    };
    Error::new(kind, format!("cannot connect over TCP: {text}"))
}

fn resolved(address: &Address) -> (Vec<SocketAddr>, Vec<Error>) {
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    for host in &address.hosts {
        match host {
            Host::Ip(ip) => out.push(SocketAddr::new(*ip, address.port)),
            Host::Name(name) => match (name.as_str(), address.port).to_socket_addrs() {
                Ok(found) => out.extend(found),
                Err(e) => errors.push(sock::gone(&format!("resolving {name:?}"), e)),
            },
        }
    }
    (out, errors)
}
