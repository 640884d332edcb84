//! The suite that every backend passes, over each path.

use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt, path::PathBuf};

use nixl_ipc::{CMA, IpcBackend, IpcConfig, LOCAL, SHM};

/// A socket directory of the tests' own.
fn config(local: bool) -> IpcConfig {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("ipc");
    let mut builder = DirBuilder::new();
    builder.mode(0o700).recursive(true).create(&dir).unwrap();
    IpcConfig {
        dir: Some(dir),
        local,
        ..IpcConfig::default()
    }
}

nixl_conformance::suite!(local, IpcBackend::new(config(true)), LOCAL);
nixl_conformance::suite!(shm, IpcBackend::new(config(false)), SHM);
nixl_conformance::suite!(cma, IpcBackend::new(config(false)), CMA);
