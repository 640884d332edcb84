//! The virtual machine's kernel, initramfs and programs, below `target/rdma-vm`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::checks::Stop;
use crate::shell;

/// Where everything is, below the root of the workspace.
pub(crate) const DIR: &str = "target/rdma-vm";

/// What the machine is made from, below the root of the workspace.
pub(crate) const SOURCES: &str = "tests/rdma-vm";

/// Files whose change makes the image again.
const INGREDIENTS: [&str; 3] = ["packages", "prepare.sh", "init"];

/// A line of `tests/rdma-vm/packages`.
#[derive(Debug, PartialEq)]
struct Package<'a> {
    kind: &'a str,
    name: &'a str,
    version: &'a str,
}

/// The image, made if it is not there or not from these sources. Skips where it cannot be had.
pub(crate) fn provide(root: &Path) -> Result<PathBuf, Stop> {
    let dir = root.join(DIR);
    let image = dir.join("image");
    let recipe = recipe(root)?;
    let stamp = image.join("recipe");
    if fs::read_to_string(&stamp).is_ok_and(|made| made == recipe) {
        return Ok(image);
    }
    for program in ["apt-get", "dpkg-deb", "xz", "od"] {
        if shell::which(program).is_none() {
            return Err(Stop::Skip(format!("no {program} to get a kernel with")));
        }
    }
    let debs = dir.join("debs");
    download(root, &debs)?;
    let mut prepare = Command::new("bash");
    prepare.arg(root.join(SOURCES).join("prepare.sh"));
    run(prepare.arg(&debs).arg(&image))?;
    fs::write(&stamp, recipe).map_err(|error| failed(&stamp, &error))?;
    Ok(image)
}

fn recipe(root: &Path) -> Result<String, Stop> {
    let mut text = String::new();
    for name in INGREDIENTS {
        let file = root.join(SOURCES).join(name);
        text += &fs::read_to_string(&file).map_err(|error| failed(&file, &error))?;
    }
    Ok(text)
}

/// Fetches every package into the directory of its kind.
fn download(root: &Path, debs: &Path) -> Result<(), Stop> {
    if debs.exists() {
        fs::remove_dir_all(debs).map_err(|error| failed(debs, &error))?;
    }
    let list = root.join(SOURCES).join("packages");
    let text = fs::read_to_string(&list).map_err(|error| failed(&list, &error))?;
    for package in packages(&text) {
        let dir = debs.join(package.kind);
        fs::create_dir_all(&dir).map_err(|error| failed(&dir, &error))?;
        let exact = format!("{}={}", package.name, package.version);
        // Archives drop a version when the next one comes.
        let had = fetch(&dir, &exact) || fetch(&dir, package.name) || kernel(&dir, &package);
        if !had {
            let why = format!("apt has no package {}", package.name);
            return Err(Stop::Skip(why));
        }
    }
    Ok(())
}

fn fetch(dir: &Path, package: &str) -> bool {
    let mut command = Command::new("apt-get");
    // apt's own user may not write here.
    let sandbox = ["-o", "APT::Sandbox::User=root"];
    command.args(["-qq", "download", package]).args(sandbox);
    command.current_dir(dir);
    run(&mut command).is_ok()
}

/// Runs `command`, whose output joins our progress.
fn run(command: &mut Command) -> Result<(), Stop> {
    command.stdin(Stdio::null()).stdout(io::stderr());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Stop::Fail(format!("{command:?}: {status}"))),
        Err(error) => Err(Stop::Fail(format!("{command:?}: {error}"))),
    }
}

/// The kernel that the distribution has now: its name has its version in it.
fn kernel(dir: &Path, package: &Package<'_>) -> bool {
    if package.kind != "kernel" {
        return false;
    }
    let output = Command::new("apt-cache")
        .args(["depends", "linux-image-amd64"])
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default()
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .is_some_and(|name| fetch(dir, name))
}

fn packages(text: &str) -> impl Iterator<Item = Package<'_>> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (kind, name, version) = (words.next()?, words.next()?, words.next()?);
        (!kind.starts_with('#')).then_some(Package {
            kind,
            name,
            version,
        })
    })
}

pub(crate) fn failed(path: &Path, error: &std::io::Error) -> Stop {
    Stop::Fail(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_one_kernel_and_one_busybox() {
        let text = include_str!("../../../tests/rdma-vm/packages");
        for kind in ["kernel", "busybox"] {
            let count = packages(text).filter(|p| p.kind == kind).count();
            assert_eq!(count, 1, "{kind}");
        }
        assert!(packages(text).all(|p| ["kernel", "busybox", "user"].contains(&p.kind)));
        assert!(packages("# a b c\n\n").next().is_none());
    }
}
