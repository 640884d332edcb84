//! Unsafe code cites the invariant that makes it sound.
//!
//! Every `unsafe` block and `unsafe impl` has above its statement a comment with `SAFETY:` and at
//! least one `INV-n`, and docs/safety.md has each `INV-n` in its table. A library without unsafe
//! code says `#![forbid(unsafe_code)]`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{Context, Stop};
use crate::lexer::{Lexed, Token, lex};
use crate::source::{self, SourceFile};
use crate::statement::comments_above;

const DOCUMENT: &str = "docs/safety.md";

pub(super) fn run(context: &mut Context) -> Result<String, Stop> {
    let document = fs::read_to_string(context.root.join(DOCUMENT))
        .map_err(|error| Stop::Fail(format!("{DOCUMENT}: {error}")))?;
    judge(&document, &source::files(&context.root)?)
}

fn judge(document: &str, files: &[SourceFile]) -> Result<String, Stop> {
    let known = defined(document);
    let (mut count, mut faults) = (0, Vec::new());
    for file in files.iter().filter(|file| !file.is_generated()) {
        let lexed = lex(&file.text);
        let uses = unsafe_uses(&lexed.tokens);
        count += uses.len();
        for at in &uses {
            if let Err(why) = cites(&lexed, *at, &known) {
                let line = lexed.tokens[*at].line;
                faults.push(format!("{}:{line}: {why}", file.path.display()));
            }
        }
    }
    faults.extend(unforbidden(files));
    if !faults.is_empty() {
        return Err(Stop::Fail(faults.join("\n")));
    }
    Ok(format!("{count} uses, {} invariants", known.len()))
}

/// The invariants that the document's table has: its rows begin `| INV-n |`.
fn defined(document: &str) -> BTreeSet<u32> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| "));
    rows.filter(|row| row.starts_with("INV-"))
        .filter_map(|row| cited(row.split('|').next().unwrap_or_default()).pop())
        .collect()
}

/// The numbers of every `INV-n` in `text`.
fn cited(text: &str) -> Vec<u32> {
    text.split("INV-")
        .skip(1)
        .filter_map(|rest| {
            let digits = rest.find(|c: char| !c.is_ascii_digit());
            rest[..digits.unwrap_or(rest.len())].parse().ok()
        })
        .collect()
}

/// Where `unsafe {` and `unsafe impl` stand.
fn unsafe_uses(tokens: &[Token<'_>]) -> Vec<usize> {
    tokens
        .windows(2)
        .enumerate()
        .filter(|(_, pair)| pair[0].text == "unsafe" && matches!(pair[1].text, "{" | "impl"))
        .map(|(at, _)| at)
        .collect()
}

/// Checks the comment that belongs to the `unsafe` at token `at`.
fn cites(lexed: &Lexed<'_>, at: usize, known: &BTreeSet<u32>) -> Result<(), String> {
    let comment = comments_above(lexed, at)
        .find(|comment| comment.contains("SAFETY:"))
        .ok_or("unsafe without a `// SAFETY:` comment above it")?;
    let numbers = cited(&comment);
    if numbers.is_empty() {
        return Err(format!("the SAFETY comment cites no INV-n of {DOCUMENT}"));
    }
    match numbers.iter().find(|number| !known.contains(number)) {
        Some(number) => Err(format!("INV-{number} is not in {DOCUMENT}")),
        None => Ok(()),
    }
}

/// Libraries that have no unsafe code and do not forbid it.
fn unforbidden(files: &[SourceFile]) -> Vec<String> {
    let roots = files
        .iter()
        .filter(|file| file.path.ends_with("src/lib.rs"));
    roots
        .filter(|root| {
            let dir = root.path.parent().unwrap_or(Path::new(""));
            let mut own = files.iter().filter(|file| file.path.starts_with(dir));
            let uses_unsafe =
                |file: &SourceFile| lex(&file.text).tokens.iter().any(|t| t.text == "unsafe");
            !own.any(uses_unsafe) && !root.text.contains("#![forbid(unsafe_code)]")
        })
        .map(|root| {
            format!(
                "{}: #![forbid(unsafe_code)] is missing",
                root.path.display()
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "See INV-9.\n| # | Invariant |\n|---|---|\n| INV-1 | a |\n| INV-2 | b |\n";

    fn judged(text: &str) -> Result<String, Stop> {
        let (path, text) = ("src/x.rs".into(), text.to_owned());
        judge(TABLE, &[SourceFile { path, text }])
    }

    fn fault(text: &str) -> String {
        match judged(text) {
            Err(Stop::Fail(why)) => why,
            other => panic!("{other:?} for {text}"),
        }
    }

    #[test]
    fn cited_code_passes() {
        let good = [
            "fn f() {\n// SAFETY: INV-1, the token holds it.\nunsafe { g() }\n}",
            "fn f() {\n// SAFETY: INV-1\n// and more\nlet x =\n    unsafe { g() };\n}",
            "fn f() {\nlet x = h(\n1,\n// SAFETY: INV-2\nunsafe { g() });\n}",
            "fn f() {\n// SAFETY: INV-1 and INV-2\nlet x = h(\na(1, 2),\nunsafe { g() },\n);\n}",
            "// SAFETY: INV-2\n#[cfg(unix)]\nunsafe impl Send for X {}",
            "match x {\n// SAFETY: INV-1\nA(y) =>\nunsafe { g(y) },\n}",
            "\"unsafe { }\" // unsafe { }",
            "unsafe fn f() {}",
        ];
        for text in good {
            assert!(judged(text).is_ok(), "{text}: {:?}", judged(text));
        }
    }

    #[test]
    fn code_without_a_comment_fails() {
        let bad = [
            "fn f() {\nunsafe { g() }\n}",
            "unsafe impl Send for X {}",
            "fn f() {\n// INV-1\nunsafe { g() }\n}",
            "fn f() {\n// SAFETY: INV-1\n\nunsafe { g() }\n}",
            "fn f() {\n// SAFETY: INV-1\nunsafe { g() };\nunsafe { h() }\n}",
            "match x {\n// SAFETY: INV-1\nA => unsafe { g() },\nB => unsafe { h() },\n}",
            "fn f() {\nh(); // SAFETY: INV-1\nunsafe { g() }\n}",
        ];
        for text in bad {
            assert!(fault(text).contains("without a `// SAFETY:`"), "{text}");
        }
        assert!(fault(bad[4]).starts_with("src/x.rs:4:"));
    }

    #[test]
    fn the_invariant_must_exist() {
        let none = "fn f() {\n// SAFETY: it is fine\nunsafe { g() }\n}";
        assert!(fault(none).contains("cites no INV-n"));
        let unknown = "fn f() {\n// SAFETY: INV-1, INV-9\nunsafe { g() }\n}";
        assert!(fault(unknown).contains("INV-9 is not in docs/safety.md"));
    }

    #[test]
    fn a_library_without_unsafe_code_forbids_it() {
        let lib = |text: &str| {
            let (path, text) = ("a/src/lib.rs".into(), text.to_owned());
            judge(TABLE, &[SourceFile { path, text }])
        };
        assert!(lib("pub fn f() {}").is_err());
        assert!(lib("#![forbid(unsafe_code)]\npub fn f() {}").is_ok());
        assert!(lib("// SAFETY: INV-1\nunsafe impl Send for X {}").is_ok());
    }
}
