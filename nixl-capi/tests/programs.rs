//! Programs in C and C++: as they are, under the sanitizers, under Valgrind.

mod common;

use common::{command, compile, place, run, tool};

const EXAMPLE: &str = "examples/c/two_agents.c";
const SURFACE: &str = "tests/c/surface.c";
const MISUSE: &str = "tests/c/misuse.c";
const WRAPPER: &str = "tests/cpp/wrapper.cpp";

fn well(command: &mut std::process::Command) {
    let output = run(command);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("all is well\n"), "{text}");
}

fn plain(compiler: &str, flags: &[&str], source: &str) {
    let Some(compiler) = tool(compiler) else {
        return;
    };
    let dir = place();
    let program = compile(compiler, flags, source, dir.path());
    well(&mut command(program, dir.path()));
}

/// Under the sanitizers, leaks included.
fn sanitized(compiler: &str, standard: &str, source: &str) {
    let Some(compiler) = tool(compiler) else {
        return;
    };
    let dir = place();
    let flags = [standard, "-fsanitize=address,undefined"];
    let program = compile(compiler, &flags, source, dir.path());
    well(&mut command(&program, dir.path()));
}

const C: &[&str] = &["-std=c11"];
const CXX: &[&str] = &["-std=c++17"];

#[test]
fn the_example_moves_blocks() {
    plain("gcc", C, EXAMPLE);
}

#[test]
fn every_other_function_does_what_it_says() {
    plain("gcc", C, SURFACE);
}

#[test]
fn misuse_is_a_status() {
    plain("gcc", C, MISUSE);
}

#[test]
fn the_wrapper_moves_blocks() {
    plain("g++", CXX, WRAPPER);
}

/// Whether programs with the sanitizers can be linked and run here.
fn has_sanitizers() -> bool {
    let Some(compiler) = tool("gcc") else {
        return false;
    };
    let dir = place();
    let source = dir.path().join("empty.c");
    std::fs::write(&source, "int main(void) { return 0; }").unwrap();
    let mut link = std::process::Command::new(compiler);
    link.arg("-fsanitize=address,undefined").arg(&source);
    link.arg("-o").arg(dir.path().join("empty"));
    let here = link.output().is_ok_and(|output| output.status.success());
    if !here {
        println!("SKIP sanitizers: gcc cannot link them (Debian package libasan8)");
    }
    here
}

#[test]
fn sanitizers_find_nothing() {
    if !has_sanitizers() {
        return;
    }
    sanitized("gcc", "-std=c11", EXAMPLE);
    sanitized("gcc", "-std=c11", MISUSE);
    plain("gcc", &["-std=c11", "-fsanitize=undefined"], SURFACE);
    sanitized("g++", "-std=c++17", WRAPPER);
}

#[test]
fn valgrind_finds_nothing() {
    let (Some(valgrind), Some(compiler)) = (tool("valgrind"), tool("gcc")) else {
        return;
    };
    let dir = place();
    let program = compile(compiler, C, EXAMPLE, dir.path());
    let under = || {
        let mut under = command(valgrind, dir.path());
        under.args(["-q", "--error-exitcode=99"]);
        under
    };
    well(under().arg(&program));
    let leaks = [
        "--leak-check=full",
        "--show-leak-kinds=definite",
        "--errors-for-leak-kinds=definite",
    ];
    well(under().args(leaks).arg(&program));
}

/// As `cargo xtask dist` lays it out.
#[test]
fn pkg_config_finds_the_library() {
    let (Some(pkg_config), Some(compiler)) = (tool("pkg-config"), tool("gcc")) else {
        return;
    };
    let tree = tempfile::tempdir().unwrap();
    let (lib, pc) = (tree.path().join("lib"), tree.path().join("lib/pkgconfig"));
    std::fs::create_dir_all(&pc).unwrap();
    std::fs::copy(common::library(), lib.join("libnixl_rs.so.0")).unwrap();
    std::os::unix::fs::symlink("libnixl_rs.so.0", lib.join("libnixl_rs.so")).unwrap();
    std::os::unix::fs::symlink(common::INCLUDE, tree.path().join("include")).unwrap();
    let text = include_str!("../dist/nixl_rs.pc.in").replace("@VERSION@", "0.1.0");
    std::fs::write(pc.join("nixl_rs.pc"), text).unwrap();
    let mut ask = std::process::Command::new(pkg_config);
    ask.env("PKG_CONFIG_PATH", &pc);
    let output = run(ask.args(["--cflags", "--libs", "nixl_rs"]));
    let flags = String::from_utf8(output.stdout).unwrap();
    let program = tree.path().join("program");
    let mut build = std::process::Command::new(compiler);
    build.arg(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(EXAMPLE));
    run(build.args(flags.split_whitespace()).arg("-o").arg(&program));
    run(&mut command(program, &lib));
}
