//! The command line.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::checks::CHECKS;
use crate::rdma::cases::{CASES, Case};

/// What the user asked for.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Help,
    Test(TestOptions),
    Rdma(RdmaOptions),
    /// Make the bindings from the headers in this directory, or from the pinned ones.
    Bindgen(Option<PathBuf>),
    /// Provide the UCX libraries that tests open.
    Ucx,
    /// Make the Python wheel.
    Wheel,
    /// Make the tarball for users of the C ABI.
    Dist,
}

/// Options of `cargo xtask test`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct TestOptions {
    /// Install nothing, whoever runs it.
    pub(crate) no_install: bool,
    /// Names of the checks to run; empty for all of them.
    pub(crate) only: Vec<String>,
}

/// Options of `cargo xtask rdma-test`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct RdmaOptions {
    /// Install nothing, whoever runs it.
    pub(crate) no_install: bool,
    /// Objects instead of a table. Installs nothing, as that would write to the same stream.
    pub(crate) json: bool,
    /// Names of the cases to run; empty for all of them.
    pub(crate) only: Vec<String>,
}

/// Parses the arguments after the program's name.
pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Command, String> {
    match args.next().as_deref() {
        None | Some("help" | "--help" | "-h") => Ok(Command::Help),
        Some("test") => parse_test(args),
        Some("rdma-test") => parse_rdma(args),
        Some("bindgen") => {
            let include = args.next().map(PathBuf::from);
            nothing_more(args).map(|()| Command::Bindgen(include))
        }
        Some("ucx") => nothing_more(args).map(|()| Command::Ucx),
        Some("wheel") => nothing_more(args).map(|()| Command::Wheel),
        Some("dist") => nothing_more(args).map(|()| Command::Dist),
        Some(other) => Err(format!("no command `{other}`")),
    }
}

fn nothing_more(mut args: impl Iterator<Item = String>) -> Result<(), String> {
    args.next()
        .map_or(Ok(()), |arg| Err(format!("what is `{arg}`?")))
}

fn parse_test(mut args: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut options = TestOptions::default();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--no-install" => options.no_install = true,
            "--only" => {
                let names = args.next().ok_or("--only needs the name of a check")?;
                for name in names.split(',') {
                    options.only.push(known_check(name)?);
                }
            }
            "--help" | "-h" => return Ok(Command::Help),
            other => return Err(format!("`test` has no option `{other}`")),
        }
    }
    Ok(Command::Test(options))
}

fn parse_rdma(mut args: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut options = RdmaOptions::default();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--no-install" => options.no_install = true,
            "--json" => options.json = true,
            "--only" => {
                let names = args.next().ok_or("--only needs the name of a case")?;
                for name in names.split(',') {
                    options.only.extend(known_cases(name)?);
                }
            }
            "--help" | "-h" => return Ok(Command::Help),
            other => return Err(format!("`rdma-test` has no option `{other}`")),
        }
    }
    Ok(Command::Rdma(options))
}

/// The case of that name, or those of the script of that name.
fn known_cases(name: &str) -> Result<Vec<String>, String> {
    let meant = |case: &&Case| case.name() == name || case.script == name;
    let names: Vec<String> = CASES.iter().filter(meant).map(Case::name).collect();
    if names.is_empty() {
        return Err(format!("no case `{name}`"));
    }
    Ok(names)
}

fn known_check(name: &str) -> Result<String, String> {
    if CHECKS.iter().any(|check| check.name == name) {
        return Ok(name.to_owned());
    }
    Err(format!("no check `{name}`"))
}

/// The text of `cargo xtask help`.
pub(crate) fn help() -> String {
    let mut text = String::from(
        "\
cargo xtask help                                  this text
cargo xtask test [--no-install] [--only a,b,...]  run the checks
cargo xtask rdma-test [--no-install] [--json] [--only a,b,...]
                                                  our programs over RDMA verbs,
                                                  in a virtual machine
cargo xtask wheel                                 the Python wheel, in dist/
cargo xtask ucx                                   get the libraries of UCX that
                                                  tests open, below target/ucx
cargo xtask bindgen [INCLUDE]                     make the bindings of ucx-sys,
                                                  from the pinned headers or
                                                  from those in INCLUDE
cargo xtask dist                                  a tarball for C and C++

`test` installs what the checks need where it may: system packages as root on
Debian or Ubuntu, cargo tools for anyone; nothing with --no-install. A check or
test that cannot run prints `SKIP <what>: <why>` and is counted at the end.

  NIXL_RS_REQUIRE=etcd,miri,...  turns these skips into failures; `all` any skip

Checks, in the order they run:
",
    );
    for check in CHECKS {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:<8}  {}", check.name, check.about);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn nothing_means_help() {
        assert_eq!(parsed(""), Ok(Command::Help));
    }

    #[test]
    fn test_takes_its_options() {
        let options = TestOptions {
            no_install: true,
            only: vec!["fmt".into(), "layers".into(), "sizes".into()],
        };
        let line = "test --no-install --only fmt,layers --only sizes";
        assert_eq!(parsed(line), Ok(Command::Test(options)));
    }

    #[test]
    fn cases_are_named_alone_or_by_their_script() {
        let options = RdmaOptions {
            json: true,
            only: vec!["info".into(), "suite-debian".into(), "suite-nixl".into()],
            ..RdmaOptions::default()
        };
        let line = "rdma-test --json --only info,suite";
        assert_eq!(parsed(line), Ok(Command::Rdma(options)));
        assert!(parsed("rdma-test --only nosuch").is_err());
        assert!(parsed("rdma-test --all").is_err());
    }

    #[test]
    fn bindgen_takes_a_directory() {
        assert_eq!(parsed("bindgen"), Ok(Command::Bindgen(None)));
        let include = Some("/usr/include".into());
        assert_eq!(
            parsed("bindgen /usr/include"),
            Ok(Command::Bindgen(include))
        );
        assert_eq!(parsed("ucx"), Ok(Command::Ucx));
        assert_eq!(parsed("wheel"), Ok(Command::Wheel));
        assert_eq!(parsed("dist"), Ok(Command::Dist));
    }

    #[test]
    fn unknown_words_are_errors() {
        for line in [
            "tset",
            "ucx x",
            "dist x",
            "bindgen a b",
            "test --only nosuch",
            "test --only",
            "test -x",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn help_fits_a_terminal_and_names_every_check() {
        let help = help();
        for check in CHECKS {
            assert!(help.contains(check.name));
        }
        for line in help.lines() {
            assert!(line.len() <= 80, "{line}");
        }
    }
}
