//! A test that is ignored says why.

use super::{Context, Stop};
use crate::lexer::{Token, lex};
use crate::source;

pub(super) fn run(context: &mut Context) -> Result<String, Stop> {
    let mut faults = Vec::new();
    for file in source::files(&context.root)? {
        for line in unexplained(&lex(&file.text).tokens) {
            let path = file.path.display();
            faults.push(format!("{path}:{line}: `ignore` without a reason"));
        }
    }
    if !faults.is_empty() {
        return Err(Stop::Fail(faults.join("\n")));
    }
    Ok(String::new())
}

/// The lines of attributes `ignore` and `cfg_attr(.., ignore)` that have no `= "reason"`.
fn unexplained(tokens: &[Token<'_>]) -> Vec<usize> {
    let mut lines = Vec::new();
    for (at, window) in tokens.windows(3).enumerate() {
        let opens = window[0].text == "#" && window[1].text == "[";
        if opens && matches!(window[2].text, "ignore" | "cfg_attr") {
            let attribute = &tokens[at..];
            let end = attribute.iter().position(|token| token.text == "]");
            let attribute = &attribute[..=end.unwrap_or(attribute.len() - 1)];
            let bare = |pair: &[Token<'_>]| pair[0].text == "ignore" && pair[1].text != "=";
            if attribute.windows(2).any(bare) {
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
        unexplained(&lex(text).tokens)
    }

    #[test]
    fn a_bare_ignore_is_found() {
        assert_eq!(lines("#[test]\n#[ignore]\nfn f() {}"), [2]);
        assert_eq!(lines("#[cfg_attr(miri, ignore)]"), [1]);
        assert_eq!(lines("#[cfg_attr(all(a, b), ignore, should_panic)]"), [1]);
    }

    #[test]
    fn a_reason_satisfies() {
        assert!(lines("#[ignore = \"needs two hosts\"]").is_empty());
        assert!(lines("#[cfg_attr(miri, ignore = \"system calls\")]").is_empty());
        assert!(lines("// #[ignore]\nlet ignore = [1];").is_empty());
    }
}
