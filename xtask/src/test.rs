//! `cargo xtask test`.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use crate::args::TestOptions;
use crate::checks::{CHECKS, Check, Context, Stop};
use crate::install;
use crate::report::{Outcome, Report, Required};

/// Runs the chosen checks, all of them whatever fails, and prints the summary.
pub(crate) fn run(options: &TestOptions) -> ExitCode {
    let started = Instant::now();
    let required = Required::parse(&env::var("NIXL_RS_REQUIRE").unwrap_or_default());
    let mut report = Report::new(required);
    let wanted = |check: &&Check| {
        options.only.is_empty() || options.only.iter().any(|name| name == check.name)
    };
    let chosen: Vec<&Check> = CHECKS.iter().filter(wanted).collect();
    if !options.no_install {
        timed(
            &mut report,
            "install",
            "what the checks need and is not here",
            |context| install::missing(&context.root, &chosen),
        );
    }
    for check in chosen {
        timed(&mut report, check.name, check.about, check.run);
    }
    println!("\n=== summary, {:.0} s\n", started.elapsed().as_secs_f64());
    print!("{}", report.render());
    if report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs one step between a header line and a line that says how it ended.
fn timed(
    report: &mut Report,
    name: &'static str,
    about: &str,
    step: impl FnOnce(&mut Context) -> Result<String, Stop>,
) {
    println!("\n=== {name}: {about}");
    let begun = Instant::now();
    let mut context = Context::new(root());
    let outcome = match step(&mut context) {
        Ok(note) => Outcome::Ok(note),
        Err(Stop::Fail(why)) => Outcome::Failed(why),
        Err(Stop::Skip(why)) => Outcome::Skipped(why),
    };
    let took = begun.elapsed();
    let seconds = took.as_secs_f64();
    for skip in &context.skips {
        println!("SKIP {}: {}", skip.what, skip.why);
    }
    match &outcome {
        Outcome::Ok(note) if note.is_empty() => println!("=== {name}: ok, {seconds:.1} s"),
        Outcome::Ok(note) => println!("=== {name}: ok, {seconds:.1} s, {note}"),
        Outcome::Failed(why) => println!("{why}\n=== {name}: FAILED, {seconds:.1} s"),
        Outcome::Skipped(why) => println!("SKIP {name}: {why}"),
    }
    report.add(name, outcome, context.skips, took);
}

/// The root of the workspace: the directory above this package's. `cargo run` says where that is
/// now; the program may have been built for another clone that shares its target directory.
pub(crate) fn root() -> PathBuf {
    let told = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let manifest_dir = told.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    manifest_dir.parent().unwrap_or(&manifest_dir).to_owned()
}
