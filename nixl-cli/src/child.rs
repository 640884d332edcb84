//! The second process: the target, started by re-executing this program.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nixl::{Agent, Error, Result};
use serde::{Deserialize, Serialize};

use crate::{
    out,
    talk::{hex, serve, unhex},
};

/// Hidden subcommand that runs the target.
pub(crate) const SUBCOMMAND: &str = "__target";

/// What the parent tells the child at start, one line on its standard input.
#[derive(Serialize, Deserialize)]
struct Hello {
    name: String,
    initiator: String,
    config: nixl::Config,
    metadata: String,
}

/// What the child answers, one line on its standard output.
#[derive(Serialize, Deserialize)]
struct Ready {
    metadata: String,
}

/// A running target process. Dropping it kills it.
pub(crate) struct TargetProcess {
    child: Child,
    /// The target's metadata.
    pub(crate) metadata: Vec<u8>,
}

impl TargetProcess {
    /// Starts a target named `name` for `agent` and waits until it answers.
    pub(crate) fn start(name: &str, config: &nixl::Config, agent: &Agent) -> Result<Self> {
        let what = |e: &dyn std::fmt::Display| Error::os("starting the target process", e);
        let exe = std::env::current_exe().map_err(|e| what(&e))?;
        let child = Command::new(exe)
            .arg(SUBCOMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| what(&e))?;
        let mut this = Self {
            child,
            metadata: Vec::new(),
        };
        let hello = Hello {
            name: name.to_owned(),
            initiator: agent.name().to_owned(),
            config: config.clone(),
            metadata: hex(&agent.metadata()?),
        };
        let answer = this.greet(&hello).map_err(|e| what(&e))?;
        let Ok(ready) = serde_json::from_str::<Ready>(&answer) else {
            let status = this.child.wait().map_err(|e| what(&e))?;
            return Err(what(&format_args!(
                "it ended before it was ready ({status}); see above"
            )));
        };
        this.metadata = unhex(&ready.metadata)?;
        Ok(this)
    }

    /// Says hello and reads the answer, empty if the child ended instead.
    fn greet(&mut self, hello: &Hello) -> std::io::Result<String> {
        let (Some(mut stdin), Some(stdout)) = (self.child.stdin.take(), self.child.stdout.take())
        else {
            return Err(std::io::Error::other("its pipes are missing"));
        };
        match writeln!(stdin, "{}", serde_json::to_string(hello)?) {
            // It ended already; the answer will be missing, too.
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => return Err(e),
            _ => {}
        }
        let mut answer = String::new();
        BufReader::new(stdout).read_line(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for TargetProcess {
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
    out::json(&ready)?;
    serve(&agent, Some(hello.initiator))?;
    agent.shutdown(Duration::from_secs(2))
}

/// The kernel kills this process when its parent ends (prctl(2), PR_SET_PDEATHSIG).
fn die_with_parent() {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}
