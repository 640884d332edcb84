//! Which comments belong to a piece of code.

use crate::lexer::{Lexed, Token};

/// The comments above the lines of the statement around token `at`, the nearest first; an empty
/// one for a line that has none.
pub(crate) fn comments_above<'a>(
    lexed: &'a Lexed<'_>,
    at: usize,
) -> impl Iterator<Item = String> + 'a {
    let start = statement_start(&lexed.tokens, at);
    let lines = lexed.tokens[start].line..=lexed.tokens[at].line;
    lines.rev().map(|line| comment_above(lexed, line))
}

/// The token that closes the group which the one at `open` begins, or the last one.
pub(crate) fn closer(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len().saturating_sub(1)
}

/// The token at which the statement, match arm or field around token `at` begins.
fn statement_start(tokens: &[Token<'_>], at: usize) -> usize {
    let mut start = at;
    let mut comma = None;
    while start > 0 {
        match tokens[start - 1].text {
            ";" | "{" | "}" => return comma.unwrap_or(start),
            "," if comma.is_none() => comma = Some(start),
            // The comma was one between arguments.
            "(" | "[" => comma = None,
            ")" | "]" => {
                start = opener(tokens, start - 1);
                continue;
            }
            _ => {}
        }
        start -= 1;
    }
    comma.unwrap_or(start)
}

/// The token that opens the group which the one at `close` ends.
fn opener(tokens: &[Token<'_>], close: usize) -> usize {
    let mut depth = 0_usize;
    for at in (0..=close).rev() {
        match tokens[at].text {
            ")" | "]" | "}" => depth += 1,
            "(" | "[" | "{" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    0
}

/// The comments, one right above the other, that end on the line before `line`.
fn comment_above(lexed: &Lexed<'_>, line: usize) -> String {
    let mut texts = Vec::new();
    let mut below = line;
    for comment in lexed.comments.iter().rev() {
        let alone = !lexed.tokens.iter().any(|t| t.line == comment.first_line);
        if comment.last_line + 1 == below && alone {
            below = comment.first_line;
            texts.push(comment.text);
        }
    }
    texts.reverse();
    texts.join("\n")
}
