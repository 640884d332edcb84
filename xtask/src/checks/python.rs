//! The Python package's own tests.

use super::{Context, Stop, tests};
use crate::{python, shell};

pub(super) fn run(context: &mut Context) -> Result<String, Stop> {
    let interpreter = python::environment(&context.root).map_err(Stop::Skip)?;
    let site = python::stage(&context.root)?;
    // Beside the sources an interpreter would find those, which have no native module.
    let mut pytest = std::process::Command::new(interpreter);
    pytest
        .args(["-m", "pytest", "-c", "../pyproject.toml", "."])
        .current_dir(context.root.join("python/tests"));
    pytest.env("PYTHONPATH", site).env_remove("NIXL_RS_REQUIRE");
    let lines = shell::run_watched(&mut pytest)?;
    let skips = tests::skips_in(lines.iter().map(String::as_str));
    context.skips.extend(skips);
    let passed = lines.iter().rev().find(|line| line.contains(" passed"));
    match passed {
        Some(line) => Ok(line.trim_matches(['=', ' ']).to_owned()),
        None => Err(Stop::Fail("pytest ran no test".to_owned())),
    }
}
