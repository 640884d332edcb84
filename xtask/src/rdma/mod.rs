//! `cargo xtask rdma-test`: our own programs over RDMA verbs, in a virtual machine with Soft-RoCE.
//! docs/testing-rdma.md describes it.

pub(crate) mod cases;
mod image;
mod machine;
mod programs;
mod summary;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::args::RdmaOptions;
use crate::checks::{Context, Stop};
use crate::report::Skip;
use crate::{install, test};
use cases::{CASES, Case};
use image::failed;
use machine::{Line, Machine};
use summary::{Entry, Result as Ended, Summary};

/// The command.
pub(crate) fn command(options: &RdmaOptions) -> ExitCode {
    let root = test::root();
    if !options.no_install && !options.json {
        println!("{}", install::tools(&root, install::RDMA));
    }
    let wanted = |case: &&Case| options.only.is_empty() || options.only.contains(&case.name());
    let chosen: Vec<&'static Case> = CASES.iter().filter(wanted).collect();
    match run(&root, &chosen) {
        Ok(summary) => {
            let text = if options.json {
                summary.json()
            } else {
                summary.table()
            };
            print!("{text}");
            if summary.failed() == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(Stop::Skip(why)) => {
            println!("SKIP rdma: {why}");
            ExitCode::SUCCESS
        }
        Err(Stop::Fail(why)) => {
            eprintln!("cargo xtask rdma-test: {why}");
            ExitCode::FAILURE
        }
    }
}

/// `cargo xtask test`'s part. Cases that could not run are among the skips.
pub(crate) fn check(context: &mut Context) -> Result<String, Stop> {
    let chosen: Vec<&'static Case> = CASES.iter().filter(|case| case.always).collect();
    let summary = run(&context.root, &chosen)?;
    print!("{}", summary.table());
    for entry in &summary.entries {
        if let Ended::Skipped(why) = &entry.result {
            let (what, why) = (entry.case.name(), why.clone());
            context.skips.push(Skip { what, why });
        }
    }
    match summary.failed() {
        0 => Ok(format!("{} cases", chosen.len() - summary.skipped())),
        failed => Err(Stop::Fail(format!("{failed} cases failed, see above"))),
    }
}

/// Runs `chosen`; progress goes to standard error.
fn run(root: &Path, chosen: &[&'static Case]) -> Result<Summary, Stop> {
    if let Some(why) = machine::lacks() {
        return Err(Stop::Skip(why));
    }
    let image = image::provide(root)?;
    let started = Instant::now();
    let mut summary = Summary::default();
    let here = |case: &&&'static Case| match programs::lacks(root, case.ucx) {
        None => true,
        Some(why) => {
            summary.entries.push(entry(case, Ended::Skipped(why)));
            false
        }
    };
    let chosen: Vec<&'static Case> = chosen.iter().filter(here).copied().collect();
    let programs = programs::build(root, &chosen)?;
    let control = control(root, &image, &programs, &chosen)?;
    let mut machine = Machine::boot(&image, &control)?;
    let ended = watch(&mut machine, &chosen, &mut summary);
    drop(machine);
    if let Err(why) = ended {
        abandon(&mut summary, &chosen, &why, &control);
    }
    summary.seconds = started.elapsed().as_secs_f64();
    Ok(summary)
}

fn entry(case: &'static Case, result: Ended) -> Entry {
    Entry {
        case,
        result,
        note: String::new(),
        seconds: 0.0,
    }
}

/// Follows the machine until it is through with the cases, or says why it is not.
fn watch(
    machine: &mut Machine,
    chosen: &[&'static Case],
    summary: &mut Summary,
) -> Result<(), String> {
    let mut begun = Instant::now();
    let (mut note, mut why) = (String::new(), String::new());
    loop {
        match machine.line()? {
            Line::Booted => {
                summary.boot = begun.elapsed().as_secs_f64();
                eprintln!("booted after {:.1} s", summary.boot);
                machine.allow(Duration::ZERO);
            }
            Line::Broken(what) => return Err(what),
            Line::Begin(number) => {
                let case = chosen.get(number).ok_or("a case that nobody asked for")?;
                eprintln!("--- {}: {}", case.name(), case.proves);
                machine.allow(Duration::from_secs(case.limit));
                begun = Instant::now();
                note.clear();
                why.clear();
            }
            Line::End(number, status) => {
                let case = chosen.get(number).ok_or("a case that nobody asked for")?;
                let mut entry = entry(case, ended(case, status, &why));
                entry.note = note.clone();
                entry.seconds = begun.elapsed().as_secs_f64();
                eprintln!("--- {}: {:.1} s", case.name(), entry.seconds);
                summary.entries.push(entry);
                machine.allow(Duration::ZERO);
            }
            Line::Done => return Ok(()),
            Line::Text(line) => {
                eprintln!("{line}");
                if let Some(text) = line.strip_prefix("RESULT ") {
                    note = text.to_owned();
                } else if let Some(text) = line.strip_prefix("FAIL ") {
                    why = text.to_owned();
                }
            }
        }
    }
}

fn ended(case: &Case, status: i32, why: &str) -> Ended {
    match status {
        0 => Ended::Ok,
        124 | 137 => Ended::Failed(format!("it took more than {} s", case.limit)),
        _ if !why.is_empty() => Ended::Failed(why.to_owned()),
        _ => Ended::Failed(format!("exit status {status}; its output is above")),
    }
}

/// The cases that have no result failed for the reason `why`.
fn abandon(summary: &mut Summary, chosen: &[&'static Case], why: &str, control: &Path) {
    eprintln!("{}", machine::last_words(control));
    for case in chosen {
        let done = |entry: &Entry| entry.case.name() == case.name();
        if !summary.entries.iter().any(done) {
            let failed = Ended::Failed(why.to_owned());
            summary.entries.push(entry(case, failed));
        }
    }
}

/// The directory that the machine can write to, with what it is to do.
fn control(
    root: &Path,
    image: &Path,
    programs: &programs::Programs,
    chosen: &[&Case],
) -> Result<std::path::PathBuf, Stop> {
    let dir = root.join(image::DIR).join("control");
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(|error| failed(&dir, &error))?;
    }
    fs::create_dir_all(&dir).map_err(|error| failed(&dir, &error))?;
    let sources = root.join(image::SOURCES);
    let vars = format!(
        "ROOT='{}'\nHERE='{}'\nMODULES='{}'\nSUITE='{}'\nNIXL='{}'\n",
        root.display(),
        sources.display(),
        image.join("lib/modules").display(),
        programs.suite.display(),
        programs.nixl.display(),
    );
    let line = |(number, case): (usize, &&Case)| {
        let (limit, ucx, script) = (case.limit, case.ucx.name(), case.script);
        format!("{number} {limit} {ucx} {script}\n")
    };
    let list: String = chosen.iter().enumerate().map(line).collect();
    let stage2 = sources.join("stage2");
    let stage2 = fs::read_to_string(&stage2).map_err(|error| failed(&stage2, &error))?;
    for (name, text) in [("vars", vars), ("list", list), ("stage2", stage2)] {
        let file = dir.join(name);
        fs::write(&file, text).map_err(|error| failed(&file, &error))?;
    }
    Ok(dir)
}
