//! Installing what checks need.
//!
//! System packages come from apt, as root on Debian and its relatives; cargo tools from the
//! registry, for anyone. What cannot be had is not an error here: the checks that need it say that
//! they are skipped.

use std::path::Path;
use std::process::Command;

use crate::checks::{Check, Stop};
use crate::shell;
use crate::wheel;

/// A program that a check needs, and where it comes from.
#[derive(Debug, PartialEq)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    from: Origin,
}

#[derive(Debug, PartialEq)]
enum Origin {
    /// Debian packages.
    Apt(&'static [&'static str]),
    /// A package on the cargo registry, with its version and further arguments.
    Cargo(&'static str, &'static [&'static str]),
    /// Python packages in a virtual environment under the target directory.
    Wheel,
}

/// Protocol buffer compiler, with the well-known types that etcd's schema imports.
pub(crate) const PROTOC: Tool = Tool {
    program: "protoc",
    from: Origin::Apt(&["protobuf-compiler", "libprotobuf-dev"]),
};

/// The etcd server, which tests start for themselves on a loopback port.
pub(crate) const ETCD: Tool = Tool {
    program: "etcd",
    from: Origin::Apt(&["etcd-server"]),
};

/// Network namespaces for tests.
pub(crate) const IP: Tool = Tool {
    program: "ip",
    from: Origin::Apt(&["iproute2"]),
};

/// libFuzzer is C++.
pub(crate) const CXX: Tool = Tool {
    program: "c++",
    from: Origin::Apt(&["g++"]),
};

/// Built without optimisation and without its self-update, which takes less than half the time.
pub(crate) const NEXTEST: Tool = Tool {
    program: "cargo-nextest",
    from: Origin::Cargo(
        "cargo-nextest@0.9.143",
        &[
            "--debug",
            "--no-default-features",
            "--features",
            "default-no-update",
        ],
    ),
};

/// Runs fuzz targets.
pub(crate) const FUZZ: Tool = Tool {
    program: "cargo-fuzz",
    from: Origin::Cargo("cargo-fuzz@0.13.2", &[]),
};

/// Real NIXL, for the tests that exchange with it.
pub(crate) const NIXL: Tool = Tool {
    program: "nixl-cu12",
    from: Origin::Wheel,
};

/// Installs what `checks` need and is not here. Returns a note on what was done.
pub(crate) fn missing(checks: &[&Check], root: &Path) -> Result<String, Stop> {
    let mut packages: Vec<&str> = Vec::new();
    let mut crates = Vec::new();
    let mut notes = Vec::new();
    for tool in checks.iter().flat_map(|check| check.needs) {
        if shell::which(tool.program).is_some() {
            continue;
        }
        match &tool.from {
            Origin::Apt(names) => packages.extend(*names),
            Origin::Cargo(name, args) => crates.push((*name, *args)),
            Origin::Wheel => notes.extend(wheel::install(root)),
        }
    }
    packages.sort_unstable();
    packages.dedup();
    if !packages.is_empty() {
        notes.push(from_apt(&packages));
    }
    for (name, args) in crates {
        notes.push(from_registry(name, args));
    }
    if notes.is_empty() {
        notes.push("nothing was missing".to_owned());
    }
    Ok(notes.join("; "))
}

fn from_apt(packages: &[&str]) -> String {
    let list = packages.join(" ");
    if shell::which("apt-get").is_none() {
        return format!("no apt-get for {list}");
    }
    if !shell::is_root() {
        return format!("not root: not installed: {list}");
    }
    // An old package list may still do where an update fails.
    let _ = shell::run(apt_get().arg("update"));
    if install(packages) {
        return format!("installed {list}");
    }
    // One package that is not to be had must not keep the others away.
    let failed: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !install(&[package]))
        .collect();
    format!("could not install {}", failed.join(" "))
}

fn install(packages: &[&str]) -> bool {
    let mut command = apt_get();
    command.args(["install", "-y", "--no-install-recommends"]);
    shell::run(command.args(packages)).is_ok()
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("-q").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn from_registry(name: &str, args: &[&str]) -> String {
    let mut command = Command::new("cargo");
    command.args(["install", "--locked", name]).args(args);
    match shell::run(&mut command) {
        Ok(()) => format!("installed {name}"),
        Err(_) => format!("could not install {name}"),
    }
}
