//! Who may still touch memory of another process by CMA (INV-1).
//!
//! CMA is a system call on the other process. No end of a connection stops it: a peer whose
//! connection broke goes on until it notices, and a stopped one has not noticed yet. The kernel
//! tells: whoever may touch listens on a socket under the connection's name until it is through,
//! and whoever is touched stays connected to that. The connection hangs up when the peer lets go
//! or dies, and not before.

use std::{fmt::Write as _, os::fd::OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{
        AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind,
        connect, listen, shutdown, socket_with, sockopt::socket_peercred,
    },
    process::test_kill_process,
};

use crate::wire::Token;

/// Says that this process may touch the peer's memory. Dropping it says that it is through.
pub(crate) struct Witness(OwnedFd);

impl Witness {
    /// `name` is the peer's name for the connection.
    ///
    /// Errors: as `socket(2)`, `bind(2)` and `listen(2)`.
    pub(crate) fn new(name: &Token) -> Result<Self, Errno> {
        let socket = stream()?;
        bind(&socket, &address(name)?)?;
        listen(&socket, 1)?;
        Ok(Self(socket))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // A child that was forked meanwhile has the socket too: closing ours would not be seen.
        while let Ok(watch) = accept_with(&self.0, SocketFlags::CLOEXEC) {
            let _ = shutdown(watch, Shutdown::Both);
        }
    }
}

/// Sees whether the peer may still touch memory of this process.
pub(crate) struct Watch(OwnedFd);

impl Watch {
    /// `name` is our name for the connection. `None`: the peer says nothing about CMA.
    ///
    /// Errors: as `socket(2)` and `connect(2)`.
    pub(crate) fn new(name: &Token) -> Result<Option<Self>, Errno> {
        let socket = stream()?;
        match connect(&socket, &address(name)?) {
            Ok(()) => Ok(Some(Self(socket))),
            Err(Errno::CONNREFUSED) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether the peer has neither let go nor died.
    pub(crate) fn is_held(&self) -> bool {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let over = PollFlags::HUP | PollFlags::ERR | PollFlags::IN;
        match poll(&mut fds, Some(&rustix::time::Timespec::default())) {
            Ok(0) => self.owner_lives(),
            Ok(_) => !fds[0].revents().intersects(over),
            Err(_) => true,
        }
    }

    /// A child that the peer forked keeps the socket, and touches nothing.
    fn owner_lives(&self) -> bool {
        match socket_peercred(&self.0) {
            Ok(owner) => test_kill_process(owner.pid) != Err(Errno::SRCH),
            Err(_) => true,
        }
    }
}

fn stream() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn address(name: &Token) -> Result<SocketAddrUnix, Errno> {
    let mut text = "nixl-rs-ucx-".to_owned();
    for byte in name {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    SocketAddrUnix::new_abstract_name(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Token {
        nixl_core::auth::random().unwrap()
    }

    #[test]
    fn it_is_held_until_it_is_dropped() {
        let name = name();
        assert!(Watch::new(&name).unwrap().is_none(), "nobody listens yet");
        let witness = Witness::new(&name).unwrap();
        let watch = Watch::new(&name).unwrap().unwrap();
        assert!(watch.is_held());
        drop(witness);
        assert!(!watch.is_held());
        assert!(Watch::new(&name).unwrap().is_none());
    }

    #[test]
    fn a_copy_of_the_socket_in_a_child_holds_nothing() {
        let name = name();
        let witness = Witness::new(&name).unwrap();
        let copy = witness.0.try_clone().unwrap();
        let watch = Watch::new(&name).unwrap().unwrap();
        drop(witness);
        assert!(!watch.is_held());
        drop(copy);
    }
}
