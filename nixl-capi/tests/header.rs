//! The header that is checked in is what cbindgen makes of the sources.
//!
//! `BLESS=1 cargo test -p nixl-capi --test header` writes it anew.

use std::path::Path;

/// In the order of the header.
const SOURCES: [&str; 11] = [
    "status", "blob", "agent", "memory", "list", "request", "receipt", "notify", "metadata",
    "exchange", "counters",
];

#[test]
fn the_header_is_not_stale() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(dir.join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for name in SOURCES {
        builder = builder.with_src(dir.join("src").join(name).with_extension("rs"));
    }
    let mut made = Vec::new();
    builder.generate().unwrap().write(&mut made);
    let made = String::from_utf8(made).unwrap();
    let file = dir.join("include/nixl_rs.h");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    let same = made.lines().zip(kept.lines()).take_while(|(a, b)| a == b);
    let line = same.count() + 1;
    assert!(
        made == kept,
        "include/nixl_rs.h is stale from line {line} on: BLESS=1 cargo test -p nixl-capi --test header"
    );
}

/// Every source with an exported function is in the header.
#[test]
fn no_source_is_forgotten() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let exports = text.contains("#[unsafe(no_mangle)]");
        assert_eq!(exports, SOURCES.contains(&name), "{name}");
    }
}
