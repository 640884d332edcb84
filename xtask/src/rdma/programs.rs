//! Our programs that run in the machine, built outside of it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use super::cases::{Case, Ucx};
use crate::checks::Stop;
use crate::shell;

/// Where they are.
#[derive(Default)]
pub(crate) struct Programs {
    /// The conformance suite of `nixl-ucx`.
    pub(crate) suite: PathBuf,
    /// The `nixl` command.
    pub(crate) nixl: PathBuf,
}

/// Why a case with `ucx` cannot be run, if so.
pub(crate) fn lacks(root: &Path, ucx: Ucx) -> Option<String> {
    let name = match ucx {
        Ucx::Tools => "debian",
        ucx => ucx.name(),
    };
    let lib = root.join("target/ucx").join(name).join("lib");
    (!lib.is_dir()).then(|| format!("no target/ucx/{name} (cargo xtask ucx)"))
}

/// Builds what `chosen` run.
pub(crate) fn build(root: &Path, chosen: &[&Case]) -> Result<Programs, Stop> {
    if chosen.iter().all(|case| case.ucx == Ucx::Tools) {
        return Ok(Programs::default());
    }
    let suite = &["test", "--no-run", "-p", "nixl-ucx", "--test", "suite"];
    Ok(Programs {
        suite: executable(root, suite, "suite")?,
        nixl: executable(root, &["build", "-p", "nixl-cli"], "nixl")?,
    })
}

/// Runs cargo and asks it where target `name` is.
fn executable(root: &Path, args: &[&str], name: &str) -> Result<PathBuf, Stop> {
    let mut command = shell::cargo(root);
    command
        .args(args)
        .arg("--message-format=json-render-diagnostics");
    let words = args.join(" ");
    eprintln!("$ cargo {words}");
    let failed = |what: String| Stop::Fail(format!("cargo {words}: {what}"));
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| found(line, name))
        .ok_or_else(|| failed(format!("no executable {name}")))
}

fn found(line: &str, name: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["target"]["name"] != name {
        return None;
    }
    message["executable"].as_str().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_says_where_an_executable_is() {
        let line = r#"{"target":{"name":"suite"},"executable":"/t/suite-1"}"#;
        assert_eq!(found(line, "suite"), Some(PathBuf::from("/t/suite-1")));
        assert_eq!(found(line, "nixl"), None);
        assert_eq!(
            found(r#"{"target":{"name":"suite"},"executable":null}"#, "suite"),
            None
        );
        assert_eq!(found("Compiling", "suite"), None);
    }
}
