//! Tests, and what they say that they skipped.

use std::fs;

use super::{Context, Stop};
use crate::report::Skip;
use crate::shell;

/// Where nextest's profile `xtask` writes its report, below the target directory.
const JUNIT: &str = "target/nextest/xtask/junit.xml";

pub(super) fn run(context: &mut Context) -> Result<String, Stop> {
    if shell::which("cargo-nextest").is_some() {
        return nextest(context, &["--workspace"]);
    }
    context.skips.push(Skip {
        what: "nextest".to_owned(),
        why: "cargo-nextest is not installed; cargo test ran instead".to_owned(),
    });
    cargo_test(context, &["--workspace"])
}

pub(super) fn doctests(context: &mut Context) -> Result<String, Stop> {
    shell::run(&mut context.cargo(&["test", "--workspace", "--doc"]))?;
    Ok(String::new())
}

/// Runs the tests that `selection` names, and collects skips from the report that nextest writes.
pub(super) fn nextest(context: &mut Context, selection: &[&str]) -> Result<String, Stop> {
    let report = context.root.join(JUNIT);
    // A report left by an earlier run must not speak for this one.
    if report.exists() {
        let failed = |error| Stop::Fail(format!("{JUNIT}: {error}"));
        fs::remove_file(&report).map_err(failed)?;
    }
    let mut command = context.cargo(&["nextest", "run", "--profile", "xtask"]);
    // The report is looked for in this directory.
    command.env("CARGO_TARGET_DIR", context.root.join("target"));
    let result = shell::run(command.args(selection));
    let xml = fs::read_to_string(&report).unwrap_or_default();
    context.skips.extend(skips_in(xml.lines()));
    result?;
    match tests_in(&xml) {
        Some(count) if count > 0 => Ok(format!("{count} tests")),
        _ => Err(Stop::Fail(format!("{JUNIT} lists no test"))),
    }
}

fn cargo_test(context: &mut Context, selection: &[&str]) -> Result<String, Stop> {
    let mut command = context.cargo(&["test", "--lib", "--bins", "--tests", "--examples"]);
    command.args(selection).args(["--", "--show-output"]);
    let lines = shell::run_watched(&mut command)?;
    let skips = skips_in(lines.iter().map(String::as_str));
    context.skips.extend(skips);
    Ok(String::new())
}

/// The skips that `lines` tell of, each `SKIP <what>: <why>`.
pub(super) fn skips_in<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Skip> {
    lines
        .map(|line| {
            // In a report the first line of a test's output stands behind its tag, the last one
            // before it.
            let line = line.trim().trim_start_matches("<system-out>");
            let line = line.trim_start_matches("<system-err>");
            line.split("</system-").next().unwrap_or_default()
        })
        .filter_map(|line| Skip::parse(&unescaped(line)))
        .collect()
}

/// Undoes XML's escapes.
fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

/// How many tests the report says were run.
fn tests_in(xml: &str) -> Option<usize> {
    let attributes = xml.split_once("<testsuites ")?.1.split_once('>')?.0;
    let count = attributes.split_once("tests=\"")?.1.split_once('"')?.0;
    count.parse().ok()
}

#[cfg(test)]
mod unit {
    use super::*;

    const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="3" failures="0" errors="0" uuid="x">
    <testsuite name="nixl-ipc" tests="3" disabled="0" errors="0" failures="0">
        <testcase name="netns::reaches" classname="nixl-ipc" time="0.004">
            <system-out>
running 1 test
SKIP netns: &quot;ip netns&quot; is not permitted
test netns::reaches ... ok
</system-out>
            <system-err>SKIP ptrace: scope is 3 &amp; not root</system-err>
        </testcase>
        <testcase name="plain" classname="nixl-ipc" time="0.004">
            <system-out>
test plain ... SKIP pidfd: old kernel
ok
</system-out>
        </testcase>
    </testsuite>
</testsuites>"#;

    #[test]
    fn skips_are_found_in_a_report() {
        let found: Vec<String> = skips_in(REPORT.lines())
            .into_iter()
            .map(|skip| format!("{}|{}", skip.what, skip.why))
            .collect();
        let expected = [
            "netns|\"ip netns\" is not permitted",
            "ptrace|scope is 3 & not root",
            "pidfd|old kernel",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_report_says_how_many_tests_ran() {
        assert_eq!(tests_in(REPORT), Some(3));
        assert_eq!(tests_in("<testsuites>"), None);
        assert_eq!(tests_in(""), None);
    }
}
