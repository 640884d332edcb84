//! Installing what checks need.
//!
//! System packages come from apt, as root on Debian and its relatives; cargo tools from the
//! registry, for anyone. What cannot be had is not an error here: the checks that need it say that
//! they are skipped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::checks::{Check, Stop};
use crate::{shell, ucx};

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
    /// Below `target/ucx`, from wherever each is had.
    Ucx,
}

/// The UCX libraries that tests open.
pub(crate) const UCX: Tool = Tool {
    program: "UCX",
    from: Origin::Ucx,
};

/// What bindgen reads headers with. It is a library.
pub(crate) const LIBCLANG: Tool = Tool {
    program: "libclang",
    from: Origin::Apt(&["libclang-dev"]),
};

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

/// libFuzzer is C++, and so are users of the C ABI.
pub(crate) const CXX: Tool = Tool {
    program: "c++",
    from: Origin::Apt(&["g++"]),
};

/// Finds what C programs that use the library do with memory.
pub(crate) const VALGRIND: Tool = Tool {
    program: "valgrind",
    from: Origin::Apt(&["valgrind"]),
};

/// How C programs find the library.
pub(crate) const PKG_CONFIG: Tool = Tool {
    program: "pkg-config",
    from: Origin::Apt(&["pkg-config"]),
};

/// How other C programs do.
pub(crate) const CMAKE: Tool = Tool {
    program: "cmake",
    from: Origin::Apt(&["cmake"]),
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

/// An emulator for the machine that has RDMA devices.
pub(crate) const QEMU: Tool = Tool {
    program: "qemu-system-x86_64",
    from: Origin::Apt(&["qemu-system-x86"]),
};

/// What `cargo xtask rdma-test` needs.
pub(crate) const RDMA: &[Tool] = &[QEMU, IP, UCX];

/// Installs what `checks` need and is not here. Returns a note on what was done.
pub(crate) fn missing(root: &Path, checks: &[&Check]) -> Result<String, Stop> {
    let needs = checks.iter().flat_map(|check| check.needs);
    Ok(tools(root, needs))
}

/// Installs which of `needs` are not here. Returns a note on what was done.
pub(crate) fn tools<'a>(root: &Path, needs: impl IntoIterator<Item = &'a Tool>) -> String {
    let mut packages: Vec<&str> = Vec::new();
    let mut crates = Vec::new();
    let mut ucx = false;
    for tool in needs {
        if tool.is_here(root) {
            continue;
        }
        match &tool.from {
            Origin::Ucx => ucx = true,
            Origin::Apt(names) => packages.extend(*names),
            Origin::Cargo(name, args) => crates.push((*name, *args)),
        }
    }
    packages.sort_unstable();
    packages.dedup();
    let mut notes = Vec::new();
    if !packages.is_empty() {
        notes.push(from_apt(&packages));
    }
    for (name, args) in crates {
        notes.push(from_registry(name, args));
    }
    if ucx {
        notes.push(ucx::provide(root));
    }
    if notes.is_empty() {
        notes.push("nothing was missing".to_owned());
    }
    notes.join("; ")
}

impl Tool {
    fn is_here(&self, root: &Path) -> bool {
        match self.from {
            Origin::Ucx => ucx::provided(root),
            _ if *self == LIBCLANG => has_libclang(),
            _ => shell::which(self.program).is_some(),
        }
    }
}

/// Whether bindgen will find libclang, where it is told to look or among the system's libraries.
pub(crate) fn has_libclang() -> bool {
    let llvm = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let dirs = llvm
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm"))
        .map(|entry| entry.path().join("lib"));
    let told = env::var_os("LIBCLANG_PATH").map(PathBuf::from);
    told.into_iter().chain(dirs).any(|dir| {
        let files = fs::read_dir(dir).into_iter().flatten().flatten();
        files
            .map(|entry| entry.file_name())
            .any(|name| name.to_string_lossy().starts_with("libclang.so"))
    })
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
