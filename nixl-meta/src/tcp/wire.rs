//! Bytes over a socket until a deadline, and names to addresses until a deadline.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nixl_core::{Error, ErrorKind, Result};

/// Memory is taken as data arrives, never on the word of a length field.
const STEP: usize = 256 << 10;

/// One side of a connection; every call ends at `deadline`.
pub(super) struct Wire<'a> {
    stream: &'a TcpStream,
    peer: SocketAddr,
    pub(super) deadline: Instant,
}

impl<'a> Wire<'a> {
    pub(super) fn new(stream: &'a TcpStream, peer: SocketAddr, deadline: Instant) -> Self {
        // Without it small frames only wait for acknowledgements; not worth failing for.
        let _ = stream.set_nodelay(true);
        Self {
            stream,
            peer,
            deadline,
        }
    }

    pub(super) fn read_exact(&mut self, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let left = self.left()?;
            let got = self
                .stream
                .set_read_timeout(Some(left))
                .and_then(|()| self.stream.read(&mut buf[done..]));
            match got {
                Ok(0) => return Err(self.error(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => done += n,
                Err(e) if retry(&e) => {}
                Err(e) => return Err(self.error(e)),
            }
        }
        Ok(())
    }

    pub(super) fn read_array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut buf = [0; N];
        self.read_exact(&mut buf)?;
        Ok(buf)
    }

    /// The next bytes, left for the next read.
    pub(super) fn peek<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut buf = [0; N];
        loop {
            let left = self.left()?;
            let got = self
                .stream
                .set_read_timeout(Some(left))
                .and_then(|()| self.stream.peek(&mut buf));
            match got {
                Ok(0) => return Err(self.error(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) if n == N => return Ok(buf),
                // More is on its way, and peeking does not wait for it.
                Ok(_) => std::thread::sleep(Duration::from_millis(1)),
                Err(e) if retry(&e) => {}
                Err(e) => return Err(self.error(e)),
            }
        }
    }

    pub(super) fn read_vec(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut buf = Vec::new();
        while buf.len() < len {
            let at = buf.len();
            buf.resize(len.min(at + STEP.max(at)), 0);
            self.read_exact(&mut buf[at..])?;
        }
        Ok(buf)
    }

    pub(super) fn write_all(&mut self, mut buf: &[u8]) -> Result<()> {
        while !buf.is_empty() {
            let left = self.left()?;
            let put = self
                .stream
                .set_write_timeout(Some(left))
                .and_then(|()| self.stream.write(buf));
            match put {
                Ok(0) => return Err(self.error(io::ErrorKind::BrokenPipe.into())),
                Ok(n) => buf = &buf[n..],
                Err(e) if retry(&e) => {}
                Err(e) => return Err(self.error(e)),
            }
        }
        Ok(())
    }

    pub(super) fn fail(&self, kind: ErrorKind, what: impl std::fmt::Display) -> Error {
        Error::new(kind, format!("metadata peer {}: {what}", self.peer))
    }

    fn left(&self) -> Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.error(io::ErrorKind::TimedOut.into()));
        }
        // The kernel takes less than a microsecond for "no timeout".
        Ok(left.max(Duration::from_micros(1)))
    }

    fn error(&self, e: io::Error) -> Error {
        use io::ErrorKind as K;
        match e.kind() {
            K::TimedOut => self.fail(
                ErrorKind::Timeout,
                "it is too slow or cut off: the exchange did not end in time",
            ),
            K::UnexpectedEof | K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe => self
                .fail(
                    ErrorKind::PeerGone,
                    "it closed the connection in the middle",
                ),
            _ => self.fail(ErrorKind::Backend, e),
        }
    }
}

/// A socket timeout shows as `WouldBlock`: the deadline decides.
fn retry(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
    )
}

/// Addresses of `host:port`. A name is looked up in a thread of its own, because the system's
/// resolver knows no deadline.
pub(super) fn resolve(address: &str, deadline: Instant) -> Result<Vec<SocketAddr>> {
    if let Ok(literal) = address.parse() {
        return Ok(vec![literal]);
    }
    let (tx, rx) = mpsc::sync_channel(1);
    let name = address.to_owned();
    thread::Builder::new()
        .name("nixl-resolve".into())
        .spawn(move || {
            // Nobody listens any more once the deadline has passed.
            let _ = tx.send(name.to_socket_addrs().map(Vec::from_iter));
        })
        .map_err(|e| Error::os("start a thread to look up a name", e))?;
    let left = deadline.saturating_duration_since(Instant::now());
    match rx.recv_timeout(left) {
        Ok(Ok(found)) if !found.is_empty() => Ok(found),
        Ok(Ok(_)) => Err(unresolved(address, "it has no address")),
        Ok(Err(e)) if e.kind() == io::ErrorKind::InvalidInput => Err(Error::new(
            ErrorKind::ApiMisuse,
            format!("{address:?} is no address: give host:port, IPv6 as [::1]:port ({e})"),
        )),
        Ok(Err(e)) => Err(unresolved(address, e)),
        Err(_) => Err(Error::new(
            ErrorKind::Timeout,
            format!("looking up {address:?} did not end in time; check the resolver"),
        )),
    }
}

fn unresolved(address: &str, why: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("cannot look up {address:?}: {why}; check the name"),
    )
}
