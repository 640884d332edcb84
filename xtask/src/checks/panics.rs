//! `unwrap`, `panic!` and `unreachable!` outside tests have a comment that says why they never
//! panic. `expect` says it itself.

use std::path::{Component, Path};

use super::{Context, Stop};
use crate::lexer::{Lexed, Token, lex};
use crate::source;
use crate::statement::{closer, comments_above};

/// Directories of tests, and of a library that panics for tests.
const TESTS: [&str; 5] = ["tests", "benches", "examples", "fuzz", "nixl-conformance"];

/// Cargo shows a build script's panic as its error.
const TEST_FILES: [&str; 2] = ["tests.rs", "build.rs"];

pub(super) fn run(context: &mut Context) -> Result<String, Stop> {
    let mut faults = Vec::new();
    for file in source::files(&context.root)? {
        if is_test(&file.path) || file.is_generated() {
            continue;
        }
        for (line, word) in unexplained(&lex(&file.text)) {
            let path = file.path.display();
            faults.push(format!("{path}:{line}: `{word}` without a comment"));
        }
    }
    if !faults.is_empty() {
        return Err(Stop::Fail(faults.join("\n")));
    }
    Ok(String::new())
}

fn is_test(path: &Path) -> bool {
    let named =
        |names: &[&str], part: Component<'_>| names.iter().any(|name| part.as_os_str() == *name);
    path.components().any(|part| named(&TESTS, part))
        || path
            .components()
            .next_back()
            .is_some_and(|part| named(&TEST_FILES, part))
}

/// Line and word of what can panic and has no comment, on its line or above its statement.
fn unexplained<'a>(lexed: &Lexed<'a>) -> Vec<(usize, &'a str)> {
    let tokens = &lexed.tokens;
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if let Some(end) = test_item(tokens, at) {
            at = end;
        } else if can_panic(tokens, at) && !explained(lexed, at) {
            found.push((tokens[at].line, tokens[at].text));
        }
        at += 1;
    }
    found
}

fn can_panic(tokens: &[Token<'_>], at: usize) -> bool {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    match text(at) {
        "unwrap" => at > 0 && text(at - 1) == "." && text(at + 1) == "(",
        "panic" | "unreachable" => text(at + 1) == "!",
        _ => false,
    }
}

fn explained(lexed: &Lexed<'_>, at: usize) -> bool {
    let line = lexed.tokens[at].line;
    lexed
        .comments
        .iter()
        .any(|comment| comment.first_line == line)
        || comments_above(lexed, at).any(|comment| !comment.is_empty())
}

/// The last token of the item for tests that begins at `at`: an attribute `test` or `cfg(test)`,
/// more attributes, and all up to the end of a block or a semicolon.
fn test_item(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    let is_attribute = |at: usize| {
        let pair = tokens.get(at..at + 2);
        pair.is_some_and(|pair| pair[0].text == "#" && pair[1].text == "[")
    };
    if !is_attribute(at) {
        return None;
    }
    let mut end = closer(tokens, at + 1);
    let attribute = &tokens[at + 2..end];
    let has = |word: &str| attribute.iter().any(|token| token.text == word);
    let is_cfg = attribute.first()?.text == "cfg" && has("test") && !has("not");
    if !is_cfg && attribute.first()?.text != "test" {
        return None;
    }
    while is_attribute(end + 1) {
        end = closer(tokens, end + 2);
    }
    let mut at = end + 1;
    while !matches!(tokens.get(at)?.text, "{" | ";") {
        // A semicolon inside, as in an array's type, does not end the item.
        at = closer(tokens, at) + 1;
    }
    Some(closer(tokens, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(usize, String)> {
        let found = unexplained(&lex(text)).into_iter();
        found.map(|(line, word)| (line, word.to_owned())).collect()
    }

    #[test]
    fn what_can_panic_is_found() {
        let text = "fn f() {\na.unwrap();\nb\n.unwrap();\npanic!();\nunreachable!()\n}";
        let lines: Vec<usize> = found(text).into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [2, 4, 5, 6]);
        let after_tests = "#[cfg(test)]\nmod t { f(); }\nfn f() { a.unwrap() }";
        assert_eq!(found(after_tests), [(3, "unwrap".into())]);
        let not_test = "#[cfg(not(test))]\nfn f() { a.unwrap() }";
        assert_eq!(found(not_test), [(2, "unwrap".into())]);
    }

    #[test]
    fn a_comment_explains() {
        assert!(found("fn f() {\n// Checked above.\nlet x = a\n.unwrap();\n}").is_empty());
        assert!(found("fn f() {\na.unwrap(); // Never empty.\n}").is_empty());
    }

    #[test]
    fn tests_and_lookalikes_may() {
        assert!(
            found("#[cfg(test)]\n#[rustfmt::skip]\nmod t { fn f() { a.unwrap() } }").is_empty()
        );
        assert!(found("#[cfg(all(test, unix))]\nfn f() { a.unwrap() }").is_empty());
        assert!(found("#[test]\nfn f() -> [u8; 2] { a.unwrap() }").is_empty());
        assert!(
            found(
                "a.unwrap_or(1); a.expect(\"just checked\"); fn unwrap() {} #[expect(x)] struct S;"
            )
            .is_empty()
        );
        for path in ["nixl-ipc/tests/a.rs", "a/src/plan/tests.rs", "build.rs"] {
            assert!(is_test(Path::new(path)), "{path}");
        }
        assert!(!is_test(Path::new("xtask/src/test.rs")));
    }
}
