//! The process at the other end of a Unix socket: who it is, whether it lives, whether its memory
//! can be reached.

use std::os::fd::OwnedFd;

use nixl_core::{Error, ErrorKind, Op, Result, error::fail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, geteuid, pidfd_open},
};

use crate::{cma::Batch, fault, sock, wire::Intro};

/// Bytes of a proof.
pub(crate) const PROOF: usize = 32;

const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// The process behind a connection, as the kernel names it.
pub(crate) struct Process {
    /// Its pid in our namespace; `None` where it is not visible from here.
    pid: Option<Pid>,
    pidfd: Option<OwnedFd>,
}

impl Process {
    /// The process that connected or listened.
    ///
    /// Errors: `Unauthenticated` where it has another uid.
    pub(crate) fn behind(socket: &OwnedFd) -> Result<Self> {
        let cred = sock::credentials(socket)?;
        let ours = geteuid().as_raw();
        if cred.uid != ours {
            return Err(fail(
                ErrorKind::Unauthenticated,
                format!(
                    "the process at the other end of the Unix socket has uid {}, we have {ours}",
                    cred.uid
                ),
            ));
        }
        let pid = Pid::from_raw(cred.pid);
        let opened = || pidfd_open(pid?, PidfdFlags::empty()).ok();
        Ok(Self {
            pid,
            pidfd: sock::pidfd(socket).or_else(opened),
        })
    }

    /// Looks whether the process lives and holds its end of `socket`, with one poll(2).
    pub(crate) fn check(&self, socket: &OwnedFd) -> Result<()> {
        let connection = PollFd::new(socket, PollFlags::RDHUP);
        let mut both;
        let mut one;
        let fds: &mut [PollFd<'_>] = match &self.pidfd {
            Some(pidfd) => {
                both = [connection, PollFd::new(pidfd, PollFlags::IN)];
                &mut both
            }
            None => {
                one = [connection];
                &mut one
            }
        };
        match poll(fds, Some(&NOW)) {
            Ok(0) | Err(Errno::INTR | Errno::AGAIN) => Ok(()),
            Ok(_) => Err(fault::gone(
                "the peer's process died or closed the connection",
            )),
            Err(e) => Err(fault::os("poll on the peer's process and socket", e)),
        }
    }

    /// The pid to name in process_vm_readv(2), once [`Process::prove`] has succeeded.
    pub(crate) fn pid(&self) -> Result<Pid> {
        self.pid.ok_or_else(|| {
            fail(
                ErrorKind::Unsupported,
                "the peer's process is not visible from our PID namespace",
            )
        })
    }

    /// Reads the peer's proof from its memory: shows that the pid names the process that we
    /// authenticated, and that the kernel lets us at it. `intro` is what the peer said, `expected`
    /// what must stand there.
    ///
    /// Errors: `Unsupported`, saying exactly what is in the way.
    pub(crate) fn prove(&self, intro: Intro, expected: &[u8; PROOF], our_ns: u64) -> Result<()> {
        let because = |why: String| fail(ErrorKind::Unsupported, format!("no CMA: {why}"));
        let hint = namespace_hint(intro, our_ns);
        let Some(pid) = self.pid else {
            return Err(because(format!(
                "the peer's process is not visible from our PID namespace{hint}; share the PID \
                 namespace (containers: shareProcessNamespace or hostPID)"
            )));
        };
        if self.pidfd.is_none() {
            return Err(because(
                "the peer's process cannot be watched (pidfd_open failed; Linux 5.3 and a free \
                 file descriptor are needed)"
                    .to_owned(),
            ));
        }
        let mut seen = [0u8; PROOF];
        let read = Batch::with(|batch| {
            batch.push(seen.as_mut_ptr() as u64, intro.proof_at, PROOF as u64);
            batch.run(pid, Op::Read)
        });
        match read {
            Ok(()) if seen == *expected => Ok(()),
            Ok(()) => Err(because(format!(
                "nonce mismatch: pid {} here is another process than the peer{hint}",
                pid.as_raw_nonzero()
            ))),
            Err(e) => Err(because(format!("{}{hint}", e.message()))),
        }
    }
}

fn namespace_hint(intro: Intro, our_ns: u64) -> String {
    if intro.pid_ns == our_ns {
        return String::new();
    }
    format!(
        " (it is pid {} of PID namespace {}, ours is {our_ns})",
        intro.pid, intro.pid_ns
    )
}

/// Inode of our PID namespace, 0 where /proc does not say.
pub(crate) fn pid_namespace() -> u64 {
    rustix::fs::stat("/proc/self/ns/pid").map_or(0, |s| s.st_ino)
}

/// Why the kernel refused a process_vm call on `pid`, and what to do about it.
pub(crate) fn explain(errno: Errno, pid: Pid, addr: u64) -> Error {
    let pid = pid.as_raw_nonzero();
    match errno {
        Errno::SRCH => fail(
            ErrorKind::PeerGone,
            format!("no process {pid} in our PID namespace: the peer died, or runs in another one"),
        ),
        Errno::PERM => fail(
            ErrorKind::Unsupported,
            format!(
                "EPERM: the kernel does not let us at the memory of process {pid}{}; run both with \
                 one uid and equal capabilities, or give CAP_SYS_PTRACE",
                yama()
            ),
        ),
        Errno::FAULT => fail(
            ErrorKind::Backend,
            format!(
                "EFAULT: the peer's memory at {addr:#x} is not mapped there, or ours is not; memory \
                 must stay allocated while it is registered"
            ),
        ),
        Errno::NOSYS => fail(
            ErrorKind::Unsupported,
            "ENOSYS: the kernel or a seccomp filter offers no process_vm_readv",
        ),
        e => fault::os(format_args!("process_vm_readv/writev on process {pid}"), e),
    }
}

fn yama() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope") {
        Ok(scope) if scope.trim() != "0" => format!(
            " (ptrace rules: kernel.yama.ptrace_scope is {}; 0 allows it)",
            scope.trim()
        ),
        _ => " (ptrace rules, or the process is not dumpable)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    fn intro(proof: &[u8; PROOF]) -> Intro {
        Intro {
            pid: std::process::id(),
            pid_ns: pid_namespace(),
            proof_at: proof.as_ptr() as u64,
        }
    }

    #[test]
    fn a_proof_is_read_from_memory_and_compared() {
        let (a, _b) = pair();
        let me = Process::behind(&a).unwrap();
        let proof = [7u8; PROOF];
        me.prove(intro(&proof), &proof, pid_namespace()).unwrap();
        me.check(&a).unwrap();
    }

    /// What a reused pid looks like: the pid answers, its memory holds something else.
    #[test]
    fn another_process_under_the_same_pid_is_found_out() {
        let (a, _b) = pair();
        let me = Process::behind(&a).unwrap();
        let e = me
            .prove(intro(&[7; PROOF]), &[8; PROOF], pid_namespace())
            .unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        assert!(e.message().contains("nonce mismatch"), "{e}");
        let e = me
            .prove(
                Intro {
                    proof_at: 16,
                    ..intro(&[7; PROOF])
                },
                &[7; PROOF],
                0,
            )
            .unwrap_err();
        assert!(e.message().contains("EFAULT"), "{e}");
        assert!(e.message().contains("of PID namespace"), "{e}");
    }

    #[test]
    fn an_invisible_process_is_named_as_such() {
        let (a, _b) = pair();
        let hidden = Process {
            pid: None,
            pidfd: sock::pidfd(&a),
        };
        let e = hidden
            .prove(intro(&[1; PROOF]), &[1; PROOF], 1)
            .unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        assert!(e.message().contains("not visible from our PID namespace"));
    }

    #[test]
    fn a_closed_socket_and_a_dead_process_are_seen() {
        let (a, b) = pair();
        let me = Process::behind(&a).unwrap();
        drop(b);
        assert_eq!(me.check(&a).unwrap_err().kind(), ErrorKind::PeerGone);

        let (a, _b) = pair();
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        let process = Process {
            pid: Some(pid),
            pidfd: Some(pidfd_open(pid, PidfdFlags::empty()).unwrap()),
        };
        process.check(&a).unwrap();
        child.kill().unwrap();
        let pidfd = process.pidfd.as_ref().unwrap().as_fd();
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
        assert_eq!(process.check(&a).unwrap_err().kind(), ErrorKind::PeerGone);
        child.wait().unwrap();
        let e = process
            .prove(intro(&[1; PROOF]), &[1; PROOF], pid_namespace())
            .unwrap_err();
        assert!(e.message().contains("no process"), "{e}");
    }
}
