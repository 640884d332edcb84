//! Each library, in a process of its own, and two in one.

use std::path::Path;

use crate::common::{child, libraries, library};
use ucx_sys::{Library, OpenError, Version};

#[test]
fn each_library_opens_and_makes_a_worker() {
    for (name, path) in libraries() {
        let said = child(&[&path], &[]);
        let [line] = &said[..] else {
            panic!("{name}: {said:?}");
        };
        let real = path.canonicalize().unwrap();
        let start = format!("ok {} ", real.display());
        assert!(line.starts_with(&start), "{name}: {line}");
        let dir = real.parent().unwrap().join("ucx");
        let module = format!("{}/libuct_cma", dir.display());
        assert!(line.contains(&module), "{name}: {line}");
    }
}

#[test]
fn versions_are_those_of_the_packages() {
    for (name, expected) in [("debian", "1."), ("wheel", "1.22.0"), ("nixl", "1.23.0")] {
        let Some(path) = library(name) else { continue };
        let said = child(&[&path], &[]);
        let version = said[0].split(' ').nth(2).unwrap_or_default();
        assert!(version.starts_with(expected), "{name}: {said:?}");
    }
}

#[test]
fn two_libraries_of_other_names_work_side_by_side() {
    let (Some(wheel), Some(nixl)) = (library("wheel"), library("nixl")) else {
        return;
    };
    let said = child(&[&wheel, &nixl], &[]);
    let started: Vec<bool> = said.iter().map(|line| line.starts_with("ok ")).collect();
    assert_eq!(started, [true, true], "{said:?}");
    assert!(
        said[0].contains("1.22.0") && said[1].contains("1.23.0"),
        "{said:?}"
    );
}

#[test]
fn a_library_is_not_mixed_with_parts_of_another() {
    let (Some(wheel), Some(debian)) = (library("wheel"), library("debian")) else {
        return;
    };
    for pair in [[wheel.as_path(), &debian], [&debian, &wheel]] {
        let said = child(&pair, &[]);
        assert!(said[0].starts_with("ok "), "{said:?}");
        let dir = pair[0].canonicalize().unwrap();
        let dir = dir.parent().unwrap().display().to_string();
        let start = format!("err would be mixed with {dir}/libucm.so");
        assert!(said[1].starts_with(&start), "{said:?}");
    }
}

#[test]
fn the_same_library_opens_again() {
    let Some(wheel) = library("wheel") else {
        return;
    };
    let said = child(&[&wheel, wheel.parent().unwrap()], &[]);
    assert!(said.iter().all(|line| line.starts_with("ok ")), "{said:?}");
    assert_eq!(said[0], said[1]);
}

#[test]
fn what_is_no_libucp_says_why() {
    let open = |path: &Path| Library::open(path).unwrap_err();
    assert_eq!(
        open(Path::new("/nonexistent/libucp.so.0")),
        OpenError::Missing
    );
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(open(dir.path()), OpenError::Missing);
    let text = dir.path().join("libucp.so.0");
    std::fs::write(&text, "not a library").unwrap();
    assert!(matches!(open(dir.path()), OpenError::Load(why) if why.contains("libucp.so.0")));
    // Another library, which this process has for sure.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.lines().find(|line| line.contains("/libc.so"));
    let libc = libc.and_then(|line| line.find('/').map(|at| &line[at..]));
    let Some(libc) = libc else {
        println!("SKIP libc: it is linked in, there is no other library to open");
        return;
    };
    let missing = OpenError::Symbols(vec!["ucp_get_version"]);
    assert_eq!(open(Path::new(libc)), missing);
}

#[test]
fn versions_order() {
    let version = |major, minor| Version {
        major,
        minor,
        release: 0,
    };
    assert!(version(1, 22).at_least(1, 22) && version(2, 0).at_least(1, 22));
    assert!(!version(1, 21).at_least(1, 22));
    assert_eq!(version(1, 13).to_string(), "1.13.0");
}
