//! The fuzz targets, for a moment each. Their known inputs are tests of the crates themselves.

use std::fs;
use std::io;
use std::path::Path;

use super::{Context, Stop};
use crate::shell;

/// Time for each target.
const SECONDS: u32 = 10;

pub(super) fn run(context: &mut Context) -> Result<String, Stop> {
    let skip = |why: &str| Err(Stop::Skip(why.to_owned()));
    if !shell::succeeds(&mut context.nightly(&["--version"])) {
        return skip("no nightly toolchain, which the sanitizers need");
    }
    if shell::which("cargo-fuzz").is_none() {
        return skip("no cargo-fuzz");
    }
    if shell::which("c++").is_none() {
        return skip("no C++ compiler, which libFuzzer needs");
    }
    let target_dir = context.root.join("target/fuzz");
    let listed = context.nightly(&["fuzz", "list"]).output();
    let listed = listed.map_err(|error| Stop::Fail(format!("cargo fuzz list: {error}")))?;
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    let names: Vec<&str> = names.lines().map(str::trim).collect();
    if names.is_empty() {
        let why = String::from_utf8_lossy(&listed.stderr);
        return Err(Stop::Fail(format!("cargo fuzz list: no target: {why}")));
    }
    for name in &names {
        let corpus = target_dir.join("corpus").join(name);
        seed(&context.root.join("tests/data"), name, &corpus)
            .map_err(|error| Stop::Fail(format!("{}: {error}", corpus.display())))?;
        let mut command = context.nightly(&["fuzz", "run", "--target-dir"]);
        command.arg(&target_dir).arg(name).arg(&corpus).arg("--");
        command.args(["-verbosity=0", "-print_funcs=0", "-print_final_stats=1"]);
        shell::run(command.arg(format!("-max_total_time={SECONDS}")))?;
    }
    Ok(format!("{} targets, {SECONDS} s each", names.len()))
}

/// Copies the golden files of target `name`, those called `<name>-...`, to its corpus.
fn seed(goldens: &Path, name: &str, corpus: &Path) -> io::Result<()> {
    fs::create_dir_all(corpus)?;
    let prefix = format!("{name}-");
    for entry in fs::read_dir(goldens)? {
        let file = entry?.file_name();
        if file.to_string_lossy().starts_with(&prefix) {
            fs::copy(goldens.join(&file), corpus.join(&file))?;
        }
    }
    Ok(())
}
