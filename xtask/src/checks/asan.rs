//! The crates with unsafe code under AddressSanitizer: unlike Miri it runs system calls and
//! threads as they are, and finds what is written to freed memory or past its end.

use super::{Context, Stop};
use crate::metadata;
use crate::shell;

pub(super) fn run(context: &mut Context) -> Result<String, Stop> {
    let skip = |why: &str| Err(Stop::Skip(why.to_owned()));
    if !shell::succeeds(&mut context.nightly(&["--version"])) {
        return skip("no nightly toolchain, which sanitizers need");
    }
    if shell::which("cargo-nextest").is_none() {
        return skip("no cargo-nextest");
    }
    // Naming the target keeps the flag from build scripts and procedural macros.
    let Some(host) = metadata::host() else {
        return Err(Stop::Fail("rustc -vV names no host".to_owned()));
    };
    let mut command = context.nightly(&["nextest", "run", "--profile", "quiet"]);
    command.args(["-p", "nixl-core", "-p", "nixl-tcp", "-p", "nixl-ipc"]);
    // A real libucp puts its own hooks around malloc; the fake one shows what is ours.
    command.args(["-p", "nixl-ucx", "-E"]);
    command.arg("not (package(nixl-ucx) and kind(test)) or binary(fake)");
    command.args(["--lib", "--tests", "--target", &host]);
    command.env("CARGO_TARGET_DIR", context.root.join("target/asan"));
    // What a backend abandons is leaked on purpose.
    shell::append_env(&mut command, "ASAN_OPTIONS", "detect_leaks=0");
    shell::append_env(&mut command, "RUSTFLAGS", "-Zsanitizer=address");
    shell::run(&mut command)?;
    Ok(String::new())
}
