//! The control stream: small frames, written by whoever has one, read on the reactor's thread.

use std::os::fd::OwnedFd;

use nixl_core::{Error, ErrorKind, Result, backend::Conn, runtime::Readiness};
use nixl_tcp_proto::{ControlRx, ControlStep, Settings, put_settings};
use parking_lot::Mutex;

use crate::{
    conn::{Connection, misbehaved},
    gate::Turn,
    sock::{self, Moved},
};

/// An output buffer above this is given back once it is empty.
const KEEP: usize = 1 << 20;
/// Unsent bytes at which the peer is given up: twice what core lets a peer leave unread (64 MiB).
const BACKLOG: usize = 128 << 20;

pub(crate) struct ControlStream {
    pub(crate) fd: OwnedFd,
    turn: Turn,
    rx: Mutex<ControlRx>,
    tx: Mutex<Out>,
}

#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    sent: usize,
}

impl ControlStream {
    /// A stream that begins with `settings`, whatever is sent before [`ControlStream::start`].
    pub(crate) fn new(fd: OwnedFd, settings: Settings) -> Self {
        let mut out = Out::default();
        put_settings(&mut out.bytes, settings);
        Self {
            fd,
            turn: Turn::default(),
            rx: Mutex::new(ControlRx::new()),
            tx: Mutex::new(out),
        }
    }

    /// Sends the settings and what was queued behind them.
    pub(crate) fn start(&self) -> Result<()> {
        self.flush(&mut self.tx.lock())
    }

    /// Appends a frame and sends what the socket takes. Errors: the peer is gone, or leaves
    /// [`BACKLOG`] bytes unread.
    pub(crate) fn send(&self, put: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let mut out = self.tx.lock();
        let waiting = !out.bytes.is_empty();
        if out.sent > out.bytes.len() / 2 {
            let sent = std::mem::take(&mut out.sent);
            out.bytes.drain(..sent);
        }
        if out.bytes.len() - out.sent > BACKLOG {
            return Err(Error::new(
                ErrorKind::PeerMisbehaved,
                "the peer does not read its control stream",
            ));
        }
        put(&mut out.bytes);
        if waiting {
            Ok(())
        } else {
            self.flush(&mut out)
        }
    }

    fn flush(&self, out: &mut Out) -> Result<()> {
        while out.sent < out.bytes.len() {
            match sock::send(&self.fd, &out.bytes[out.sent..]) {
                Ok(Moved::Bytes(n)) => out.sent += n,
                Ok(Moved::Blocked) => return Ok(()),
                Err(e) => return Err(sock::gone("sending to the peer failed", e)),
            }
        }
        out.sent = 0;
        out.bytes.clear();
        if out.bytes.capacity() > KEEP {
            out.bytes = Vec::new();
        }
        Ok(())
    }

    fn read(&self, conn: &Connection, handler: &Conn) -> Result<()> {
        let mut rx = self.rx.lock();
        loop {
            let n = match rx.step().map_err(misbehaved)? {
                ControlStep::Fill(buf) => match sock::recv(&self.fd, buf) {
                    Ok(Moved::Bytes(n)) => n,
                    Ok(Moved::Blocked) => return Ok(()),
                    Err(e) => return Err(sock::gone("the peer closed the connection", e)),
                },
                ControlStep::Message(message) => {
                    handler.message(message);
                    continue;
                }
                ControlStep::Settings(settings) => {
                    conn.settled(settings)?;
                    continue;
                }
                ControlStep::Ack { xfer, status } => {
                    conn.acked(xfer, status)?;
                    continue;
                }
                ControlStep::Cancel(xfer) => {
                    conn.peer_cancels(xfer)?;
                    continue;
                }
                ControlStep::Ping => continue,
            };
            rx.received(n).map_err(misbehaved)?;
        }
    }

    /// Handles an edge of readiness.
    pub(crate) fn ready(&self, conn: &Connection, readiness: Readiness) {
        if readiness.writable {
            let flushed = self.flush(&mut self.tx.lock());
            if let Err(e) = flushed {
                return conn.close_with(e);
            }
        }
        if !readiness.readable || !self.turn.take() {
            return;
        }
        loop {
            let read = match conn.handler() {
                Some(handler) => self.read(conn, &handler),
                None => Ok(()),
            };
            if let Err(e) = read {
                conn.close_with(e);
            }
            if self.turn.done() {
                return;
            }
        }
    }
}
