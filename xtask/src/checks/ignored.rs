//! No test is ignored: one that cannot run here counts itself as skipped, and says why.

use super::{Context, Stop};
use crate::lexer::{Token, lex};
use crate::source;

pub(super) fn run(context: &mut Context) -> Result<String, Stop> {
    let mut faults = Vec::new();
    for file in source::files(&context.root)? {
        for line in ignored(&lex(&file.text).tokens) {
            let path = file.path.display();
            faults.push(format!(
                "{path}:{line}: an ignored test; have it count itself as skipped (CONTRIBUTING.md)"
            ));
        }
    }
    if !faults.is_empty() {
        return Err(Stop::Fail(faults.join("\n")));
    }
    Ok(String::new())
}

/// The lines of attributes `ignore` and `cfg_attr(.., ignore)`.
fn ignored(tokens: &[Token<'_>]) -> Vec<usize> {
    let mut lines = Vec::new();
    for (at, window) in tokens.windows(3).enumerate() {
        let opens = window[0].text == "#" && window[1].text == "[";
        if opens && matches!(window[2].text, "ignore" | "cfg_attr") {
            let mut attribute = tokens[at..].iter().take_while(|token| token.text != "]");
            if attribute.any(|token| token.text == "ignore") {
                lines.push(window[2].line);
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        ignored(&lex(text).tokens)
    }

    #[test]
    fn an_ignored_test_is_found() {
        assert_eq!(lines("#[test]\n#[ignore]\nfn f() {}"), [2]);
        assert_eq!(lines("#[ignore = \"needs two hosts\"]"), [1]);
        assert_eq!(lines("#[cfg_attr(miri, ignore)]"), [1]);
        assert_eq!(lines("#[cfg_attr(all(a, b), ignore, should_panic)]"), [1]);
    }

    #[test]
    fn the_word_elsewhere_is_not() {
        assert!(lines("// #[ignore]\nlet ignore = [1];").is_empty());
        assert!(lines("#[cfg_attr(miri, should_panic)]").is_empty());
    }
}
