//! Real NIXL in a virtual environment below the target directory, where `benches/peers` looks too.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::shell;

/// What is installed, with versions.
const REQUIRED: &str = "benches/peers/requirements.txt";
const VENV: &str = "target/peers/venv";
/// Below the environment: the requirements that it meets.
const MARKER: &str = "installed";

/// Installs it unless it is there. Returns a note on what was done, if anything.
pub(crate) fn install(root: &Path) -> Option<String> {
    let required = fs::read_to_string(root.join(REQUIRED)).ok()?;
    let venv = root.join(VENV);
    let marker = venv.join(MARKER);
    if fs::read_to_string(&marker).is_ok_and(|found| found == required) {
        return None;
    }
    let names = required.split_whitespace().collect::<Vec<_>>().join(" ");
    let made = make(root, &venv) && fs::write(marker, &required).is_ok();
    Some(match made {
        true => format!("installed {names}"),
        false => format!("could not install {names}"),
    })
}

fn make(root: &Path, venv: &Path) -> bool {
    // What an interrupted run left is no start.
    if venv.exists() && fs::remove_dir_all(venv).is_err() {
        return false;
    }
    let mut create = Command::new("python3");
    let mut fill = Command::new(venv.join("bin/python"));
    fill.args(["-m", "pip", "install", "-q", "--no-deps", "-r"]);
    shell::run(create.args(["-m", "venv"]).arg(venv)).is_ok()
        && shell::run(fill.arg(root.join(REQUIRED))).is_ok()
}
