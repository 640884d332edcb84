//! The second process: the target, started by re-executing this program.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use nixl::{Agent, Error, Result};
use serde::{Deserialize, Serialize};

use crate::job::{hex, serve, unhex};

/// Hidden subcommand that runs the target.
pub(crate) const SUBCOMMAND: &str = "__target";

/// What the parent tells the child at start, one line on its standard input.
#[derive(Serialize, Deserialize)]
struct Hello {
    name: String,
    config: nixl::Config,
    metadata: String,
}

/// What the child answers, one line on its standard output.
#[derive(Serialize, Deserialize)]
struct Ready {
    metadata: String,
}

/// A running target process. Dropping it kills it.
pub(crate) struct Target {
    child: Child,
    // Held open: its end tells the child that the parent is gone.
    _stdin: ChildStdin,
    /// The target's metadata.
    pub(crate) metadata: Vec<u8>,
}

impl Target {
    /// Starts a target named `name` and waits until it answers.
    pub(crate) fn start(name: &str, config: &nixl::Config, agent: &Agent) -> Result<Self> {
        let what = |e: &dyn std::fmt::Display| Error::os("starting the target process", e);
        let exe = std::env::current_exe().map_err(|e| what(&e))?;
        let mut child = Command::new(exe)
            .arg(SUBCOMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| what(&e))?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(what(&"its pipes are missing"));
        };
        let hello = Hello {
            name: name.to_owned(),
            config: config.clone(),
            metadata: hex(&agent.metadata()?),
        };
        let line = serde_json::to_string(&hello).map_err(|e| what(&e))?;
        writeln!(stdin, "{line}").map_err(|e| what(&e))?;
        let mut answer = String::new();
        BufReader::new(stdout)
            .read_line(&mut answer)
            .map_err(|e| what(&e))?;
        let ready: Ready = serde_json::from_str(&answer).map_err(|_| {
            let status = child.wait().map(|s| s.to_string()).unwrap_or_default();
            what(&format_args!(
                "it ended before it was ready ({status}); see above"
            ))
        })?;
        Ok(Self {
            child,
            _stdin: stdin,
            metadata: unhex(&ready.metadata)?,
        })
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Body of the target process.
pub(crate) fn run() -> Result<()> {
    die_with_parent();
    let what = |e: &dyn std::fmt::Display| Error::os("reading the job", e);
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|e| what(&e))?;
    let hello: Hello = serde_json::from_str(&line).map_err(|e| what(&e))?;
    let agent = hello.config.agent(&hello.name)?.build()?;
    agent.load_metadata(&unhex(&hello.metadata)?)?;
    let ready = Ready {
        metadata: hex(&agent.metadata()?),
    };
    println!("{}", serde_json::to_string(&ready).map_err(|e| what(&e))?);
    serve(&agent)?;
    agent.shutdown(Duration::from_secs(2))
}

/// The kernel kills this process when its parent ends (prctl(2), PR_SET_PDEATHSIG).
fn die_with_parent() {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}
