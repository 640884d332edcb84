//! Building and running programs in C and C++ against the library.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

pub(crate) const INCLUDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include");

/// The shared object that Cargo built along with this test.
pub(crate) fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let found = test.with_file_name("libnixl_rs.so");
    assert!(found.exists(), "{} is not there", found.display());
    found
}

/// A program on the PATH, or a counted skip.
pub(crate) fn tool(name: &str) -> Option<&str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(name).exists());
    if !found {
        println!("SKIP {name}: not installed");
    }
    found.then_some(name)
}

pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

/// A directory with the library under its soname, and with a runtime directory.
pub(crate) fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(library(), dir.path().join("libnixl_rs.so.0")).unwrap();
    std::os::unix::fs::symlink("libnixl_rs.so.0", dir.path().join("libnixl_rs.so")).unwrap();
    dir
}

/// Compiles `source` (below this crate) into `dir`; returns the program.
pub(crate) fn compile(compiler: &str, flags: &[&str], source: &str, dir: &Path) -> PathBuf {
    let program = dir.join("program");
    let mut command = Command::new(compiler);
    command.args(["-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic"]);
    command
        .args(flags)
        .args(["-I", INCLUDE, "-o"])
        .arg(&program);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(source));
    command.arg("-L").arg(dir).args(["-lnixl_rs", "-lpthread"]);
    run(&mut command);
    program
}

/// `program`, or one that runs it, where it finds the library.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", dir);
    command.env("XDG_RUNTIME_DIR", dir);
    command
}
