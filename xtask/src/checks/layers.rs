//! Dependencies point one way.
//!
//! A crate may depend only on the crates of this workspace that its layer allows, whatever feature
//! brings the dependency. No default feature brings tokio, and the TCP protocol crate can do no
//! I/O because it has neither `std` nor unsafe code.

use std::collections::BTreeSet;
use std::fs;

use super::{Context, Stop};
use crate::lexer::lex;
use crate::metadata::{Metadata, Package};

/// What a crate of ours may depend on among ours.
enum Allowed {
    These(&'static [&'static str]),
    /// Everything below the programs.
    Libraries,
}

/// The crates that only tests may depend on, besides the layer's own.
const TEST_SUITE: &str = "nixl-conformance";

/// Programs and language bindings: nothing depends on them.
const TOPS: [&str; 7] = [
    "nixl-cli",
    "nixl-capi",
    "nixl-compat",
    "nixl-python",
    "nixl-peers",
    "ucx-sys-bindgen",
    "xtask",
];

fn allowed(name: &str) -> Option<Allowed> {
    Some(Allowed::These(match name {
        "nixl" => return Some(Allowed::Libraries),
        // What `nixl-peers` measures must not be ours.
        "ucx-sys" | "nixl-tcp-proto" | "nixl-core" | "nixl-peers" => &[],
        // A program that writes the sources of `ucx-sys`.
        "ucx-sys-bindgen" => &[],
        "nixl-tcp" => &["nixl-core", "nixl-tcp-proto"],
        "nixl-ucx" => &["nixl-core", "ucx-sys"],
        "nixl-ipc" | "nixl-cuda" | "nixl-meta" | "nixl-conformance" => &["nixl-core"],
        "nixl-cli" | "nixl-capi" | "nixl-compat" | "nixl-python" | "xtask" => &["nixl"],
        _ => return None,
    }))
}

/// A backend's tests instantiate the conformance suite; core's own cannot, and the bottom crates
/// know nothing of it.
fn may_test_with_suite(name: &str) -> bool {
    !matches!(name, "ucx-sys" | "nixl-tcp-proto" | "nixl-core")
}

pub(super) fn run(context: &mut Context) -> Result<String, Stop> {
    let metadata = Metadata::read(&context.root)?;
    let mut faults = wrong_dependencies(&metadata.packages);
    faults.extend(tokio_by_default(&metadata));
    faults.extend(impure_protocol(&metadata)?);
    if !faults.is_empty() {
        return Err(Stop::Fail(faults.join("\n")));
    }
    Ok(format!("{} crates", metadata.packages.len()))
}

fn wrong_dependencies(packages: &[Package]) -> Vec<String> {
    let ours: BTreeSet<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    let mut faults = Vec::new();
    for package in packages {
        let name = package.name.as_str();
        let Some(allowed) = allowed(name) else {
            faults.push(format!("{name} has no layer: give it one in this check"));
            continue;
        };
        let own = package.dependencies.iter();
        for dependency in own.filter(|dep| ours.contains(dep.name.as_str())) {
            let on = dependency.name.as_str();
            let permitted = match &allowed {
                Allowed::These(names) => names.contains(&on),
                Allowed::Libraries => !TOPS.contains(&on),
            };
            let for_tests = dependency.dev && on == TEST_SUITE && may_test_with_suite(name);
            if !permitted && !for_tests {
                faults.push(format!("{name} may not depend on {on}"));
            }
        }
    }
    faults
}

/// Says by which way from our crates tokio is reached without any optional feature.
fn tokio_by_default(metadata: &Metadata) -> Option<String> {
    let mut reached: BTreeSet<&str> = BTreeSet::new();
    let mut open: Vec<Vec<&str>> = metadata
        .packages
        .iter()
        .map(|package| vec![package.id.as_str()])
        .collect();
    while let Some(path) = open.pop() {
        let id = *path.last()?;
        if package_name(id) == "tokio" {
            let names: Vec<&str> = path.iter().map(|id| package_name(id)).collect();
            return Some(format!(
                "the default build has tokio: {}",
                names.join(" -> ")
            ));
        }
        if !reached.insert(id) {
            continue;
        }
        let node = metadata.graph.iter().find(|node| node.id == id);
        for next in node.map(|node| &node.needs[..]).unwrap_or_default() {
            let mut longer = path.clone();
            longer.push(next);
            open.push(longer);
        }
    }
    None
}

/// The name in a package id: `registry+url#name@version`, or `path+file:///dir/name#version`.
fn package_name(id: &str) -> &str {
    let (url, fragment) = id.split_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name,
        None => url.rsplit('/').next().unwrap_or(url),
    }
}

fn impure_protocol(metadata: &Metadata) -> Result<Option<String>, Stop> {
    let Some(package) = metadata.package("nixl-tcp-proto") else {
        return Ok(Some("nixl-tcp-proto is not in the workspace".to_owned()));
    };
    let file = package.manifest.with_file_name("src/lib.rs");
    let text = fs::read_to_string(&file)
        .map_err(|error| Stop::Fail(format!("{}: {error}", file.display())))?;
    Ok(missing_attribute(&text))
}

fn missing_attribute(lib: &str) -> Option<String> {
    let code: String = lex(lib).tokens.iter().map(|token| token.text).collect();
    let has = |attribute| code.contains(attribute);
    // Its tests may use std.
    if !has("#![no_std]") && !has("#![cfg_attr(not(test),no_std)]") {
        return Some("nixl-tcp-proto is not no_std".to_owned());
    }
    (!has("#![forbid(unsafe_code)]")).then(|| "nixl-tcp-proto does not forbid unsafe_code".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Dependency, Node};

    fn package(name: &str, dependencies: &[(&str, bool)]) -> Package {
        Package {
            id: format!("path+file:///ws/{name}#0.1.0"),
            name: name.into(),
            manifest: "Cargo.toml".into(),
            features: Vec::new(),
            targets: Vec::new(),
            dependencies: dependencies
                .iter()
                .map(|&(name, dev)| Dependency {
                    name: name.into(),
                    dev,
                })
                .collect(),
        }
    }

    /// Every crate, with `name` depending on `on`.
    fn faults(name: &str, on: &str, dev: bool) -> Vec<String> {
        let names = [
            "nixl",
            "nixl-core",
            "nixl-tcp",
            "nixl-tcp-proto",
            "nixl-ipc",
        ];
        let tops = ["nixl-cli", "nixl-conformance", "xtask"];
        let packages: Vec<Package> = names
            .iter()
            .chain(&tops)
            .map(|&each| {
                let dependencies = if each == name { &[(on, dev)][..] } else { &[] };
                package(each, dependencies)
            })
            .collect();
        wrong_dependencies(&packages)
    }

    #[test]
    fn allowed_directions_pass() {
        let good = [
            ("nixl-tcp", "nixl-core"),
            ("nixl-tcp", "nixl-tcp-proto"),
            ("nixl-conformance", "nixl-core"),
            ("nixl", "nixl-ipc"),
            ("nixl-cli", "nixl"),
            ("nixl-core", "bytes"),
        ];
        for (name, on) in good {
            assert_eq!(faults(name, on, false), [""; 0], "{name} on {on}");
        }
        assert_eq!(faults("nixl-ipc", "nixl-conformance", true), [""; 0]);
    }

    #[test]
    fn wrong_directions_fail() {
        let bad = [
            ("nixl-core", "nixl-tcp"),
            ("nixl-tcp-proto", "nixl-core"),
            ("nixl-ipc", "nixl-tcp"),
            ("nixl-ipc", "nixl-tcp-proto"),
            ("nixl-conformance", "nixl-ipc"),
            ("nixl-tcp", "nixl"),
            ("nixl", "nixl-cli"),
            ("nixl-cli", "nixl-core"),
            ("nixl-ipc", "nixl-conformance"),
        ];
        for (name, on) in bad {
            let expected = format!("{name} may not depend on {on}");
            assert_eq!(faults(name, on, false), [expected]);
        }
        assert_eq!(faults("nixl-core", "nixl-conformance", true).len(), 1);
    }

    #[test]
    fn a_crate_without_a_layer_fails() {
        let faults = wrong_dependencies(&[package("nixl-new", &[])]);
        assert_eq!(faults.len(), 1, "{faults:?}");
    }

    #[test]
    fn tokio_is_found_however_deep() {
        let id = |name: &str| format!("registry+https://registry/index#{name}@1.0.0");
        let node = |id: String, needs: Vec<String>| Node { id, needs };
        let ours = package("nixl-meta", &[]);
        let mut metadata = Metadata {
            graph: vec![
                node(ours.id.clone(), vec![id("bytes"), id("hyper")]),
                node(id("hyper"), vec![id("tokio-util")]),
                node(id("tokio-util"), vec![id("bytes")]),
                node(id("bytes"), Vec::new()),
            ],
            packages: vec![ours],
        };
        assert_eq!(tokio_by_default(&metadata), None);
        metadata.graph[2].needs.push(id("tokio"));
        let fault = tokio_by_default(&metadata).unwrap();
        assert!(
            fault.ends_with("nixl-meta -> hyper -> tokio-util -> tokio"),
            "{fault}"
        );
    }

    #[test]
    fn the_protocol_must_be_pure() {
        let good = "//! Doc.\n#![cfg_attr(not(test), no_std)]\n#![forbid(unsafe_code)]\n";
        assert_eq!(missing_attribute(good), None);
        assert_eq!(
            missing_attribute("#![no_std]\n#![forbid(unsafe_code)]"),
            None
        );
        assert!(missing_attribute("#![no_std]\n// #![forbid(unsafe_code)]").is_some());
        assert!(missing_attribute("#![forbid(unsafe_code)]").is_some());
    }
}
