//! Programs in C and C++: as they are, under the sanitizers, under Valgrind.

mod common;

use common::{command, compile, place, run, tool};

const EXAMPLE: &str = "examples/c/two_agents.c";
const MISUSE: &str = "tests/c/misuse.c";
const WRAPPER: &str = "tests/cpp/wrapper.cpp";

fn plain(compiler: &str, flags: &[&str], source: &str) {
    let Some(compiler) = tool(compiler) else {
        return;
    };
    let dir = place();
    let program = compile(compiler, flags, source, dir.path());
    let output = run(&mut command(program, dir.path()));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("all is well\n"), "{text}");
}

const C: &[&str] = &["-std=c11"];
const CXX: &[&str] = &["-std=c++17"];
const C_SANITIZED: &[&str] = &["-std=c11", "-fsanitize=address,undefined"];
const CXX_SANITIZED: &[&str] = &["-std=c++17", "-fsanitize=address,undefined"];

#[test]
fn the_example_moves_blocks() {
    plain("gcc", C, EXAMPLE);
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
    plain("gcc", C_SANITIZED, EXAMPLE);
    plain("gcc", C_SANITIZED, MISUSE);
    plain("g++", CXX_SANITIZED, WRAPPER);
}

#[test]
fn valgrind_finds_nothing() {
    let (Some(valgrind), Some(compiler)) = (tool("valgrind"), tool("gcc")) else {
        return;
    };
    let dir = place();
    let program = compile(compiler, C, EXAMPLE, dir.path());
    let mut under = command(valgrind, dir.path());
    under.args(["--error-exitcode=99", "--leak-check=full"]);
    under.args(["--errors-for-leak-kinds=definite", "-q"]);
    let output = run(under.arg(program));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("all is well\n"), "{text}");
}
