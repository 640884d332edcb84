//! Programs in C and C++: as they are, under the sanitizers, under Valgrind.

mod common;

use common::{command, compile, place, run, tool};

const EXAMPLE: &str = "examples/c/two_agents.c";
const SURFACE: &str = "tests/c/surface.c";
const MISUSE: &str = "tests/c/misuse.c";
const LEAVE: &str = "tests/c/leave.c";
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

const C: &[&str] = &["-std=c11", "-D_DEFAULT_SOURCE"];
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
fn a_process_may_end_with_requests_in_flight() {
    for _ in 0..5 {
        plain("gcc", C, LEAVE);
    }
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
    sanitized("gcc", "-std=gnu11", MISUSE);
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
fn laid_out() -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    let lib = tree.path().join("lib");
    for dir in ["pkgconfig", "cmake/nixl_rs"] {
        std::fs::create_dir_all(lib.join(dir)).unwrap();
    }
    std::fs::copy(common::library(), lib.join("libnixl_rs.so.0")).unwrap();
    std::os::unix::fs::symlink("libnixl_rs.so.0", lib.join("libnixl_rs.so")).unwrap();
    std::os::unix::fs::symlink(common::INCLUDE, tree.path().join("include")).unwrap();
    for (file, text) in [
        (
            "pkgconfig/nixl_rs.pc",
            include_str!("../dist/nixl_rs.pc.in"),
        ),
        (
            "cmake/nixl_rs/nixl_rs-config.cmake",
            include_str!("../dist/nixl_rs-config.cmake"),
        ),
        (
            "cmake/nixl_rs/nixl_rs-config-version.cmake",
            include_str!("../dist/nixl_rs-config-version.cmake.in"),
        ),
    ] {
        let text = text.replace("@VERSION@", env!("CARGO_PKG_VERSION"));
        std::fs::write(lib.join(file), text).unwrap();
    }
    tree
}

#[test]
fn pkg_config_finds_the_library() {
    let (Some(pkg_config), Some(compiler)) = (tool("pkg-config"), tool("gcc")) else {
        return;
    };
    let tree = laid_out();
    let lib = tree.path().join("lib");
    let mut ask = std::process::Command::new(pkg_config);
    ask.env("PKG_CONFIG_PATH", lib.join("pkgconfig"));
    let output = run(ask.args(["--cflags", "--libs", "nixl_rs"]));
    let flags = String::from_utf8(output.stdout).unwrap();
    let program = tree.path().join("program");
    let mut build = std::process::Command::new(compiler);
    build.arg(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(EXAMPLE));
    run(build.args(flags.split_whitespace()).arg("-o").arg(&program));
    run(&mut command(program, &lib));
}

/// A program in C and one in C++; CMake sees to it that they find the library where it is.
#[test]
fn cmake_finds_the_library() {
    let (Some(cmake), Some(_), Some(_)) = (tool("cmake"), tool("gcc"), tool("g++")) else {
        return;
    };
    let (tree, work) = (laid_out(), tempfile::tempdir().unwrap());
    let here = env!("CARGO_MANIFEST_DIR");
    let lists = format!(
        "cmake_minimum_required(VERSION 3.16)\n\
         project(user C CXX)\n\
         find_package(nixl_rs 0.1 REQUIRED)\n\
         add_executable(in_c {here}/{EXAMPLE})\n\
         target_link_libraries(in_c nixl_rs::nixl_rs)\n\
         add_executable(in_cxx {here}/{WRAPPER})\n\
         target_compile_features(in_cxx PRIVATE cxx_std_17)\n\
         target_link_libraries(in_cxx nixl_rs::nixl_rs)\n"
    );
    std::fs::write(work.path().join("CMakeLists.txt"), lists).unwrap();
    let build = work.path().join("build");
    let mut configure = std::process::Command::new(cmake);
    configure.arg("-S").arg(work.path()).arg("-B").arg(&build);
    configure.arg(format!("-DCMAKE_PREFIX_PATH={}", tree.path().display()));
    run(&mut configure);
    run(std::process::Command::new(cmake).arg("--build").arg(&build));
    for program in ["in_c", "in_cxx"] {
        let mut program = std::process::Command::new(build.join(program));
        well(program.env("XDG_RUNTIME_DIR", work.path()));
    }
}
