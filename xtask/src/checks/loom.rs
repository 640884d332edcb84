//! The completion protocol under loom, which tries every interleaving of its threads.

use super::{Context, Stop};
use crate::metadata::Metadata;
use crate::shell;

/// Of nixl-core, built with `--cfg loom`.
const TARGET: &str = "loom";

pub(super) fn run(context: &mut Context) -> Result<String, Stop> {
    let metadata = Metadata::read(&context.root)?;
    let package = metadata.package("nixl-core");
    if !package.is_some_and(|package| package.has_target("test", TARGET)) {
        return Err(Stop::Fail(format!("nixl-core has no test `{TARGET}`")));
    }
    let mut command = context.cargo(&["test", "-p", "nixl-core", "--release"]);
    command.args(["--test", TARGET]);
    // A directory of its own: the flag changes every crate.
    command.env("CARGO_TARGET_DIR", context.root.join("target/loom"));
    shell::append_env(&mut command, "RUSTFLAGS", "--cfg loom");
    shell::run(&mut command)?;
    Ok(String::new())
}
