//! The commands over UCX, which writes its complaints to standard output.

use std::path::{Path, PathBuf};

use crate::run::Nixl;

/// What `cargo xtask ucx` provides.
const LIBRARIES: [&str; 3] = ["debian", "wheel", "nixl"];

#[test]
fn standard_output_is_json_only() {
    let told = std::env::var_os("XTASK_UCX").map(PathBuf::from);
    let root = told.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ucx"));
    let bench: &[&str] = &["bench", "--block=4096", "--count=16", "--iters=2"];
    let demo: &[&str] = &["demo", "--layers=1", "--token-bytes=64"];
    for name in LIBRARIES {
        let lib = root.join(name).join("lib");
        if !lib.is_dir() {
            println!("SKIP nixl over UCX of {name}: no target/ucx/{name} (cargo xtask ucx)");
            continue;
        }
        let lib = lib.to_str().expect("UTF-8");
        for command in [bench, demo] {
            let args = [command, &["--backend=ucx", "--json"]].concat();
            let report = Nixl::start(&args, &[("NIXL_RS_UCX_LIB", lib)]).end().json();
            let path = report["path"].as_str().expect("a path");
            assert!(path.starts_with("ucx"), "{name}: {report}");
            assert_eq!(report["verified"], true, "{name}: {report}");
        }
    }
}
