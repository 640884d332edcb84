//! The Python package: where it is tested, and the wheel.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::checks::Stop;
use crate::shell;

/// What is installed, with versions.
const REQUIREMENTS: &str = "python/requirements-dev.txt";

/// The wheel may not be larger, in bytes.
const LARGEST_WHEEL: u64 = 10_000_000;

/// The interpreter of an environment below `target` that has [`REQUIREMENTS`].
pub(crate) fn environment(root: &Path) -> Result<PathBuf, String> {
    let venv = root.join("target/python/venv");
    let (python, stamp) = (venv.join("bin/python"), venv.join("requirements.txt"));
    let wanted = fs::read_to_string(root.join(REQUIREMENTS)).map_err(|e| e.to_string())?;
    if fs::read_to_string(&stamp).is_ok_and(|has| has == wanted) {
        return Ok(python);
    }
    if shell::which("python3").is_none() {
        return Err("no python3".to_owned());
    }
    shell::virtual_environment(&venv)?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "-q", "--retries", "1", "-r"]);
    shell::run(pip.arg(root.join(REQUIREMENTS)))
        .map_err(|_| "PyPI does not give what the tests need".to_owned())?;
    fs::write(stamp, wanted).map_err(|e| e.to_string())?;
    Ok(python)
}

/// Builds the native module and puts it beside the package's sources; returns what goes on
/// `PYTHONPATH`.
pub(crate) fn stage(root: &Path) -> Result<PathBuf, Stop> {
    let mut build = shell::cargo(root);
    build.env("CARGO_TARGET_DIR", root.join("target"));
    shell::run(build.args(["build", "-p", "nixl-python"]).args(features()))?;
    let site = root.join("target/python/site");
    fill(root, &site).map_err(|e| Stop::Fail(format!("{}: {e}", site.display())))?;
    Ok(site)
}

/// Etcd, where it can be built. Without it the package `nixl` refuses calls to a store.
fn features() -> &'static [&'static str] {
    match shell::which("protoc") {
        Some(_) => &["--features", "etcd"],
        None => &[],
    }
}

fn fill(root: &Path, site: &Path) -> io::Result<()> {
    if site.exists() {
        fs::remove_dir_all(site)?;
    }
    let package = site.join("nixl_rs");
    fs::create_dir_all(&package)?;
    for entry in fs::read_dir(root.join("python/nixl_rs"))? {
        let entry = entry?;
        // What a build in place has left.
        if entry.path().extension().is_none_or(|ext| ext != "so") {
            symlink(entry.path(), package.join(entry.file_name()))?;
        }
    }
    let library = root.join("target/debug/lib_native.so");
    symlink(library, package.join("_native.abi3.so"))
}

/// `cargo xtask wheel`: one wheel for every Python from 3.9 on, in `dist`.
pub(crate) fn wheel(root: &Path) -> Result<String, String> {
    let python = environment(root)?;
    let dist = root.join("dist");
    let mut maturin = Command::new(&python);
    // Zig links against the C library of the oldest system that the tag promises, which this
    // machine's own may be newer than.
    maturin.args(["-m", "maturin", "build", "--release", "--zig"]);
    maturin.args(["--compatibility", "manylinux_2_28"]);
    maturin.args(features()).arg("--manifest-path");
    maturin.arg(root.join("python/Cargo.toml"));
    maturin.arg("--out").arg(&dist);
    maturin.env("CARGO_TARGET_DIR", root.join("target"));
    // Where maturin finds zig.
    let programs = python.parent().unwrap_or(root).to_owned();
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([programs].into_iter().chain(env::split_paths(&path)));
    maturin.env("PATH", path.map_err(|e| e.to_string())?);
    shell::must(maturin.current_dir(root))?;
    let wheel = newest(&dist).ok_or("maturin made no wheel")?;
    let size = fs::metadata(&wheel).map_err(|e| e.to_string())?.len();
    if size > LARGEST_WHEEL {
        return Err(format!(
            "{}: {size} bytes, more than the {LARGEST_WHEEL} allowed",
            wheel.display()
        ));
    }
    Ok(format!("{}: {size} bytes", wheel.display()))
}

fn newest(dist: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(dist).ok()?.flatten().map(|entry| entry.path());
    let wheels = files.filter(|path| path.extension().is_some_and(|ext| ext == "whl"));
    wheels.max_by_key(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok())
}
