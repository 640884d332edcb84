//! What programs that were compiled earlier rely on: symbols, and where each field is.
//!
//! `BLESS=1 cargo test -p nixl-capi --test abi` writes tests/data/abi.txt anew. Lines may be added
//! to it, and structures may grow at their end; everything else breaks programs and wants another
//! soname.

mod common;

use std::{fmt::Write, path::Path, process::Command};

use common::{INCLUDE, compile, library, place, run, tool};

/// The exported functions, and nothing else.
fn symbols() -> Vec<String> {
    let mut nm = Command::new("nm");
    let output = run(nm.args(["-D", "--defined-only"]).arg(library()));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut names: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_whitespace().last().map(str::to_owned))
        .collect();
    names.sort();
    names
}

/// Each structure of the header with its fields.
fn structures(header: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut lines = header.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(rest) = line.strip_prefix("typedef struct ") else {
            continue;
        };
        let Some(name) = rest.strip_suffix(" {") else {
            continue;
        };
        let body = lines.by_ref().take_while(|line| !line.starts_with('}'));
        let fields = body.filter(|line| !line.starts_with("//")).map(|line| {
            let declared = line.trim_end_matches(';').split('[').next().unwrap();
            let word = declared.rsplit([' ', '*']).next().unwrap();
            word.to_owned()
        });
        found.push((name.to_owned(), fields.collect()));
    }
    found
}

/// What the C compiler says about the layout of every structure.
fn layouts() -> Option<String> {
    let compiler = tool("gcc")?;
    let header = std::fs::read_to_string(Path::new(INCLUDE).join("nixl_rs.h")).unwrap();
    let structures = structures(&header);
    assert!(structures.len() >= 12, "{structures:?}");
    let mut program = String::from("#include <nixl_rs.h>\n#include <stdio.h>\nint main(void) {\n");
    for (name, fields) in structures {
        writeln!(program, "printf(\"{name} %zu\\n\", sizeof({name}));").unwrap();
        for field in fields {
            let sizes = format!("offsetof({name}, {field}), sizeof((({name} *)0)->{field})");
            writeln!(program, "printf(\"  {field} %zu %zu\\n\", {sizes});").unwrap();
        }
    }
    program.push_str("return 0; }\n");
    let dir = place();
    let source = dir.path().join("layout.c");
    std::fs::write(&source, program).unwrap();
    let program = compile(compiler, &[], source.to_str().unwrap(), dir.path());
    let output = run(&mut common::command(program, dir.path()));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn symbols_and_layouts_are_those_of_the_golden_file() {
    let (Some(_), Some(layouts)) = (tool("nm"), layouts()) else {
        return;
    };
    let symbols = symbols();
    for name in &symbols {
        assert!(name.starts_with("nixl_rs_"), "{name} must not be exported");
    }
    let header = std::fs::read_to_string(Path::new(INCLUDE).join("nixl_rs.h")).unwrap();
    for name in &symbols {
        assert!(
            header.contains(&format!("{name}(")),
            "{name} is in no header"
        );
    }
    let now = format!("{}\n\n{layouts}", symbols.join("\n"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/abi.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, &now).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        now == golden,
        "the ABI changed; tests/abi.rs says what to do\n{now}"
    );
}

#[test]
fn the_soname_has_the_version_of_the_abi() {
    if tool("readelf").is_none() {
        return;
    }
    let output = run(Command::new("readelf").arg("-d").arg(library()));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("soname: [libnixl_rs.so.0]"), "{text}");
}
