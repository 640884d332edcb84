//! The parts of `cargo metadata` that checks look at.

use std::path::PathBuf;

use serde_json::Value;

use crate::checks::Stop;
use crate::shell;

/// A package of the workspace.
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) manifest: PathBuf,
    pub(crate) features: Vec<String>,
    /// Kind (`lib`, `bin`, `test`, `bench`, ...) and name.
    pub(crate) targets: Vec<(String, String)>,
    pub(crate) dependencies: Vec<Dependency>,
}

impl Package {
    /// Whether it has a target of that kind and name.
    pub(crate) fn has_target(&self, kind: &str, name: &str) -> bool {
        self.targets.iter().any(|(k, n)| k == kind && n == name)
    }
}

/// A dependency as a manifest declares it, whichever feature it belongs to.
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) dev: bool,
}

/// A package in the graph that default features make, for this machine's target.
pub(crate) struct Node {
    pub(crate) id: String,
    /// What it needs to build and run; dev-dependencies are left out.
    pub(crate) needs: Vec<String>,
}

/// The workspace as cargo sees it.
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    pub(crate) graph: Vec<Node>,
}

impl Metadata {
    /// Asks cargo about the workspace in `root`.
    pub(crate) fn read(root: &std::path::Path) -> Result<Metadata, Stop> {
        let failed = |what: &str| Stop::Fail(format!("cargo metadata: {what}"));
        let mut command = shell::cargo(root);
        command.args(["metadata", "--format-version=1"]);
        if let Some(host) = host() {
            command.args(["--filter-platform", &host]);
        }
        let output = command.output().map_err(|e| failed(&e.to_string()))?;
        if !output.status.success() {
            return Err(failed(&String::from_utf8_lossy(&output.stderr)));
        }
        let json = serde_json::from_slice(&output.stdout).map_err(|e| failed(&e.to_string()))?;
        Metadata::parse(&json).ok_or_else(|| failed("has another form than expected"))
    }

    /// Reads the JSON document; `None` if something is not where it should be.
    pub(crate) fn parse(json: &Value) -> Option<Metadata> {
        let members = json["workspace_members"].as_array()?;
        let packages = json["packages"].as_array()?;
        let ours = packages.iter().filter(|p| members.contains(&p["id"]));
        let nodes = json["resolve"]["nodes"].as_array()?;
        Some(Metadata {
            packages: ours.map(package).collect::<Option<_>>()?,
            graph: nodes.iter().map(node).collect::<Option<_>>()?,
        })
    }

    /// The workspace's package of that name.
    pub(crate) fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }
}

fn package(json: &Value) -> Option<Package> {
    let features = json["features"].as_object()?;
    let targets = json["targets"].as_array()?;
    let dependencies = json["dependencies"].as_array()?;
    Some(Package {
        id: text(&json["id"])?,
        name: text(&json["name"])?,
        manifest: text(&json["manifest_path"])?.into(),
        features: features.keys().cloned().collect(),
        targets: targets
            .iter()
            .map(|target| Some((text(&target["kind"][0])?, text(&target["name"])?)))
            .collect::<Option<_>>()?,
        dependencies: dependencies
            .iter()
            .map(|dependency| {
                Some(Dependency {
                    name: text(&dependency["name"])?,
                    dev: dependency["kind"] == "dev",
                })
            })
            .collect::<Option<_>>()?,
    })
}

fn node(json: &Value) -> Option<Node> {
    let mut needs = Vec::new();
    for dependency in json["deps"].as_array()? {
        let kinds = dependency["dep_kinds"].as_array()?;
        if kinds.iter().any(|kind| kind["kind"] != "dev") {
            needs.push(text(&dependency["pkg"])?);
        }
    }
    let id = text(&json["id"])?;
    Some(Node { id, needs })
}

fn text(json: &Value) -> Option<String> {
    json.as_str().map(str::to_owned)
}

/// The target triple of this machine, as rustc names it.
pub(crate) fn host() -> Option<String> {
    let output = std::process::Command::new("rustc")
        .arg("-vV")
        .output()
        .ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
}
