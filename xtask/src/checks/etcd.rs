//! The etcd exchange: a feature that is off by default because it brings protoc and tokio.

use super::{Context, Stop, tests};
use crate::metadata::Metadata;
use crate::shell;

pub(super) fn run(context: &mut Context) -> Result<String, Stop> {
    let skip = |why: &str| Err(Stop::Skip(why.to_owned()));
    let metadata = Metadata::read(&context.root)?;
    let package = metadata.package("nixl-meta");
    if !package.is_some_and(|package| package.features.iter().any(|f| f == "etcd")) {
        return Err(Stop::Fail("nixl-meta has no feature etcd".to_owned()));
    }
    if shell::which("protoc").is_none() {
        return skip("no protoc (Debian package protobuf-compiler)");
    }
    let feature = ["-p", "nixl-meta", "--features", "etcd"];
    let mut clippy = context.cargo(&["clippy", "--all-targets"]);
    let linted = shell::run(clippy.args(feature).args(["--", "-D", "warnings"]));
    if shell::which("etcd").is_none() {
        linted?;
        return skip("no etcd server (Debian package etcd-server)");
    }
    if shell::which("cargo-nextest").is_none() {
        linted?;
        return skip("no cargo-nextest");
    }
    // What lints say does not keep the tests from running.
    let tested = tests::nextest(context, &feature)?;
    linted.map(|()| tested)
}
