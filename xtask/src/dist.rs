//! `cargo xtask dist`: what users of the C ABI need, as one tarball that can be unpacked anywhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::checks::Stop;
use crate::{metadata, shell};

/// All crates of the workspace share it.
const VERSION: &str = env!("CARGO_PKG_VERSION");

const SONAME: &str = "libnixl_rs.so.0";

/// Files below `nixl-capi`, and where they go. In those that end with `.in` the version is put.
const FILES: [(&str, &str); 6] = [
    ("include/nixl_rs.h", "include/nixl_rs.h"),
    ("include/nixl_rs.hpp", "include/nixl_rs.hpp"),
    ("dist/nixl_rs.pc.in", "lib/pkgconfig/nixl_rs.pc"),
    (
        "dist/nixl_rs-config.cmake",
        "lib/cmake/nixl_rs/nixl_rs-config.cmake",
    ),
    (
        "dist/nixl_rs-config-version.cmake.in",
        "lib/cmake/nixl_rs/nixl_rs-config-version.cmake",
    ),
    ("examples/c/two_agents.c", "share/doc/nixl_rs/two_agents.c"),
];

/// Builds the library and makes the tarball.
pub(crate) fn run(root: &Path) -> ExitCode {
    match make(root) {
        Ok(tarball) => {
            println!("{}", tarball.display());
            ExitCode::SUCCESS
        }
        Err(Stop::Fail(why) | Stop::Skip(why)) => {
            eprintln!("cargo xtask dist: {why}");
            ExitCode::FAILURE
        }
    }
}

fn make(root: &Path) -> Result<PathBuf, Stop> {
    let mut build = shell::cargo(root);
    build.args(["build", "--release", "--locked", "-p", "nixl-capi"]);
    shell::run(build.args(["--target-dir", "target"]))?;
    let host = metadata::host().ok_or_else(|| Stop::Fail("rustc -vV names no host".to_owned()))?;
    let name = format!("nixl_rs-{VERSION}-{host}");
    let dist = root.join("dist");
    let tree = dist.join(&name);
    if tree.exists() {
        fs::remove_dir_all(&tree).map_err(|e| failed(&tree, &e))?;
    }
    lay_out(root, &tree)?;
    let tarball = format!("{name}.tar.gz");
    let mut tar = Command::new("tar");
    // The same files give the same tarball, whoever makes it.
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    tar.arg("--mtime=@0");
    tar.arg("-C")
        .arg(&dist)
        .arg("-czf")
        .arg(dist.join(&tarball));
    shell::run(tar.arg(&name))?;
    Ok(dist.join(tarball))
}

/// Everything below `tree` as it is unpacked.
fn lay_out(root: &Path, tree: &Path) -> Result<(), Stop> {
    for (from, to) in FILES {
        let source = root.join("nixl-capi").join(from);
        let text = fs::read_to_string(&source).map_err(|e| failed(&source, &e))?;
        let text = match from.ends_with(".in") {
            true => text.replace("@VERSION@", VERSION),
            false => text,
        };
        let target = place(tree, to)?;
        fs::write(&target, text).map_err(|e| failed(&target, &e))?;
    }
    let library = place(tree, &format!("lib/{SONAME}"))?;
    let binaries = [
        (root.join("target/release/libnixl_rs.so"), library),
        (root.join("LICENSE"), place(tree, "LICENSE")?),
    ];
    for (from, to) in binaries {
        fs::copy(&from, &to).map_err(|e| failed(&from, &e))?;
    }
    let link = tree.join("lib/libnixl_rs.so");
    std::os::unix::fs::symlink(SONAME, &link).map_err(|e| failed(&link, &e))
}

/// The path of a file in the tree, whose directory it makes.
fn place(tree: &Path, file: &str) -> Result<PathBuf, Stop> {
    let path = tree.join(file);
    let dir = path.parent().unwrap_or(tree);
    fs::create_dir_all(dir).map_err(|e| failed(dir, &e))?;
    Ok(path)
}

fn failed(path: &Path, error: &std::io::Error) -> Stop {
    Stop::Fail(format!("{}: {error}", path.display()))
}
