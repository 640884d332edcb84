//! Looking for libucp.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::library::{Library, OpenError, libucp_at, modules_of};
use crate::process;

/// Names libucp for a process whose configuration does not.
const VARIABLE: &str = "NIXL_RS_UCX_LIB";

/// Where to look. [`Library::find`] does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    places: Vec<Place>,
}

/// Somewhere to look.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// Why there.
    name: String,
    at: At,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    /// libucp, or the directory that it is in.
    Path(PathBuf),
    /// Where the system's linker looks.
    System,
    /// Nothing was found that could be opened.
    Nowhere,
}

/// A place where there was no libucp that can be used.
#[derive(Debug)]
pub struct Tried {
    /// Why it was looked at.
    pub place: String,
    /// What was opened; `None` where the system's linker was to choose, or nothing was found.
    pub path: Option<PathBuf>,
    /// Why it was not used.
    pub why: OpenError,
}

/// No libucp can be used; every place that was looked at, in order.
#[derive(Debug)]
pub struct NotFound {
    /// The places. There is at least one.
    pub tried: Vec<Tried>,
}

impl std::error::Error for NotFound {}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no usable libucp (install UCX 1.13 or newer, or name one with ")?;
        write!(f, "{VARIABLE}):")?;
        for (at, tried) in self.tried.iter().enumerate() {
            let comma = if at == 0 { "" } else { ";" };
            write!(f, "{comma} {}", tried.place)?;
            if let Some(path) = &tried.path {
                write!(f, ", {}", path.display())?;
            }
            write!(f, ": {}", tried.why)?;
        }
        Ok(())
    }
}

impl Search {
    /// Where to look in this process. `explicit` is what the configuration names, libucp or its
    /// directory: nothing else is looked at then, nor if `NIXL_RS_UCX_LIB` does.
    pub fn new(explicit: Option<&Path>) -> Search {
        let rdma = fs::read_dir("/sys/class/infiniband").is_ok_and(|mut dir| dir.next().is_some());
        Search::with(explicit, |name| env::var_os(name), rdma)
    }

    /// The same with the environment as `variable` has it, for a machine that has an RDMA device
    /// or does not.
    fn with(
        explicit: Option<&Path>,
        variable: impl Fn(&str) -> Option<OsString>,
        rdma: bool,
    ) -> Search {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let named = explicit
            .map(|path| ("configured path", path.to_owned()))
            .or_else(|| Some((VARIABLE, set(VARIABLE)?.into())));
        if let Some((name, path)) = named {
            let place = Place::path(name, path);
            return Search {
                places: vec![place],
            };
        }
        let mut places = Vec::new();
        for (name, prefix) in prefixes(&set) {
            places.extend(in_python(&name, &prefix));
        }
        if places.is_empty() {
            places.push(Place::nowhere("Python environment: none"));
        }
        let loaded = process::mapped("libucp");
        places.extend(loaded.into_iter().map(|path| {
            let name = "loaded in this process already";
            Place::path(name, path)
        }));
        places.push(Place {
            name: "system".to_owned(),
            at: At::System,
        });
        if rdma {
            // Stable: within both kinds the order stays.
            places.sort_by_key(|place| !place.may_have_ib());
        }
        Search { places }
    }
}

impl Library {
    /// Opens the first libucp that can be used.
    ///
    /// # Errors
    ///
    /// Says of every place why not.
    pub fn find(search: &Search) -> Result<Library, NotFound> {
        let mut tried = Vec::new();
        for place in &search.places {
            let (path, opened) = match &place.at {
                At::Path(path) => (Some(path.clone()), Library::open(path)),
                At::System => (None, Library::open_system()),
                At::Nowhere => (None, Err(OpenError::Missing)),
            };
            match opened {
                Ok(library) => return Ok(library),
                Err(why) => tried.push(Tried {
                    place: place.name.clone(),
                    path,
                    why,
                }),
            }
        }
        Err(NotFound { tried })
    }
}

impl Place {
    fn path(name: impl Into<String>, path: PathBuf) -> Place {
        let (name, at) = (name.into(), At::Path(path));
        Place { name, at }
    }

    fn nowhere(name: impl Into<String>) -> Place {
        let (name, at) = (name.into(), At::Nowhere);
        Place { name, at }
    }

    /// Whether a module for InfiniBand and RoCE may be there: of the system one cannot say before
    /// it is loaded.
    fn may_have_ib(&self) -> bool {
        match &self.at {
            At::System => true,
            At::Nowhere => false,
            At::Path(path) => {
                let file = libucp_at(path).unwrap_or_else(|| path.clone());
                let modules = fs::read_dir(modules_of(&file)).into_iter().flatten();
                modules.flatten().any(|entry| {
                    entry
                        .file_name()
                        .to_string_lossy()
                        .starts_with("libuct_ib.so")
                })
            }
        }
    }
}

/// The Python environments to look at: the active ones, then that of the `python3` on the path.
fn prefixes(set: &impl Fn(&str) -> Option<OsString>) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    let mut add = |name: &str, prefix: PathBuf| {
        if found.iter().all(|(_, known)| *known != prefix) {
            found.push((format!("{name} {}", prefix.display()), prefix));
        }
    };
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        if let Some(value) = set(name) {
            add(name, value.into());
        }
    }
    let path = set("PATH").unwrap_or_default();
    let python = env::split_paths(&path).map(|dir| dir.join("python3"));
    if let Some(python) = python.into_iter().find(|file| file.is_file()) {
        // A virtual environment's is a link, and what is asked for is the environment's packages
        // first, then those of what it was made from.
        let real = python.canonicalize().unwrap_or_else(|_| python.clone());
        for file in [python, real] {
            if let Some(prefix) = file.parent().and_then(Path::parent) {
                add("python3 of", prefix.to_owned());
            }
        }
    }
    if let Some(home) = set("HOME") {
        add("user packages in", PathBuf::from(home).join(".local"));
    }
    found
}

/// The libraries of UCX among the packages of the Python below `prefix`; a NIXL wheel's first, it
/// brings the InfiniBand module.
fn in_python(name: &str, prefix: &Path) -> Vec<Place> {
    let mut nixl = Vec::new();
    let mut ucx = Vec::new();
    for packages in package_dirs(prefix) {
        for dir in sorted(&packages) {
            let file = dir.file_name().unwrap_or_default().to_string_lossy();
            let wheel = if file.starts_with("nixl") && file.ends_with(".libs") {
                &mut nixl
            } else if file == "libucx" {
                &mut ucx
            } else {
                continue;
            };
            let libs = if file == "libucx" {
                dir.join("lib")
            } else {
                dir.clone()
            };
            if let Some(path) = libucp_at(&libs) {
                wheel.push(Place::path(format!("{name}, {file}"), path));
            }
        }
    }
    nixl.append(&mut ucx);
    if nixl.is_empty() {
        nixl.push(Place::nowhere(format!(
            "{name}, libucx-cu12 or a NIXL wheel"
        )));
    }
    nixl
}

/// The directories of packages below `prefix`, of every Python that it has.
fn package_dirs(prefix: &Path) -> Vec<PathBuf> {
    let lib = ["lib", "lib64", "local/lib"].map(|dir| prefix.join(dir));
    let pythons = lib.iter().flat_map(|dir| sorted(dir)).filter(|dir| {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("python3")
    });
    let mut dirs: Vec<PathBuf> = pythons
        .flat_map(|dir| ["site-packages", "dist-packages"].map(|name| dir.join(name)))
        .filter(|dir| dir.is_dir())
        .filter_map(|dir| dir.canonicalize().ok())
        .collect();
    // Often lib64 is a link to lib.
    dirs.dedup();
    dirs
}

/// What is in `dir`, by name; nothing if it cannot be read.
fn sorted(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(explicit: Option<&str>, variables: &[(&str, &Path)], rdma: bool) -> Vec<Place> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.as_os_str().to_owned())
        };
        Search::with(explicit.map(Path::new), variable, rdma).places
    }

    #[test]
    fn what_is_named_is_all_that_is_looked_at() {
        let variables = [(VARIABLE, Path::new("/b"))];
        let places = search(Some("/a"), &variables, true);
        assert_eq!(places, [Place::path("configured path", "/a".into())]);
        let places = search(None, &variables, false);
        assert_eq!(places, [Place::path(VARIABLE, "/b".into())]);
    }

    #[test]
    fn nothing_at_all_still_leaves_the_system() {
        let places = search(None, &[], false);
        assert_eq!(places[0].at, At::Nowhere);
        assert_eq!(places.last().unwrap().at, At::System);
    }

    #[test]
    fn an_environment_without_ucx_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let place = &search(None, &[("VIRTUAL_ENV", dir.path())], false)[0];
        let name = format!(
            "VIRTUAL_ENV {}, libucx-cu12 or a NIXL wheel",
            dir.path().display()
        );
        assert_eq!(*place, Place::nowhere(name));
    }

    #[test]
    fn a_module_for_infiniband_comes_first_where_there_is_a_device() {
        let dir = tempfile::tempdir().unwrap();
        let site = dir.path().join("lib/python3.12/site-packages");
        for libs in ["nixl_cu12.libs", "libucx/lib"] {
            fs::create_dir_all(site.join(libs).join("ucx")).unwrap();
            fs::write(site.join(libs).join("libucp.so.0"), "").unwrap();
        }
        fs::write(site.join("libucx/lib/ucx/libuct_ib.so.0"), "").unwrap();
        let order = |rdma| -> Vec<bool> {
            let places = search(None, &[("VIRTUAL_ENV", dir.path())], rdma);
            let named = |place: &Place| place.name.ends_with("libucx");
            places[..2].iter().map(named).collect()
        };
        assert_eq!(order(false), [false, true]);
        assert_eq!(order(true), [true, false]);
    }

    #[test]
    fn the_error_names_every_place_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let empty = [("VIRTUAL_ENV", dir.path())];
        let mut places = search(None, &empty, false);
        // The system may have one; another file that is not there stands in for it.
        places.retain(|place| place.at != At::System);
        places.push(Place::path("system", "/nonexistent".into()));
        let said = Library::find(&Search { places }).unwrap_err().to_string();
        let (first, second) = said.split_once("; ").unwrap();
        let none = format!(
            "VIRTUAL_ENV {}, libucx-cu12 or a NIXL wheel: no libucp there",
            dir.path().display()
        );
        assert!(first.ends_with(&none), "{said}");
        assert_eq!(second, "system, /nonexistent: no libucp there");
    }
}
