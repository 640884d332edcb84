//! Sockets and their options (tcp(7), ipv6(7)).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use nixl_core::{Error, ErrorKind, Result};
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, sockopt},
};

use crate::config::TcpConfig;

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

fn socket(ip: IpAddr) -> rustix::io::Result<OwnedFd> {
    let family = match ip {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    rustix::net::socket_with(family, SocketType::STREAM, FLAGS, None)
}

/// Opens the listener; the wildcard takes IPv6 and IPv4, or IPv4 alone on a host without IPv6.
pub(crate) fn listen(config: &TcpConfig) -> Result<(OwnedFd, SocketAddr)> {
    let wildcard = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    match listen_on(config.bind.unwrap_or(wildcard), config.port) {
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) if config.bind.is_none() => {
            listen_on(IpAddr::V4(Ipv4Addr::UNSPECIFIED), config.port)
        }
        other => other,
    }
    .map_err(|e| {
        let at = SocketAddr::new(config.bind.unwrap_or(wildcard), config.port);
        let hint = match e {
            Errno::ADDRINUSE => "; another process has this port: choose another, or 0 for any",
            Errno::ACCESS => "; ports below 1024 need a privilege",
            Errno::MFILE | Errno::NFILE => "; raise the limit of open files (ulimit -n)",
            _ => "",
        };
        Error::new(ErrorKind::Backend, format!("listening on {at}: {e}{hint}"))
    })
}

fn listen_on(ip: IpAddr, port: u16) -> rustix::io::Result<(OwnedFd, SocketAddr)> {
    let fd = socket(ip)?;
    if ip.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, !ip.is_unspecified())?;
    }
    sockopt::set_socket_reuseaddr(&fd, true)?;
    rustix::net::bind(&fd, &SocketAddr::new(ip, port))?;
    rustix::net::listen(&fd, 1024)?;
    let at = SocketAddr::try_from(rustix::net::getsockname(&fd)?)?;
    Ok((fd, at))
}

/// Begins to connect.
pub(crate) fn connect(to: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let fd = socket(to.ip())?;
    match rustix::net::connect(&fd, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(fd),
        Err(e) => Err(e),
    }
}

/// Whether a connect has ended, and how.
pub(crate) fn connected(fd: impl AsFd) -> rustix::io::Result<bool> {
    sockopt::socket_error(&fd)??;
    match rustix::net::getpeername(&fd) {
        Ok(_) => Ok(true),
        Err(Errno::NOTCONN) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Takes one connection off the listener.
pub(crate) fn accept(listener: impl AsFd) -> rustix::io::Result<OwnedFd> {
    rustix::net::accept_with(listener, FLAGS)
}

/// Options of every stream.
pub(crate) fn tune(fd: impl AsFd) -> rustix::io::Result<()> {
    sockopt::set_tcp_nodelay(&fd, true)
}

/// Further options of the control stream, which finds out for all when the peer's host is gone.
///
/// Data streams do without: the kernel counts a full receive window against the user timeout too,
/// and a stopped peer's streams are full.
pub(crate) fn watch_host(fd: impl AsFd, config: &TcpConfig) -> rustix::io::Result<()> {
    let millis = u32::try_from(config.user_timeout.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(&fd, millis)?;
    sockopt::set_socket_keepalive(&fd, true)?;
    sockopt::set_tcp_keepidle(&fd, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(&fd, Duration::from_secs(5))
}

/// Ends both directions; whoever reads or writes sees it at once.
pub(crate) fn shut(fd: impl AsFd) {
    let _ = rustix::net::shutdown(fd, Shutdown::Both);
}

/// What a non-blocking call came to.
pub(crate) enum Moved {
    Bytes(usize),
    Blocked,
}

/// recv(2) into a buffer of ours; the end of the stream is `ECONNRESET`.
pub(crate) fn recv(fd: impl AsFd, buf: &mut [u8]) -> rustix::io::Result<Moved> {
    loop {
        match rustix::net::recv(&fd, &mut *buf, RecvFlags::DONTWAIT) {
            Ok((_, 0)) if !buf.is_empty() => return Err(Errno::CONNRESET),
            Ok((_, n)) => return Ok(Moved::Bytes(n)),
            Err(Errno::AGAIN) => return Ok(Moved::Blocked),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// send(2) from a buffer of ours.
pub(crate) fn send(fd: impl AsFd, bytes: &[u8]) -> rustix::io::Result<Moved> {
    loop {
        match rustix::net::send(&fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(n) => return Ok(Moved::Bytes(n)),
            Err(Errno::AGAIN) => return Ok(Moved::Blocked),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// A failed connection, as the layers above see it.
pub(crate) fn gone(what: &str, e: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::PeerGone, format!("{what}: {e}"))
}

/// Wakes this side only once `bytes` are there (SO_RCVLOWAT, socket(7)): fewer, larger reads.
///
/// The kernel caps the value at half of the largest receive buffer, and wakes at once if so much is there already.
pub(crate) fn wake_at(fd: BorrowedFd<'_>, bytes: u32) {
    let value = bytes as libc::c_int;
    // SAFETY: INV-5, the option takes an int, which lives across the call.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if done != 0 {
        tracing::trace!("SO_RCVLOWAT was refused; reads stay small");
    }
}
