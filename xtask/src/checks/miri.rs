//! Miri interprets the code that keeps memory alive, and finds what is undefined in it.

use super::{Context, Stop};
use crate::shell;

pub(super) fn run(context: &mut Context) -> Result<String, Stop> {
    if !shell::succeeds(&mut context.nightly(&["miri", "--version"])) {
        return Err(Stop::Skip("the nightly toolchain has no Miri".to_owned()));
    }
    if !shell::succeeds(&mut context.nightly(&["miri", "setup"])) {
        let why = "cargo miri setup failed (rustup component rust-src)";
        return Err(Stop::Skip(why.to_owned()));
    }
    let selections: [&[&str]; 2] = [
        &["-p", "nixl-core", "--lib", "inflight"],
        &["-p", "nixl-tcp-proto", "--lib"],
    ];
    for selection in selections {
        let mut command = context.nightly(&["miri", "test"]);
        shell::append_env(&mut command, "MIRIFLAGS", "-Zmiri-strict-provenance");
        shell::run(command.args(selection))?;
    }
    Ok(String::new())
}
