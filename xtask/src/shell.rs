//! Running other programs.

use std::env;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::checks::Stop;

/// Directories that hold system programs and are not on every user's `PATH`.
const SYSTEM_DIRS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Where `program` is, on `PATH` or among the system's programs.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_DIRS.map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    Path::new("/proc/self")
        .metadata()
        .is_ok_and(|meta| meta.uid() == 0)
}

/// `cargo` in `root`. `NIXL_RS_REQUIRE` is ours, and the library rejects variables of that prefix
/// that it does not know.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root).env_remove("NIXL_RS_REQUIRE");
    command
}

/// Adds `flags` to what the user has in the environment variable `name`.
pub(crate) fn append_env(command: &mut Command, name: &str, flags: &str) {
    let joined = match env::var(name) {
        Ok(old) if !old.is_empty() => format!("{old} {flags}"),
        _ => flags.to_owned(),
    };
    command.env(name, joined);
}

/// Runs `command` with our own input and output; a failure stops the check.
pub(crate) fn run(command: &mut Command) -> Result<(), Stop> {
    println!("$ {}", shown(command));
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Stop::Fail(format!("{}: {status}", shown(command)))),
        Err(error) => Err(Stop::Fail(format!("{}: {error}", shown(command)))),
    }
}

/// As [`run`], with the reason of a failure.
pub(crate) fn must(command: &mut Command) -> Result<(), String> {
    run(command).map_err(|stop| match stop {
        Stop::Fail(why) | Stop::Skip(why) => why,
    })
}

/// `python3 -m venv`, for which Debian has a package of its own.
pub(crate) fn virtual_environment(venv: &Path) -> Result<(), String> {
    let make = || must(Command::new("python3").args(["-m", "venv"]).arg(venv));
    let Err(why) = make() else { return Ok(()) };
    if which("apt-get").is_none() || !is_root() {
        return Err(why);
    }
    let mut install = Command::new("apt-get");
    install.args([
        "-q",
        "install",
        "-y",
        "--no-install-recommends",
        "python3-venv",
    ]);
    must(install.env("DEBIAN_FRONTEND", "noninteractive"))?;
    make()
}

/// Runs `command`, passes its output on, and returns the lines of both streams as well. Skips are
/// left to who counts them, which prints them.
pub(crate) fn run_watched(command: &mut Command) -> Result<Vec<String>, Stop> {
    let words = shown(command);
    println!("$ {words}");
    let failed = |error: io::Error| Stop::Fail(format!("{words}: {error}"));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let lines = thread::scope(|scope| {
        let errors = scope.spawn(|| passed_on(stderr));
        let mut lines = passed_on(stdout);
        lines.extend(errors.join().unwrap_or_default());
        lines
    });
    match child.wait() {
        Ok(status) if status.success() => Ok(lines),
        Ok(status) => Err(Stop::Fail(format!("{words}: {status}"))),
        Err(error) => Err(failed(error)),
    }
}

/// Prints `stream` line by line and keeps the lines.
fn passed_on(stream: Option<impl Read>) -> Vec<String> {
    let mut lines = Vec::new();
    let Some(stream) = stream else { return lines };
    for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        if !line.starts_with("SKIP ") {
            println!("{line}");
        }
        lines.push(line);
    }
    lines
}

/// Whether `command` runs and succeeds; its output is not shown.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy()));
    words.join(" ")
}
