//! The process whose memory is read and written, and the words that the two exchange over its
//! standard input and output.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write, stdin, stdout};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use crate::job::{Job, Peer};
use crate::memory::Memory;
use crate::{layout, pattern, sock};

/// Holds the target's region until the other process has what it wants.
pub(crate) fn serve(job: &Job) -> io::Result<()> {
    match job.peer {
        Peer::Memcpy => {
            let (mut memory, fd) = Memory::shared(job.region())?;
            pattern::prepare(job, memory.bytes());
            say(fd.as_raw_fd())?;
            finish(job, &mut memory)
        }
        Peer::Cma => {
            let mut memory = Memory::private(job.region())?;
            pattern::prepare(job, memory.bytes());
            say(memory.address())?;
            finish(job, &mut memory)
        }
        Peer::Rawsock => serve_streams(job),
    }
}

fn serve_streams(job: &Job) -> io::Result<()> {
    let mut memory = Memory::private(job.region())?;
    pattern::prepare(job, memory.bytes());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    say(listener.local_addr()?.port())?;
    let pieces = layout::pieces(job);
    let accepted = (0..job.threads.min(pieces.len())).map(|_| Ok(listener.accept()?.0));
    let sockets: Vec<TcpStream> = accepted.collect::<io::Result<_>>()?;
    let (region, sends) = (memory.bytes(), job.is_source());
    let mut streams = sock::streams(sockets, region, &pieces, |piece| piece.remote, sends)?;
    thread::scope(|scope| {
        let threads = streams.iter_mut().map(|s| scope.spawn(|| s.serve()));
        let threads: Vec<_> = threads.collect();
        let mut results = threads.into_iter().map(|thread| thread.join());
        results.try_for_each(|result| {
            result.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
        })
    })?;
    drop(streams);
    finish(job, &mut memory)
}

/// Waits for the end of the passes, and says whether what arrived is right.
fn finish(job: &Job, memory: &mut Memory) -> io::Result<()> {
    let mut word = String::new();
    stdin().read_line(&mut word)?;
    if word == "check\n" {
        say(arrived(job, memory.bytes()))?;
    }
    Ok(())
}

/// Whether `region` is the destination and holds what it should.
pub(crate) fn arrived(job: &Job, region: &mut [u8]) -> bool {
    if job.is_source() {
        return false;
    }
    if job.corrupt {
        region[(job.count / 2) * job.block] ^= 1;
    }
    pattern::holds(job, region)
}

fn say(word: impl ToString) -> io::Result<()> {
    let mut line = word.to_string();
    line.push('\n');
    let mut out = stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

/// The target, seen from the process that measures. It ends when this is dropped.
pub(crate) struct Target {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// Its first word: fd, address or port.
    hello: usize,
}

impl Target {
    /// Starts the second process with the arguments of this one.
    pub(crate) fn spawn() -> io::Result<Target> {
        let mut child = Command::new(env::current_exe()?)
            .args(env::args().skip(1))
            .arg("--target")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let missing = || io::Error::other("no pipe to the target");
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let mut target = Target {
            stdin: child.stdin.take(),
            child,
            stdout: BufReader::new(stdout),
            hello: 0,
        };
        let hello = target.hear()?;
        target.hello = hello.parse().map_err(io::Error::other)?;
        Ok(target)
    }

    /// Process id, as system calls take it.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its region begins, in its own address space.
    pub(crate) fn address(&self) -> usize {
        self.hello
    }

    /// Its memfd.
    pub(crate) fn memfd(&self) -> io::Result<File> {
        let path = format!("/proc/{}/fd/{}", self.pid(), self.hello);
        OpenOptions::new().read(true).write(true).open(path)
    }

    /// One more stream to it.
    pub(crate) fn connect(&self) -> io::Result<TcpStream> {
        let port = u16::try_from(self.hello).map_err(io::Error::other)?;
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))
    }

    /// Asks whether what arrived there is right.
    pub(crate) fn check(&mut self) -> io::Result<bool> {
        if let Some(stdin) = &mut self.stdin {
            stdin.write_all(b"check\n")?;
        }
        self.hear()?.parse().map_err(io::Error::other)
    }

    fn hear(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        if line.is_empty() {
            return Err(io::Error::other("the target ended early"));
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if let Err(error) = self.child.wait() {
            eprintln!("limit: the target cannot be waited for: {error}");
        }
    }
}
