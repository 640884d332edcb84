//! What the toolchain itself checks: formatting, lints, documentation.

use super::{Context, Stop};
use crate::shell;

pub(super) fn fmt(context: &mut Context) -> Result<String, Stop> {
    shell::run(&mut context.cargo(&["fmt", "--all", "--check"]))?;
    // The fuzz targets are not in the workspace.
    let fuzz = "fuzz/Cargo.toml";
    if context.root.join(fuzz).exists() {
        let args = ["fmt", "--manifest-path", fuzz, "--check"];
        shell::run(&mut context.cargo(&args))?;
    }
    Ok(String::new())
}

pub(super) fn clippy(context: &mut Context) -> Result<String, Stop> {
    let args = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    shell::run(&mut context.cargo(&args))?;
    Ok(String::new())
}

pub(super) fn doc(context: &mut Context) -> Result<String, Stop> {
    let args = [
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ];
    let mut command = context.cargo(&args);
    shell::append_env(&mut command, "RUSTDOCFLAGS", "-D warnings");
    shell::run(&mut command)?;
    Ok(String::new())
}
