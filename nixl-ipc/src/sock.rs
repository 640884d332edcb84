//! Packets with at most one descriptor over a Unix socket (unix(7), SOCK_SEQPACKET).

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use nixl_core::Result;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
        sendmsg, socket_with,
    },
};

use crate::fault;

/// Longest packet in bytes.
pub(crate) const PACKET: usize = 64 << 10;

/// A fresh non-blocking socket.
pub(crate) fn open() -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|e| fault::os("opening a Unix socket", e))
}

/// Sends one packet, whole or not at all.
pub(crate) fn send(
    socket: &OwnedFd,
    head: &[u8],
    body: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if fd.is_some() {
        control.push(SendAncillaryMessage::ScmRights(fd.as_slice()));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let parts = [IoSlice::new(head), IoSlice::new(body)];
    loop {
        match sendmsg(socket, &parts, &mut control, flags) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// One packet.
pub(crate) struct Received {
    /// Its length; 0 where the peer closed the socket.
    pub(crate) len: usize,
    /// The descriptor that came with it.
    pub(crate) fd: Option<OwnedFd>,
    /// A descriptor came that this process could not take (no number left).
    pub(crate) fd_lost: bool,
    /// It was longer than the buffer.
    pub(crate) cut: bool,
}

/// Receives one packet into `buf`.
pub(crate) fn recv(socket: &OwnedFd, buf: &mut [u8]) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(buf)], &mut control, flags) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let fd = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .next();
    Ok(Received {
        len: got.bytes,
        fd,
        fd_lost: got.flags.contains(ReturnFlags::CTRUNC),
        cut: got.flags.contains(ReturnFlags::TRUNC),
    })
}

/// Who holds the other end, as the kernel saw it when the connection was made.
pub(crate) struct Credentials {
    /// Process id in our PID namespace; 0 where it is not visible from here.
    pub(crate) pid: i32,
    /// Effective uid.
    pub(crate) uid: u32,
}

/// SO_PEERCRED. `rustix` types the pid as non-zero, which it is not across PID namespaces.
pub(crate) fn credentials(socket: &OwnedFd) -> Result<Credentials> {
    let mut cred = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    option(socket, libc::SO_PEERCRED, &mut cred).map_err(|e| fault::os("SO_PEERCRED", e))?;
    Ok(Credentials {
        pid: cred.pid,
        uid: cred.uid,
    })
}

/// SO_PEERPIDFD (Linux 6.5): the process at the other end, whatever happens to its number.
pub(crate) fn pidfd(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut fd: libc::c_int = -1;
    option(socket, libc::SO_PEERPIDFD, &mut fd).ok()?;
    if fd < 0 {
        return None;
    }
    // SAFETY: INV-3, the kernel has just opened it for us and nobody else knows it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn option<T: Copy>(socket: &OwnedFd, name: libc::c_int, value: &mut T) -> Result<(), Errno> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: INV-5, `value` and `len` live across the call, `len` is the size of `value`.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            std::ptr::from_mut(value).cast(),
            &mut len,
        )
    };
    if rc == 0 { Ok(()) } else { Err(last_errno()) }
}

/// errno of the call that just failed.
pub(crate) fn last_errno() -> Errno {
    let code = std::io::Error::last_os_error().raw_os_error();
    Errno::from_raw_os_error(code.unwrap_or(libc::EIO))
}
