//! One connection over the Unix socket: packets in and out, regions asked for and granted.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use nixl_core::{
    Error, ErrorKind, Result,
    error::fail,
    gate::Gate,
    mem::Access,
    notify::MAX_NOTIFICATION,
    runtime::{Readiness, Turn, Watch, WatchToken},
};
use parking_lot::Mutex;
use rustix::{
    io::Errno,
    net::{Shutdown, shutdown},
    process::Pid,
};

use crate::{
    doorbell::Pump,
    fault::{self, misbehaved},
    greeting::Greeting,
    imports::{Imports, Terms},
    mapping::Share,
    node::Node,
    process::{PROOF, Process},
    sock::{self, PACKET, Received},
    wire::{Frame, Import, PART_HEAD, part_head},
};

/// Longest message: core's longest notification and its envelope.
const MAX_MESSAGE: usize = MAX_NOTIFICATION + (64 << 10);
/// Packets handled before others get a turn.
const BUDGET: usize = 64;
/// Answers that may wait to be sent; a peer asks for far fewer at once.
const MAX_ANSWERS: usize = 256;
/// Bytes of unsent messages at which the peer is given up: twice what core lets a peer leave
/// unread (64 MiB).
const BACKLOG: usize = 128 << 20;
/// What a queued message takes beside its bytes, about: small ones are not free.
const OVERHEAD: usize = 64;

pub(crate) struct Link {
    pub(crate) node: Arc<Node>,
    pub(crate) socket: OwnedFd,
    pub(crate) process: Process,
    /// 32 bytes that the peer reads from our memory to prove that it can.
    pub(crate) proof: OnceLock<[u8; PROOF]>,
    /// Set once both sides are known to each other.
    pub(crate) met: OnceLock<Met>,
    /// The handshake ends by then.
    pub(crate) deadline: Instant,
    watch: Mutex<Option<WatchToken>>,
    gate: Gate,
    turn: Turn,
    rx: Mutex<Rx>,
    tx: Mutex<Tx>,
    imports: Imports,
}

/// What the introduction showed.
pub(crate) struct Met {
    /// The process that CMA reaches, or why it does not.
    pub(crate) cma: Result<Pid>,
}

struct Rx {
    packet: Box<[u8]>,
    /// A message of several parts, so far.
    message: Vec<u8>,
    greeting: Greeting,
}

#[derive(Default)]
struct Tx {
    control: VecDeque<Control>,
    messages: VecDeque<Message>,
    /// What `messages` takes, in bytes.
    queued: usize,
}

/// A frame to send, ahead of messages.
struct Control {
    bytes: Vec<u8>,
    /// Memory to hand over with the answer to this question.
    share: Option<(u64, Share)>,
}

struct Message {
    bytes: Bytes,
    sent: usize,
}

impl Message {
    fn cost(&self) -> usize {
        self.bytes.len() + OVERHEAD
    }
}

impl Link {
    pub(crate) fn new(
        node: Arc<Node>,
        socket: OwnedFd,
        process: Process,
        greeting: Greeting,
        deadline: Instant,
    ) -> Self {
        Self {
            process,
            node,
            socket,
            proof: OnceLock::new(),
            met: OnceLock::new(),
            deadline,
            watch: Mutex::new(None),
            gate: Gate::default(),
            turn: Turn::default(),
            rx: Mutex::new(Rx {
                packet: vec![0; PACKET].into_boxed_slice(),
                message: Vec::new(),
                greeting,
            }),
            tx: Mutex::default(),
            imports: Imports::default(),
        }
    }

    /// Whether the handshake is through.
    pub(crate) fn is_met(&self) -> bool {
        self.met.get().is_some()
    }

    /// Begins to listen to the socket.
    pub(crate) fn watch(self: &Arc<Self>) {
        let watched = self
            .node
            .ctx
            .runtime
            .watch(self.socket.as_fd(), Arc::new(Watcher(self.clone())));
        match watched {
            Ok(token) => *self.watch.lock() = Some(token),
            Err(why) => self.shut(why),
        }
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(crate) fn imports(&self) -> &Imports {
        &self.imports
    }

    /// Whether the peer's process lives and holds the connection.
    pub(crate) fn check_peer(&self) -> Result<()> {
        self.process.check(&self.socket)
    }

    /// Has the reactor look after this connection.
    pub(crate) fn ring(self: &Arc<Self>) {
        self.node.bell.ring(self.clone());
    }

    /// Closes for `why`; the reactor cleans up.
    pub(crate) fn shut(self: &Arc<Self>, why: Error) {
        if self.gate.close(why) {
            self.ring();
        }
    }

    /// Tells the peer why before closing.
    pub(crate) fn reject(self: &Arc<Self>, why: Error) {
        let _ = sock::send(
            &self.socket,
            &Frame::Reject(why.clone()).encode(),
            &[],
            None,
        );
        self.shut(why);
    }

    // --- sending ---

    /// Sends a frame, ahead of messages.
    pub(crate) fn control(self: &Arc<Self>, frame: &Frame<'_>) {
        self.enqueue(Control {
            bytes: frame.encode(),
            share: None,
        });
    }

    fn enqueue(self: &Arc<Self>, control: Control) {
        self.tx.lock().control.push_back(control);
        self.flush();
    }

    /// Queues a message and sends what the socket takes now. A peer that leaves [`BACKLOG`] bytes
    /// unread is cut off.
    pub(crate) fn send(self: &Arc<Self>, bytes: Bytes) -> Result<()> {
        self.gate.check()?;
        if bytes.len() > MAX_MESSAGE {
            return Err(fail(
                ErrorKind::ApiMisuse,
                format!(
                    "a message of {} bytes; {MAX_MESSAGE} are allowed",
                    bytes.len()
                ),
            ));
        }
        let queued = self.tx.lock().push(bytes);
        if let Err(why) = queued {
            self.shut(why.clone());
            return Err(why);
        }
        self.flush();
        Ok(())
    }

    /// Sends what the socket takes now; the reactor goes on when it takes more.
    fn flush(self: &Arc<Self>) {
        let result = self.tx.lock().flush(&self.socket);
        match result {
            Ok(()) | Err(Errno::AGAIN) => {}
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => {
                self.shut(fault::gone("the peer closed the connection"));
            }
            Err(e) => self.shut(fault::os("sending over the Unix socket", e)),
        }
    }

    // --- receiving ---

    fn read(self: &Arc<Self>) {
        let mut rx = self.rx.lock();
        for _ in 0..BUDGET {
            if self.gate.check().is_err() {
                return;
            }
            let got = match sock::recv(&self.socket, &mut rx.packet) {
                Ok(got) => got,
                Err(Errno::AGAIN) => return,
                // Told once; what the peer sent before it went can still be read.
                Err(Errno::CONNRESET) => continue,
                Err(e) => return self.shut(fault::os("receiving from the Unix socket", e)),
            };
            if got.len == 0 {
                return self.shut(fault::gone(
                    "the peer closed the connection: it shut down or died",
                ));
            }
            if let Err(why) = self.handle(&mut rx, got) {
                return self.reject(why);
            }
        }
        self.ring();
    }

    fn handle(self: &Arc<Self>, rx: &mut Rx, mut got: Received) -> Result<()> {
        if got.cut {
            return Err(misbehaved("a packet longer than any of ours"));
        }
        let fd = got.fd.take();
        let Rx {
            packet,
            message,
            greeting,
        } = rx;
        let frame = Frame::decode(&packet[..got.len])?;
        if fd.is_some() && !matches!(frame, Frame::Grant { .. }) {
            return Err(misbehaved("a descriptor that belongs to no answer"));
        }
        if !greeting.is_open() {
            return greeting.advance(self, frame);
        }
        match frame {
            Frame::Part { last, data } => self.deliver(message, last, data),
            Frame::Import(import) => self.serve(import),
            Frame::Grant {
                id,
                writable,
                offset,
            } => {
                let terms = Terms {
                    writable,
                    offset,
                    fd,
                    fd_lost: got.fd_lost,
                };
                let send = |frame: Frame<'_>| self.control(&frame);
                self.imports.answered(id, Ok(terms), &send)
            }
            Frame::Refuse { id, why } => {
                let send = |frame: Frame<'_>| self.control(&frame);
                self.imports.answered(id, Err(why), &send)
            }
            Frame::Reject(why) => {
                self.shut(why);
                Ok(())
            }
            _ => Err(misbehaved("a handshake message after the handshake")),
        }
    }

    fn deliver(&self, message: &mut Vec<u8>, last: bool, data: &[u8]) -> Result<()> {
        let Some(conn) = self.gate.conn() else {
            return Ok(());
        };
        if last && message.is_empty() {
            conn.message(data);
            return Ok(());
        }
        if message.len() + data.len() > MAX_MESSAGE {
            return Err(misbehaved(format!("a message of over {MAX_MESSAGE} bytes")));
        }
        message.extend_from_slice(data);
        if last {
            conn.message(message);
            *message = Vec::new();
        }
        Ok(())
    }

    /// Answers a peer that wants to use one of our regions.
    fn serve(self: &Arc<Self>, import: Import) -> Result<()> {
        if self.tx.lock().control.len() >= MAX_ANSWERS {
            return Err(misbehaved("too many questions without taking the answers"));
        }
        let answer = match self.grant(&import) {
            Ok((frame, share)) => Control {
                bytes: frame.encode(),
                share: share.map(|share| (import.id, share)),
            },
            Err(why) => Control {
                bytes: Frame::Refuse { id: import.id, why }.encode(),
                share: None,
            },
        };
        self.enqueue(answer);
        Ok(())
    }

    fn grant(&self, import: &Import) -> Result<(Frame<'static>, Option<Share>)> {
        let Import {
            id,
            map,
            key,
            addr,
            len,
        } = *import;
        let region = self.node.ctx.resolve(&key, addr, len, Access::Read)?;
        let share = if map { Share::of(&region)? } else { None };
        if map && share.is_none() {
            return Err(fail(
                ErrorKind::Unsupported,
                "the region's memory was not allocated by the agent, so it cannot be mapped",
            ));
        }
        let frame = Frame::Grant {
            id,
            writable: region.is_writable(),
            offset: addr - region.addr(),
        };
        Ok((frame, share))
    }

    // --- the end ---

    /// Lets go of everything. May be called again.
    fn clean_up(self: &Arc<Self>, why: &Error) {
        let watch = self.watch.lock().take();
        if watch.is_some() {
            // What was sent before the close still goes out, if it can at once.
            let _ = self.tx.lock().flush(&self.socket);
            let _ = shutdown(&self.socket, Shutdown::Both);
        }
        drop(watch);
        *self.tx.lock() = Tx::default();
        self.rx.lock().greeting.abandon(why);
        self.imports.close(why);
        self.node.remove(self);
    }
}

impl Tx {
    fn push(&mut self, bytes: Bytes) -> Result<()> {
        if self.queued > BACKLOG {
            return Err(misbehaved(format!(
                "the peer does not read its connection: {} bytes of messages wait",
                self.queued
            )));
        }
        let message = Message { bytes, sent: 0 };
        self.queued += message.cost();
        self.messages.push_back(message);
        Ok(())
    }

    fn flush(&mut self, socket: &OwnedFd) -> Result<(), Errno> {
        while let Some(control) = self.control.front_mut() {
            let share = control.share.as_ref();
            let fd = share.and_then(|(_, share)| share.fd());
            match sock::send(socket, &control.bytes, &[], fd) {
                Ok(()) => {
                    self.control.pop_front();
                }
                Err(e @ Errno::TOOMANYREFS) if share.is_some() => {
                    let Some((id, _)) = control.share.take() else {
                        continue;
                    };
                    let why = fault::os("handing over memory", e);
                    control.bytes = Frame::Refuse { id, why }.encode();
                }
                Err(e) => return Err(e),
            }
        }
        while let Some(message) = self.messages.front_mut() {
            let rest = &message.bytes[message.sent..];
            let part = &rest[..rest.len().min(PACKET - PART_HEAD)];
            let last = part.len() == rest.len();
            sock::send(socket, &part_head(last), part, None)?;
            message.sent += part.len();
            if last && let Some(sent) = self.messages.pop_front() {
                self.queued -= sent.cost();
            }
        }
        Ok(())
    }
}

/// The reactor's hold on a link.
struct Watcher(Arc<Link>);

impl Watch for Watcher {
    fn ready(&self, readiness: Readiness) {
        if readiness.writable {
            self.0.flush();
        }
        self.0.clone().pump();
    }
}

impl Pump for Link {
    fn pump(self: Arc<Self>) {
        self.turn.take(|| {
            self.read();
            if let Err(why) = self.gate.check() {
                self.clean_up(&why);
                self.gate.tell();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers that a peer's own messages ask for are small: they count with what they take
    /// beside their bytes, and room comes back with what the socket takes.
    #[test]
    fn small_messages_are_not_free() {
        let mut tx = Tx::default();
        let answer = Bytes::from_static(&[6; 10]);
        let took = (0..BACKLOG)
            .take_while(|_| tx.push(answer.clone()).is_ok())
            .count();
        assert_eq!(took, BACKLOG / (10 + OVERHEAD) + 1);
        let e = tx.push(answer.clone()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PeerMisbehaved);
        tx.messages.truncate(1);
        tx.queued = tx.messages[0].cost();
        let (ours, _theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
        tx.flush(&ours.into()).unwrap();
        assert_eq!((tx.queued, tx.messages.len()), (0, 0));
        tx.push(answer).unwrap();
    }
}
