//! The second process, seen from the first.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use nixl::Agent;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// Holds `path,name` in the child.
pub(crate) const ORDER: &str = "FAULTS_CHILD";
pub(crate) const MARK: &str = "ANSWER ";

/// An agent in a process of its own, told what to do over its stdin; killed when it goes.
pub(crate) struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    pub(crate) fn start(path: &str, name: &str) -> Self {
        let mut process = Self::launch(&[], &[], path, name);
        assert_eq!(process.answer(), "ready");
        process
    }

    /// Starts one by `under`, a program that starts another, with `variables`; it has not said
    /// that it is ready.
    pub(crate) fn launch(
        under: &[&str],
        variables: &[(&str, &str)],
        path: &str,
        name: &str,
    ) -> Self {
        let exe = std::env::current_exe().unwrap();
        let mut words = under.iter().map(std::ffi::OsStr::new);
        let mut command = Command::new(words.next().unwrap_or(exe.as_os_str()));
        command.args(words);
        if !under.is_empty() {
            command.arg(&exe);
        }
        let mut child = command
            .args(["--exact", "child::serve", "--nocapture"])
            .env(ORDER, format!("{path},{name}"))
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            stdin: child.stdin.take().unwrap(),
            stdout: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Its number, where it was started by a program that it took the place of.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// A target with memory filled by `seed`; `agent` knows it. Returns the memory's address too.
    pub(crate) fn target(agent: &Agent, path: &str, name: &str, seed: u64) -> (Self, u64) {
        let mut process = Self::start(path, name);
        let addr = process.served(agent, name, seed);
        (process, addr)
    }

    /// Memory of it, filled by `seed`, of which `agent` knows.
    pub(crate) fn served(&mut self, agent: &Agent, name: &str, seed: u64) -> u64 {
        let addr = self.memory(seed);
        assert_eq!(agent.load_metadata(&self.metadata()).unwrap(), name);
        addr
    }

    /// An initiator that knows `agent`.
    pub(crate) fn initiator(agent: &Agent, path: &str, name: &str, seed: u64) -> Self {
        let mut process = Self::start(path, name);
        process.memory(seed);
        process.load(agent);
        process
    }

    /// Tells it of `agent`.
    pub(crate) fn load(&mut self, agent: &Agent) {
        let blob = hex(&agent.metadata().unwrap());
        assert_eq!(self.ask(&format!("load {blob}")), agent.name());
    }

    /// Has it do something; returns its answer.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        writeln!(self.stdin, "{command}").unwrap();
        self.answer()
    }

    /// Its next answer.
    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let n = self.stdout.read_line(&mut line).unwrap();
            assert!(n > 0, "the second process ended without an answer");
            // The test harness writes lines of its own.
            if let Some((_, text)) = line.split_once(MARK) {
                return text.trim_end().to_owned();
            }
        }
    }

    /// Has it register memory filled by `seed`; returns the address.
    pub(crate) fn memory(&mut self, seed: u64) -> u64 {
        self.ask(&format!("memory {seed}")).parse().unwrap()
    }

    pub(crate) fn metadata(&mut self) -> Vec<u8> {
        unhex(&self.ask("metadata"))
    }

    /// Its first memory holds `expected`.
    pub(crate) fn check(&mut self, expected: &[u8]) {
        assert_eq!(self.ask("sum"), checksum(expected), "bytes of the child");
    }

    /// Stops it (SIGSTOP); not one of its threads runs any more when this returns.
    pub(crate) fn stop(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "{status:?}");
    }

    pub(crate) fn resume(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// FNV-1a by word: enough to compare memories over a pipe.
pub(crate) fn checksum(bytes: &[u8]) -> String {
    let fold = |hash: u64, word: &[u8; 8]| {
        (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x0100_0000_01b3)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    assert!(rest.is_empty());
    format!("{:x}", words.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let byte = |i: usize| u8::from_str_radix(&text[i..i + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}
