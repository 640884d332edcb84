//! `cargo xtask bindgen`: the bindings of `ucx-sys`, from UCX's headers.

use std::path::Path;
use std::process::ExitCode;

use crate::checks::Stop;
use crate::{shell, ucx};

/// Where the generated files are.
pub(crate) const SOURCES: &str = "ucx-sys/src";

/// The generated files.
pub(crate) const FILES: [&str; 2] = ["bindings.rs", "symbols.rs"];

/// Writes the bindings from the headers in `include`, or in the pinned wheel.
pub(crate) fn run(root: &Path, include: Option<&Path>) -> ExitCode {
    let pinned = || {
        if ucx::headers(root).is_none() {
            println!("{}", ucx::provide(root));
        }
        ucx::headers(root)
    };
    let Some(include) = include.map(Path::to_owned).or_else(pinned) else {
        eprintln!(
            "cargo xtask bindgen: no headers of UCX; name a directory that has ucp/api/ucp.h"
        );
        return ExitCode::FAILURE;
    };
    match generate(root, &include, &root.join(SOURCES)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Fail(why) | Stop::Skip(why)) => {
            eprintln!("cargo xtask bindgen: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the bindings from the headers in `include` to the directory `out`.
pub(crate) fn generate(root: &Path, include: &Path, out: &Path) -> Result<(), Stop> {
    let mut command = shell::cargo(root);
    command.args(["run", "-q", "-p", "ucx-sys-bindgen", "--"]);
    shell::run(command.arg(include).arg(out))
}
