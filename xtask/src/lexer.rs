//! Splits Rust source into tokens and comments: enough to tell code from comments and strings.

/// A word, a punctuation character, or `""` for a literal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    /// Counted from 1.
    pub(crate) line: usize,
}

/// A comment, with its markers.
#[derive(Debug, PartialEq)]
pub(crate) struct Comment<'a> {
    pub(crate) text: &'a str,
    pub(crate) first_line: usize,
    pub(crate) last_line: usize,
}

/// What a file consists of.
#[derive(Debug, Default)]
pub(crate) struct Lexed<'a> {
    pub(crate) tokens: Vec<Token<'a>>,
    pub(crate) comments: Vec<Comment<'a>>,
}

/// Reads all of `source`. Text that is not Rust gives some tokens, never a panic.
pub(crate) fn lex(source: &str) -> Lexed<'_> {
    let mut lexer = Lexer {
        source,
        at: 0,
        line: 1,
        out: Lexed::default(),
    };
    while lexer.step() {}
    lexer.out
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
    out: Lexed<'a>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn step(&mut self) -> bool {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return false;
        };
        if first.is_whitespace() {
            self.advance(first.len_utf8());
        } else if rest.starts_with("//") {
            self.comment(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.comment(block_comment_len(rest));
        } else if let Some(len) = literal_len(rest) {
            self.token(len, "\"\"");
        } else if is_word(first) {
            let len = word_len(rest);
            self.token(len, &rest[..len]);
        } else if first == '\'' {
            // A lifetime: its quote, then a word.
            self.advance(1);
        } else {
            let len = first.len_utf8();
            self.token(len, &rest[..len]);
        }
        true
    }

    fn token(&mut self, len: usize, text: &'a str) {
        let line = self.line;
        self.out.tokens.push(Token { text, line });
        self.advance(len);
    }

    fn comment(&mut self, len: usize) {
        let text = &self.rest()[..len];
        let first_line = self.line;
        self.advance(len);
        self.out.comments.push(Comment {
            text,
            first_line,
            last_line: self.line,
        });
    }

    fn advance(&mut self, len: usize) {
        self.line += self.rest()[..len].matches('\n').count();
        self.at += len;
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word_len(text: &str) -> usize {
    text.find(|c| !is_word(c)).unwrap_or(text.len())
}

/// The length of the block comment that `text` begins with; such comments nest.
fn block_comment_len(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// The length of the string or character literal that `text` begins with, if it does.
fn literal_len(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r"]
        .into_iter()
        .find(|prefix| text.starts_with(prefix))
        .filter(|prefix| text[prefix.len()..].starts_with(['"', '\'', '#']))
        .unwrap_or("");
    let body = &text[prefix.len()..];
    let len = if prefix.ends_with('r') {
        raw_string_len(body)?
    } else if body.starts_with('"') {
        quoted_len(body, b'"')
    } else if body.starts_with("'\\") {
        quoted_len(body, b'\'')
    } else {
        let inner = body.strip_prefix('\'')?.chars().next()?;
        let len = 1 + inner.len_utf8();
        body[len..].starts_with('\'').then_some(len + 1)?
    };
    Some(prefix.len() + len)
}

/// The length of `"..."` with escapes.
fn quoted_len(text: &str, quote: u8) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// The length of `#"..."#` with any number of marks.
fn raw_string_len(text: &str) -> Option<usize> {
    let marks = text.find(|c| c != '#')?;
    let body = text[marks..].strip_prefix('"')?;
    let end = format!("\"{}", &text[..marks]);
    let close = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(marks + 1 + close)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<&str> {
        lex(source).tokens.iter().map(|token| token.text).collect()
    }

    #[test]
    fn strings_and_comments_are_not_code() {
        let source = r###"
            // unsafe
            /* unsafe /* nested unsafe */ unsafe */
            f("unsafe \" unsafe", r#"unsafe " unsafe"#, b"unsafe", br"unsafe\");
            g('"', '\'', b'"', '\u{1F600}', 'é', 'a);
        "###;
        let expected = [
            "f", "(", "\"\"", ",", "\"\"", ",", "\"\"", ",", "\"\"", ")", ";", "g", "(", "\"\"",
            ",", "\"\"", ",", "\"\"", ",", "\"\"", ",", "\"\"", ",", "a", ")", ";",
        ];
        assert_eq!(words(source), expected);
    }

    #[test]
    fn lifetimes_and_raw_names_are_code() {
        assert_eq!(words("&'a T"), ["&", "a", "T"]);
        assert_eq!(words("r#type"), ["r", "#", "type"]);
        assert_eq!(words("break 'outer"), ["break", "outer"]);
    }

    #[test]
    fn lines_are_counted_through_everything() {
        let source = "\"a\nb\" /* c\nd */ x\n// y\nz";
        let lexed = lex(source);
        let lines: Vec<_> = lexed.tokens.iter().map(|t| (t.text, t.line)).collect();
        assert_eq!(lines, [("\"\"", 1), ("x", 3), ("z", 5)]);
        let spans: Vec<_> = lexed
            .comments
            .iter()
            .map(|c| (c.first_line, c.last_line))
            .collect();
        assert_eq!(spans, [(2, 3), (4, 4)]);
    }

    #[test]
    fn broken_text_does_not_panic() {
        for source in ["\"abc\\", "r#\"abc", "/* abc", "'", "b'", "'\\", "é'é"] {
            lex(source);
        }
    }
}
