//! Where libucp is looked for.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::common::{child, library};

#[test]
fn a_virtual_environment_is_found_before_the_system() {
    let Some(wheel) = library("wheel") else {
        return;
    };
    let env = environment(&[("libucx/lib", wheel.parent().unwrap())]);
    let said = find(&[("VIRTUAL_ENV", env.path().to_str().unwrap())]);
    assert!(said.starts_with(&opened(&wheel)), "{said}");
}

#[test]
fn a_nixl_wheel_comes_before_plain_ucx() {
    let (Some(wheel), Some(nixl)) = (library("wheel"), library("nixl")) else {
        return;
    };
    let packages = [
        ("libucx/lib", wheel.parent().unwrap()),
        ("nixl_cu12.libs", nixl.parent().unwrap()),
    ];
    let env = environment(&packages);
    let said = find(&[("CONDA_PREFIX", env.path().to_str().unwrap())]);
    assert!(said.starts_with(&opened(&nixl)), "{said}");
}

#[test]
fn python_on_the_path_counts_without_being_run() {
    let Some(wheel) = library("wheel") else {
        return;
    };
    let env = environment(&[("libucx/lib", wheel.parent().unwrap())]);
    let bin = env.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("python3"), "not a program").unwrap();
    let said = find(&[("PATH", bin.to_str().unwrap())]);
    assert!(said.starts_with(&opened(&wheel)), "{said}");
}

#[test]
fn the_variable_wins_and_nothing_stands_in_for_it() {
    let (Some(wheel), Some(nixl)) = (library("wheel"), library("nixl")) else {
        return;
    };
    let env = environment(&[("libucx/lib", wheel.parent().unwrap())]);
    let venv = ("VIRTUAL_ENV", env.path().to_str().unwrap());
    let said = find(&[venv, ("NIXL_RS_UCX_LIB", nixl.to_str().unwrap())]);
    assert!(said.starts_with(&opened(&nixl)), "{said}");
    let said = find(&[venv, ("NIXL_RS_UCX_LIB", "/nonexistent")]);
    let why = "NIXL_RS_UCX_LIB, /nonexistent: no libucp there";
    assert!(said.starts_with("err ") && said.ends_with(why), "{said}");
}

#[test]
fn what_cannot_be_used_is_passed_over_and_named() {
    let Some(wheel) = library("wheel") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("libucp-bad.so.0"), "not a library").unwrap();
    let packages = [
        ("nixl_cu13.libs", dir.path()),
        ("libucx/lib", wheel.parent().unwrap()),
    ];
    let env = environment(&packages);
    let venv = ("VIRTUAL_ENV", env.path().to_str().unwrap());
    let said = find(&[venv]);
    assert!(said.starts_with(&opened(&wheel)), "{said}");
}

/// A Python environment with links to `packages`.
fn environment(packages: &[(&str, &Path)]) -> tempfile::TempDir {
    let env = tempfile::tempdir().unwrap();
    let site = env.path().join("lib/python3.11/site-packages");
    for (name, target) in packages {
        let link = site.join(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(target, link).unwrap();
    }
    env
}

/// What a child says of the libucp that it found.
fn find(variables: &[(&str, &str)]) -> String {
    child(&[Path::new("")], variables).concat()
}

fn opened(path: &Path) -> String {
    let real: PathBuf = path.canonicalize().unwrap();
    format!("ok {} ", real.display())
}
