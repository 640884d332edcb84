//! `libnixl_capi.so` under NIXL's published Rust crate: a user of it, and its own tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Context, Stop};
use crate::{install, shell};

/// A package outside of the workspace that depends on `nixl-sys`.
const USER: &str = "tests/nixl_sys";
/// Everything is built here.
const TARGET: &str = "target/nixl-sys";

pub(super) fn run(context: &mut Context) -> Result<String, Stop> {
    let skip = |why: &str| Err(Stop::Skip(why.to_owned()));
    if !install::has_libclang() {
        return skip("no libclang (Debian package libclang-dev)");
    }
    if shell::which("c++").is_none() {
        return skip("no C++ compiler (Debian package g++)");
    }
    shell::run(&mut context.cargo(&["build", "-p", "nixl-compat", "--target-dir", "target"]))?;
    let user = context.root.join(USER);
    let mut count = tests(context, &user, &["--locked"])?;
    let copy = source(&context.root, &user)?;
    count += tests(context, &copy, &["--locked", "--features", "stub-api"])?;
    Ok(format!("{count} tests"))
}

/// Runs the tests of the package in `dir` over our library; returns how many passed.
fn tests(context: &Context, dir: &Path, args: &[&str]) -> Result<usize, Stop> {
    let mut command = shell::cargo(dir);
    command.args(["test", "--tests"]).args(args);
    command.env("CARGO_TARGET_DIR", context.root.join(TARGET));
    command.env("LD_LIBRARY_PATH", context.root.join("target/debug"));
    let lines = shell::run_watched(&mut command)?;
    match lines.iter().filter_map(|line| passed(line)).sum() {
        0 => Err(Stop::Fail(format!("{}: no test ran", dir.display()))),
        count => Ok(count),
    }
}

/// How many tests a line of libtest's says have passed.
fn passed(line: &str) -> Option<usize> {
    let rest = line.strip_prefix("test result: ok. ")?;
    rest.split_once(" passed")?.0.parse().ok()
}

/// A copy of the crate's source with its tests, as it was published; for the toolchain at hand,
/// not the one that it names.
fn source(root: &Path, user: &Path) -> Result<PathBuf, Stop> {
    let failed = |what: String| Stop::Fail(format!("nixl-sys: {what}"));
    let mut command = shell::cargo(user);
    command.args(["metadata", "--format-version=1", "--locked"]);
    let output = command.output().map_err(|e| failed(e.to_string()))?;
    let json: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|e| failed(e.to_string()))?;
    let mut packages = json["packages"].as_array().into_iter().flatten();
    let found = packages.find(|package| package["name"] == "nixl-sys");
    let manifest = found.and_then(|package| package["manifest_path"].as_str());
    let manifest = manifest.ok_or_else(|| failed("not in the registry".to_owned()))?;
    let from = Path::new(manifest).parent().unwrap_or(Path::new("/"));
    let copy = root.join(TARGET).join("source");
    if copy.exists() {
        fs::remove_dir_all(&copy).map_err(|e| failed(e.to_string()))?;
    }
    shell::run(Command::new("cp").arg("-r").arg(from).arg(&copy))?;
    let pinned = copy.join("rust-toolchain.toml");
    fs::remove_file(&pinned).map_err(|e| failed(format!("{}: {e}", pinned.display())))?;
    // Below our own workspace it must be one of its own.
    let manifest = copy.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).map_err(|e| failed(e.to_string()))?;
    fs::write(&manifest, text + "\n[workspace]\n").map_err(|e| failed(e.to_string()))?;
    Ok(copy)
}

#[cfg(test)]
mod unit {
    use super::passed;

    #[test]
    fn the_number_of_passed_tests_is_read() {
        let line = "test result: ok. 97 passed; 0 failed; 0 ignored; 0 measured";
        assert_eq!(passed(line), Some(97));
        assert_eq!(passed("test a ... ok"), None);
        assert_eq!(passed("test result: FAILED. 3 passed; 1 failed"), None);
    }
}
