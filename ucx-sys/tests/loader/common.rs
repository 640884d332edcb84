//! What the tests share: the libraries, and a child process that opens them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr;

use ucx_sys::{
    Library, NotFound, Search, ucp_feature, ucp_params_field, ucp_params_t, ucp_worker_attr_field,
    ucp_worker_attr_t, ucp_worker_params_field, ucp_worker_params_t, ucs_status_t,
    ucs_thread_mode_t,
};

/// Names the libraries that the child opens; an empty one is to be found.
const CHILD: &str = "CHILD_OPENS";

/// The directory that `cargo xtask ucx` fills.
fn provided() -> PathBuf {
    let told = env::var_os("XTASK_UCX").map(PathBuf::from);
    told.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ucx"))
}

/// The libucp of that name, `debian`, `wheel` or `nixl`; says that it is skipped if there is none.
pub(crate) fn library(name: &str) -> Option<PathBuf> {
    let link = provided().join(name).join("lib");
    if !link.is_dir() {
        println!(
            "SKIP ucx-{name}: {} is not there (cargo xtask ucx)",
            link.display()
        );
        return None;
    }
    let names = std::fs::read_dir(&link)
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let mut found: Vec<PathBuf> = names
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name == "libucp.so.0" || name.starts_with("libucp-")
        })
        .collect();
    assert_eq!(found.len(), 1, "{}: {found:?}", link.display());
    found.pop()
}

/// All that there are.
pub(crate) fn libraries() -> Vec<(&'static str, PathBuf)> {
    let names = ["debian", "wheel", "nixl"];
    names
        .into_iter()
        .filter_map(|name| Some((name, library(name)?)))
        .collect()
}

/// Opens `paths`, or finds one for each empty path, in a new process that has `variables`; returns
/// a line on each, `ok PATH VERSION MODULES` or `err WHY`.
pub(crate) fn child(paths: &[&Path], variables: &[(&str, &str)]) -> Vec<String> {
    let mut command = Command::new(env::current_exe().unwrap());
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX", "NIXL_RS_UCX_LIB", "HOME"] {
        command.env_remove(name);
    }
    command
        .args(["--exact", "common::opens", "--nocapture"])
        .env(CHILD, env::join_paths(paths).unwrap())
        .envs(variables.iter().copied())
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}{errors}", output.status);
    text.lines()
        // The first line has the test's name before it.
        .filter_map(|line| line.split_once("#: ").map(|(_, said)| said.to_owned()))
        .collect()
}

/// Runs in the child.
#[test]
fn opens() {
    let Some(paths) = env::var_os(CHILD) else {
        return;
    };
    let mut open = Vec::new();
    for path in env::split_paths(&paths) {
        let opened = if path.as_os_str().is_empty() {
            Library::find(&Search::new(None)).map_err(|error: NotFound| error.to_string())
        } else {
            Library::open(&path).map_err(|error| error.to_string())
        };
        match opened {
            Ok(library) => open.push((start(&library), library)),
            Err(why) => println!("#: err {why}"),
        }
    }
    // All of them live side by side until here.
    for (objects, library) in open {
        stop(&library, objects);
    }
}

struct Objects {
    context: ucx_sys::ucp_context_h,
    worker: ucx_sys::ucp_worker_h,
}

fn start(library: &Library) -> Objects {
    let table = library.symbols();
    let version = library.version();
    let params = ucp_params_t {
        field_mask: ucp_params_field::UCP_PARAM_FIELD_FEATURES.0.into(),
        features: (ucp_feature::UCP_FEATURE_RMA | ucp_feature::UCP_FEATURE_AM)
            .0
            .into(),
        ..Default::default()
    };
    let (mut context, mut worker, mut config) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    // SAFETY: INV-7, null means that there is no prefix and no file.
    let status = unsafe { (table.ucp_config_read)(ptr::null(), ptr::null(), &raw mut config) };
    assert_eq!(status, ucs_status_t::UCS_OK);
    let (major, minor) = (version.major, version.minor);
    // SAFETY: INV-7, the structures are valid, and the mask names what is set.
    let status = unsafe {
        (table.ucp_init_version)(major, minor, &raw const params, config, &raw mut context)
    };
    assert_eq!(status, ucs_status_t::UCS_OK);
    // SAFETY: INV-7, the configuration is not used afterwards.
    unsafe { (table.ucp_config_release)(config) };
    let params = ucp_worker_params_t {
        field_mask: ucp_worker_params_field::UCP_WORKER_PARAM_FIELD_THREAD_MODE
            .0
            .into(),
        thread_mode: ucs_thread_mode_t::UCS_THREAD_MODE_SINGLE,
        ..Default::default()
    };
    // SAFETY: INV-7, the context lives, and the mask names what is set.
    let status = unsafe { (table.ucp_worker_create)(context, &raw const params, &raw mut worker) };
    assert_eq!(status, ucs_status_t::UCS_OK);
    let objects = Objects { context, worker };
    let length = address_length(library, &objects);
    assert!(
        (8..10_000).contains(&length),
        "an address of {length} bytes"
    );
    let path = library.path().unwrap().display();
    println!("#: ok {path} {version} {:?}", library.modules());
    objects
}

fn address_length(library: &Library, objects: &Objects) -> usize {
    let table = library.symbols();
    let mut attr = ucp_worker_attr_t {
        field_mask: ucp_worker_attr_field::UCP_WORKER_ATTR_FIELD_ADDRESS
            .0
            .into(),
        ..Default::default()
    };
    // SAFETY: INV-7, the worker lives.
    let status = unsafe { (table.ucp_worker_query)(objects.worker, &raw mut attr) };
    assert_eq!(status, ucs_status_t::UCS_OK);
    // SAFETY: INV-7, the address is the one that the query returned.
    unsafe { (table.ucp_worker_release_address)(objects.worker, attr.address) };
    attr.address_length
}

fn stop(library: &Library, objects: Objects) {
    let table = library.symbols();
    // SAFETY: INV-7, the worker lives and this thread made it.
    unsafe { (table.ucp_worker_progress)(objects.worker) };
    // SAFETY: INV-7, it is not used afterwards.
    unsafe { (table.ucp_worker_destroy)(objects.worker) };
    // SAFETY: INV-7, its only worker is gone.
    unsafe { (table.ucp_cleanup)(objects.context) };
}
