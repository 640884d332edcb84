//! A target in a process of its own: this test program, started again.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdin, Command, Stdio},
};

use nixl::Agent;

use super::pair::{Job, Threads, agent};

/// Holds `path,count,block,seed` in the child.
const VARIABLE: &str = "TARGET_OF_TEST";
const MARK: &str = "TARGET ";

/// Name of the target's agent.
pub const NAME: &str = "target";

/// A running target, killed when it goes.
pub struct Target {
    child: Child,
    _alive: ChildStdin,
    /// First address of its memory.
    pub base: u64,
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves as the target and ends the process, if this process was started for that. The test
/// `test` calls it first.
pub fn serve_if_asked() {
    let Ok(order) = std::env::var(VARIABLE) else {
        return;
    };
    let mut parts = order.split(',');
    let path = parts.next().unwrap();
    let mut number = || parts.next().unwrap().parse::<u64>().unwrap();
    let job = Job {
        count: number() as usize,
        block: number(),
    };
    let agent = agent(NAME, path, Threads::Own);
    let memory = job.target_memory(&agent, number());
    let blob: String = agent
        .metadata()
        .unwrap()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    println!("\n{MARK}{} {blob}", memory.addr());
    // Ends with the parent.
    let _ = std::io::stdin().read(&mut [0]);
    std::process::exit(0);
}

/// Starts a target whose blocks hold their numbers under `seed`, and tells `agent` about it.
/// `test` is the full name of the test that calls [`serve_if_asked`].
pub fn start(test: &str, agent: &Agent, path: &str, job: Job, seed: u64) -> Target {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(
            VARIABLE,
            format!("{path},{},{},{seed}", job.count, job.block),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let alive = child.stdin.take().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines
        .map(Result::unwrap)
        .find_map(|line| Some(line.strip_prefix(MARK)?.to_owned()))
        .expect("the target ended before it was ready");
    let (base, blob) = line.split_once(' ').unwrap();
    let digits = |i: usize| u8::from_str_radix(&blob[i..i + 2], 16).unwrap();
    let blob: Vec<u8> = (0..blob.len()).step_by(2).map(digits).collect();
    agent.load_metadata(&blob).unwrap();
    Target {
        base: base.parse().unwrap(),
        child,
        _alive: alive,
    }
}
