//! A real NIXL agent in a process of its own, driven line by line (`peer.py` lists the commands).

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use rustix::process::{Pid, Signal};

/// Longest wait for one answer; starting takes seconds, nothing else should.
const LIMIT: Duration = Duration::from_secs(60);

/// Where `cargo xtask ucx` (and so `cargo xtask test`) puts UCX and NIXL.
fn provided() -> PathBuf {
    let told = std::env::var_os("XTASK_UCX").map(PathBuf::from);
    told.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/ucx"))
}

/// The interpreter that has the NIXL wheel; otherwise says that the test is skipped.
pub(crate) fn python() -> Option<PathBuf> {
    let venv = provided().join("nixl/venv");
    let python = venv.join("bin/python");
    if venv.join("installed").exists() && python.exists() {
        return Some(python);
    }
    println!("SKIP interop_nixl: the nixl-cu12 wheel is not installed (cargo xtask ucx)");
    None
}

/// The libucp of that name, `debian`, `wheel` or `nixl`; otherwise says that it is skipped.
pub(crate) fn libucp(name: &str) -> Option<PathBuf> {
    let dir = provided().join(name).join("lib");
    if dir.is_dir() {
        return Some(dir);
    }
    println!("SKIP interop_nixl: no UCX {name} (cargo xtask ucx)");
    None
}

/// A running NIXL agent; killed when it goes.
pub(crate) struct Nixl {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
    pub(crate) name: String,
    /// Where it listens for metadata calls.
    pub(crate) port: Option<u16>,
}

/// What a block must hold: a block's bytes under a seed, or nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Holds {
    Blank,
    Block { seed: u64, block: u64 },
}

/// Blocks of one region of NIXL's and of a peer's, and what they are good for.
pub(crate) struct Job<'a> {
    pub(crate) op: &'a str,
    pub(crate) peer: &'a str,
    pub(crate) local: &'a str,
    pub(crate) ours: &'a [u64],
    pub(crate) base: u64,
    pub(crate) theirs: &'a [u64],
    pub(crate) size: u64,
    pub(crate) message: &'a [u8],
}

impl Drop for Nixl {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Nixl {
    /// An agent with UCX, over `tls` if that is said.
    pub(crate) fn start(python: &Path, name: &str, tls: Option<&str>) -> Self {
        Self::listening(python, name, tls, None)
    }

    /// [`Nixl::start`], listening for metadata calls on `port`.
    pub(crate) fn listening(
        python: &Path,
        name: &str,
        tls: Option<&str>,
        port: Option<u16>,
    ) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop_nixl/peer.py");
        let mut command = Command::new(python);
        for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("UCX_")) {
            command.env_remove(key);
        }
        command.arg(script).env("NIXL_LOG_LEVEL", "WARN");
        command.envs(tls.map(|tls| ("UCX_TLS", tls)));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, answers) = channel();
        let from = name.to_owned();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                match line.strip_prefix("= ") {
                    Some(answer) if sender.send(answer.to_owned()).is_err() => return,
                    Some(_) => {}
                    None if line.trim().is_empty() => {}
                    None => println!("{from}: {line}"),
                }
            }
        });
        let mut nixl = Self {
            child,
            stdin,
            answers,
            name: name.to_owned(),
            port,
        };
        let port = port.map_or("-".to_owned(), |port| port.to_string());
        nixl.call(&format!("start {name} 1 {port}"));
        nixl
    }

    /// Stops the process (SIGSTOP), as a debugger would.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// What it answers to a command, or the error that it raised.
    pub(crate) fn ask(&mut self, command: &str) -> Result<String, String> {
        self.tell(command);
        self.answer(command)
    }

    /// Sends a command; [`Nixl::answer`] must be called before the next one.
    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").unwrap();
        self.stdin.flush().unwrap();
    }

    pub(crate) fn answer(&mut self, command: &str) -> Result<String, String> {
        let command = &command[..command.len().min(80)];
        let answer = self.answers.recv_timeout(LIMIT);
        let answer = answer.unwrap_or_else(|_| panic!("{}: no answer to {command}", self.name));
        match answer.split_once(' ').unwrap_or((&answer, "")) {
            ("ok", rest) => Ok(rest.to_owned()),
            (_, rest) => Err(rest.to_owned()),
        }
    }

    /// A command that must succeed.
    pub(crate) fn call(&mut self, command: &str) -> String {
        let name = self.name.clone();
        self.ask(command)
            .unwrap_or_else(|e| panic!("{name}: {}: {e}", &command[..command.len().min(80)]))
    }

    /// Allocates and registers a region of blank blocks; returns its address.
    pub(crate) fn alloc(&mut self, region: &str, blocks: u64, size: u64) -> u64 {
        let base = self.call(&format!("alloc {region} {blocks} {size}"));
        base.parse().unwrap()
    }

    pub(crate) fn fill(&mut self, region: &str, seed: u64) {
        self.call(&format!("fill {region} {seed}"));
    }

    /// Looks at every byte of a region.
    pub(crate) fn check(&mut self, region: &str, expected: &[Holds]) {
        let mut command = format!("check {region}");
        for holds in expected {
            match holds {
                Holds::Blank => command.push_str(" -"),
                Holds::Block { seed, block } => write!(command, " {seed}:{block}").unwrap(),
            }
        }
        self.call(&command);
    }

    pub(crate) fn metadata(&mut self) -> Vec<u8> {
        bytes(&self.call("metadata"))
    }

    pub(crate) fn partial(&mut self, regions: &[&str], with_conn: bool) -> Vec<u8> {
        let regions = if regions.is_empty() {
            "-".to_owned()
        } else {
            regions.join(",")
        };
        bytes(&self.call(&format!("partial {regions} {}", u8::from(with_conn))))
    }

    pub(crate) fn load(&mut self, blob: &[u8]) -> Result<String, String> {
        self.ask(&format!("load {}", hex(blob)))
    }

    /// Runs a transfer to its end.
    pub(crate) fn transfer(&mut self, job: &Job<'_>) {
        let command = post_command("x", job);
        self.call(&command);
        assert_eq!(
            self.call(&format!("wait x {}", LIMIT.as_secs() / 2)),
            "DONE"
        );
    }

    pub(crate) fn notify(&mut self, peer: &str, message: &[u8]) {
        self.call(&format!("notify {peer} {}", hex(message)));
    }

    /// The next notifications as (sender, bytes).
    pub(crate) fn notifications(&mut self, count: usize) -> Vec<(String, Vec<u8>)> {
        let seconds = LIMIT.as_secs() / 2;
        let found = self.call(&format!("notifications {count} {seconds}"));
        let each = found.split_whitespace();
        each.map(|text| {
            let (name, data) = text.rsplit_once(':').unwrap();
            (name.to_owned(), bytes(data))
        })
        .collect()
    }
}

pub(crate) fn post_command(handle: &str, job: &Job<'_>) -> String {
    let numbers = |list: &[u64]| {
        let words: Vec<_> = list.iter().map(u64::to_string).collect();
        words.join(",")
    };
    format!(
        "post {handle} {} {} {} {} {} {} {} {}",
        job.op,
        job.peer,
        job.local,
        numbers(job.ours),
        job.base,
        numbers(job.theirs),
        job.size,
        hex(job.message)
    )
}

/// Digits of `bytes`; a dash for none.
fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".to_owned();
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |i: usize| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digits).collect()
}
