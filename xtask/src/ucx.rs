//! The UCX libraries that tests open, below `target/ucx`: Debian's, that of a `libucx-cu12` wheel,
//! and the one that a NIXL wheel bundles. Each has a link `lib` to the directory of its libucp.
//!
//! They are unpacked, not installed: what looks for the system's UCX does not find them, and a test
//! chooses which one it opens.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell;

/// The wheel whose headers the bindings are made from.
const WHEEL: &str = "libucx-cu12==1.22.0";

/// Where everything is, below the root of the workspace.
const DIR: &str = "target/ucx";

/// The directories there.
const NAMES: [&str; 3] = ["debian", "wheel", "nixl"];

/// Installs NIXL as the benchmarks beside it do, in the environment that they use.
const NIXL: &str = "import sys; sys.path.insert(0, 'benches/peers'); \
    import peers; sys.exit(not peers.nixl_installed(print))";

/// Makes what is not there yet. Returns a note on what was done, and on what could not be.
pub(crate) fn provide(root: &Path) -> String {
    let mut notes = Vec::new();
    for name in NAMES {
        let dir = root.join(DIR).join(name);
        if dir.join("lib").is_dir() {
            continue;
        }
        let made = match name {
            "debian" => debian(root),
            "wheel" => wheel(root),
            _ => nixl(root),
        };
        let linked = made.and_then(|lib| link(&lib, &dir).map_err(|e| e.to_string()));
        notes.push(match linked {
            Ok(()) => format!("{DIR}/{name} made"),
            Err(why) => format!("no {DIR}/{name}: {why}"),
        });
    }
    notes.join("; ")
}

/// Whether [`provide`] has nothing to do.
pub(crate) fn provided(root: &Path) -> bool {
    NAMES
        .iter()
        .all(|name| root.join(DIR).join(name).join("lib").is_dir())
}

/// The headers that the bindings are made from, if they are there.
pub(crate) fn headers(root: &Path) -> Option<PathBuf> {
    let lib = root.join(DIR).join("wheel/lib").canonicalize().ok()?;
    let include = lib.parent()?.join("include");
    include.join("ucp/api/ucp.h").is_file().then_some(include)
}

fn link(lib: &Path, dir: &Path) -> io::Result<()> {
    let link = dir.join("lib");
    // One that dangles.
    if link.is_symlink() {
        fs::remove_file(&link)?;
    }
    symlink(lib, link)
}

/// Unpacks the distribution's package.
fn debian(root: &Path) -> Result<PathBuf, String> {
    if shell::which("apt-get").is_none() || shell::which("dpkg-deb").is_none() {
        return Err("no apt-get".to_owned());
    }
    let dir = fresh(root, "debian")?;
    if shell::is_root() {
        // What libucs itself needs of the system.
        let mut install = Command::new("apt-get");
        install.args(["-q", "install", "-y", "--no-install-recommends", "libnuma1"]);
        let _ = shell::run(install.env("DEBIAN_FRONTEND", "noninteractive"));
    }
    // apt's own user may not write here; as root it says so and downloads all the same.
    let mut download = Command::new("apt-get");
    shell::must(
        download
            .args(["-q", "download", "libucx0"])
            .current_dir(&dir),
    )?;
    let package = only(&dir, |name| name.ends_with(".deb")).ok_or("no package came")?;
    shell::must(Command::new("dpkg-deb").arg("-x").arg(package).arg(&dir))?;
    let libs = dir.join("usr/lib");
    let triplet = only(&libs, |name| libs.join(name).join("libucp.so.0").exists());
    triplet.ok_or_else(|| "the package has no libucp.so.0".to_owned())
}

/// Installs the wheel in a virtual environment.
fn wheel(root: &Path) -> Result<PathBuf, String> {
    let dir = fresh(root, "wheel")?;
    let venv = dir.join("venv");
    shell::virtual_environment(&venv)?;
    let mut pip = Command::new(venv.join("bin/python"));
    shell::must(pip.args(["-m", "pip", "install", "-q", "--no-deps", WHEEL]))?;
    packages(&venv)
        .map(|packages| packages.join("libucx/lib"))
        .filter(|lib| lib.is_dir())
        .ok_or_else(|| "the wheel has no libucx/lib".to_owned())
}

fn nixl(root: &Path) -> Result<PathBuf, String> {
    let mut python = Command::new("python3");
    // The benchmarks look where cargo builds for them; ours is this directory.
    python.env("CARGO_TARGET_DIR", root.join("target"));
    shell::must(python.args(["-c", NIXL]).current_dir(root))?;
    packages(&root.join(DIR).join("nixl/venv"))
        .and_then(|dir| {
            only(&dir, |name| {
                name.starts_with("nixl") && name.ends_with(".libs")
            })
        })
        .ok_or_else(|| "the wheel has no nixl*.libs".to_owned())
}

/// The directory of the packages of a virtual environment.
fn packages(venv: &Path) -> Option<PathBuf> {
    let python = only(&venv.join("lib"), |name| name.starts_with("python3"))?;
    Some(python.join("site-packages"))
}

/// An empty directory for `name`.
fn fresh(root: &Path, name: &str) -> Result<PathBuf, String> {
    let dir = root.join(DIR).join(name);
    let failed = |error: io::Error| format!("{}: {error}", dir.display());
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(failed)?;
    }
    fs::create_dir_all(&dir).map_err(failed)?;
    Ok(dir)
}

/// The entry of `dir` that `wanted` picks by its name.
fn only(dir: &Path, wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.flatten();
    let mut names = entries.map(|entry| entry.file_name());
    let name = names.find(|name| wanted(&name.to_string_lossy()))?;
    Some(dir.join(name))
}
