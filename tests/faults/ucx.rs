//! The UCX backend among the others: which libucp, which transports, and whether it is here.

use std::path::{Path, PathBuf};

use nixl::{UcxSection, backend::Backend as _};
use nixl_ucx::{Options, UcxBackend, config::UcxConfig};

use crate::namespaces::is_inside;

/// Set to the transports of one process, in place of those of its path.
pub(crate) const TLS: &str = "FAULTS_TLS";

/// The libucp directory that `cargo xtask ucx` provides under `name`.
pub(crate) fn provided(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/ucx");
    let lib = root.join(name).join("lib");
    lib.is_dir().then_some(lib)
}

/// The one to use: the variable's, else the newest that is provided, else what is found.
fn library() -> Option<PathBuf> {
    match std::env::var_os("NIXL_RS_UCX_LIB") {
        Some(_) => None,
        None => provided("wheel"),
    }
}

/// Sets up UCX for `path`, where that is one of its own.
pub(crate) fn configure(section: &mut UcxSection, path: &str) {
    let Some(tls) = transports(path) else { return };
    section.tls = std::env::var(TLS).unwrap_or(tls.to_owned());
    if let Some(lib) = library() {
        section.lib = lib.to_string_lossy().into_owned();
    }
}

fn transports(path: &str) -> Option<&'static str> {
    match path {
        "ucx_tcp" | "ucx_rndv_tcp" | "ucx_or_tcp" => Some("tcp"),
        "ucx" => Some("rc_v,ud_v"),
        "ucx_cma" => Some("cma,tcp"),
        _ => None,
    }
}

/// Whether `path` can be tested here; says so where it cannot.
pub(crate) fn is_here(path: &str) -> bool {
    let Some(tls) = transports(path).filter(|_| !is_inside()) else {
        return true;
    };
    let mut config = UcxConfig::default();
    config.lib = library();
    config.set("TLS", tls).unwrap();
    let lacks = match UcxBackend::open(&config, Options::default()) {
        Err(why) => Some(why.to_string()),
        Ok(_) if !cfg!(feature = "ucx") => Some("built without UCX".to_owned()),
        Ok(backend) => {
            let there = backend.paths().iter().any(|caps| caps.path == path);
            let version = backend.library().version();
            (!there).then(|| format!("UCX {version} has no such path here"))
        }
    };
    if let Some(why) = &lacks {
        println!("SKIP {path}: {why}");
    }
    lacks.is_none()
}
