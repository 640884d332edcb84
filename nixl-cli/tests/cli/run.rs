//! Runs the command, with a time limit, and finds every process it leaves behind.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStderr, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longest time that a command of these tests may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// Variable that marks all processes of one [`Nixl`].
const MARK: &str = "TEST_OF_NIXL";

/// A command that ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// The one JSON object that it printed; nothing else may be there.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.err);
        let lines: Vec<_> = self.out.lines().collect();
        assert_eq!(lines.len(), 1, "one line of JSON: {}", self.out);
        serde_json::from_str(lines[0]).expect("JSON and nothing else")
    }

    /// It ended with this code and said why in words that name `words`.
    pub(crate) fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.err);
        assert_eq!(self.out, "", "errors go to standard error");
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
        for bad in ["panicked", "\x1b"] {
            assert!(!self.err.contains(bad), "{}", self.err);
        }
    }
}

/// Names of the keys of a JSON object.
pub(crate) fn keys(object: &Value) -> BTreeSet<&str> {
    let object = object.as_object().expect("an object");
    object.keys().map(String::as_str).collect()
}

/// One run of the command and the processes it started. Dropping it kills them.
pub(crate) struct Nixl {
    child: Child,
    mark: String,
    out: Option<JoinHandle<String>>,
    err: BufReader<ChildStderr>,
}

impl Nixl {
    pub(crate) fn start(args: &[&str], vars: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}.{next}", std::process::id());
        let mut command = Command::new(env!("CARGO_BIN_EXE_nixl"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("NIXL_RS_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(args)
            .env(MARK, &mark)
            .envs(vars.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let mut out = child.stdout.take().expect("piped");
        let err = BufReader::new(child.stderr.take().expect("piped"));
        let out = std::thread::spawn(move || {
            let mut text = String::new();
            out.read_to_string(&mut text).expect("UTF-8");
            text
        });
        Self {
            child,
            mark,
            out: Some(out),
            err,
        }
    }

    /// The next line on standard error.
    pub(crate) fn error_line(&mut self) -> String {
        let mut line = String::new();
        self.err.read_line(&mut line).expect("UTF-8");
        line
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The target process, as soon as it runs.
    pub(crate) fn target(&self) -> u32 {
        let mut found = None;
        wait("the target process", || {
            found = self.processes().into_iter().find(|p| *p != self.pid());
            found.is_some()
        });
        found.expect("found above")
    }

    /// Every process of this run that is alive, by the mark in its environment.
    fn processes(&self) -> Vec<u32> {
        let mark = format!("{MARK}={}\0", self.mark);
        let all = fs::read_dir("/proc").expect("/proc");
        all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| {
                let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environ.windows(mark.len()).any(|w| w == mark.as_bytes())
            })
            .collect()
    }

    /// Waits for the end of the command and of everything it started.
    pub(crate) fn end(mut self) -> Ended {
        let mut status = None;
        wait("the command to end", || {
            status = self.child.try_wait().expect("wait");
            status.is_some()
        });
        let leftover = || self.processes();
        wait("the target to end with it", || leftover().is_empty());
        let mut err = String::new();
        self.err.read_to_string(&mut err).expect("UTF-8");
        let out = self.out.take().map(|t| t.join().expect("no panic"));
        Ended {
            code: status.and_then(|s| s.code()),
            out: out.unwrap_or_default(),
            err,
        }
    }
}

impl Drop for Nixl {
    fn drop(&mut self) {
        for pid in self.processes() {
            kill(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Runs the command to its end.
pub(crate) fn nixl(args: &[&str]) -> Ended {
    Nixl::start(args, &[]).end()
}

/// Sends a signal; the process may have ended.
pub(crate) fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process");
    let _ = kill_process(pid, signal);
}

/// Looks until it is so.
pub(crate) fn wait(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
