//! Processes in namespaces of their own (unshare(1)), as containers are.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use nixl::{ErrorKind, Op};

use crate::{
    over,
    process::Process,
    world::{LIMIT, Memory, ONCE, SOON, agent, image, moved, within},
};

/// Names a shell script that a child runs before its agent starts, when it got a first line.
pub(crate) const SCRIPT: &str = "FAULTS_SCRIPT";
/// Set in a test that was started again in namespaces of its own.
const INSIDE: &str = "FAULTS_INSIDE";

over!(tcp, shm, cma, ucx_tcp, ucx_cma: other_processes, other_ipc);

/// Runs a script that must succeed.
pub(crate) fn sh(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().unwrap();
    assert!(status.success(), "{script}: {status}");
}

/// Runs the rest of test `name` in namespaces of its own, of which `unshare` is told by `flags`,
/// after the shell script `first`: true where this is that process. Skipped where the script fails.
pub(crate) fn inside(name: &str, flags: &str, first: &str) -> bool {
    if is_inside() {
        return true;
    }
    if let Err(why) = can(&[flags], first) {
        println!("SKIP {name}: {why}");
        return false;
    }
    let mut command = Command::new("unshare");
    let exe = std::env::current_exe().unwrap();
    let script = format!("{first}; exec \"$@\"");
    command
        .args([flags, "--", "sh", "-ec", &script, "sh"])
        .arg(exe);
    let output = command
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    print!("{text}");
    assert!(output.status.success(), "{}: {text}{errors}", output.status);
    assert!(text.contains("1 passed"), "no such test: {text}");
    false
}

/// Whether this is such a process.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Why `probe` cannot run in such namespaces.
fn can(flags: &[&str], probe: &str) -> Result<(), String> {
    let mut command = Command::new("unshare");
    command.args(flags).args(["--", "sh", "-ec", probe]);
    match command.output() {
        Err(e) => Err(format!("unshare: {e}")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

fn other_processes(path: &str) {
    apart(path, &["--pid", "--fork", "--mount-proc", "--kill-child"]);
}

fn other_ipc(path: &str) {
    apart(path, &["--ipc"]);
}

/// A peer in other namespaces: every byte arrives; UCX's CMA, which does not go there, is an error
/// that says what UCX uses instead.
fn apart(path: &str, flags: &[&str]) {
    let flags = [&["--user", "--map-root-user"], flags].concat();
    if let Err(why) = can(&flags, "true") {
        return println!("SKIP namespaces for {path}: {why}");
    }
    let near = agent("near", path);
    let here = Memory::new(&near, path, 1);
    let under = [&["unshare"], &flags[..]].concat();
    let mut far = Process::launch(&under, &[], path, "far");
    assert_eq!(far.answer(), "ready");
    let there = far.served(&near, "far", 2);
    for op in [Op::Read, Op::Write] {
        here.fill(1);
        assert_eq!(far.ask("fill 2"), "ok");
        let begun = Instant::now();
        let request = ONCE.request(op, &near, &here, "far", there);
        let result = request.and_then(|request| {
            request.post_with(within(LIMIT))?;
            request.wait(LIMIT)
        });
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        println!("{path} {op:?}: {result:?}");
        match (result, op) {
            (Ok(()), Op::Read) => here.check(&moved(op, 2)),
            (Ok(()), Op::Write) => far.check(&moved(op, 1)),
            (Err(e), _) => {
                assert_eq!((path, e.kind()), ("ucx_cma", ErrorKind::Unsupported), "{e}");
                assert!(e.message().contains("UCX chose ucx:tcp"), "{e}");
                here.check(&image(1));
            }
        }
    }
    here.deregister(&near);
}
