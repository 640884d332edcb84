//! `nixl plan --self`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::run::nixl;

#[test]
fn every_path_has_a_rank_or_a_reason() {
    let ended = nixl(&["plan", "--self", "--json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let mut tables: BTreeMap<(String, String), Vec<Value>> = BTreeMap::new();
    for line in ended.out.lines() {
        let row: Value = serde_json::from_str(line).expect("one object a line");
        let text = |key: &str| row[key].as_str().expect("a text").to_owned();
        tables
            .entry((text("op"), text("memory")))
            .or_default()
            .push(row);
    }
    assert_eq!(tables.len(), 4, "READ and WRITE, owned and caller memory");
    for (of, rows) in tables {
        for path in ["local", "shm", "cma", "tcp"] {
            let found: Vec<_> = rows.iter().filter(|r| r["path"] == path).collect();
            assert!(!found.is_empty(), "{of:?} says nothing about {path}");
            for row in found {
                let ranked = row["rank"].is_u64() && row["estimate_us"].is_f64();
                let rejected = row["code"].is_string() && row["reason"].is_string();
                assert!(ranked != rejected, "{row}");
                assert!(rejected || row["proven"] == true, "{row}");
            }
        }
        let first = rows
            .iter()
            .find(|r| r["rank"] == 1)
            .expect("some path works");
        let best = if of.1 == "owned" { "shm" } else { "cma" };
        assert_eq!(first["path"], best, "{of:?}");
        assert_eq!(first["proven"], true, "{first}");
    }
}

#[test]
fn the_table_fits() {
    let ended = nixl(&["plan", "--self", "--count=1", "--block=8"]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.out.contains("1 blocks, 8 B"), "{}", ended.out);
    for line in ended.out.lines() {
        assert!(line.chars().count() <= 80, "too long: {line}");
    }
}
