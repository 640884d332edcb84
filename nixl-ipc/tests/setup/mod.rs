//! Where the tests' agents put their sockets.

use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt, path::PathBuf};

use nixl_ipc::IpcConfig;

/// Sockets in the tests' own directory `name`; `local`: agents of one process meet directly.
pub(crate) fn config(name: &str, local: bool) -> IpcConfig {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut builder = DirBuilder::new();
    builder.mode(0o700).recursive(true).create(&dir).unwrap();
    IpcConfig {
        dir: Some(dir),
        local,
        ..IpcConfig::default()
    }
}
