//! Text within 80 columns.

use std::fmt;

const COLUMNS: usize = 80;

/// Writes `label` and behind it `text`, wrapped at `COLUMNS` and indented by `indent`, which is
/// more than the label's length. Words that do not fit are cut at commas, else anywhere.
pub(super) fn write(
    f: &mut fmt::Formatter<'_>,
    label: &str,
    indent: usize,
    text: &str,
) -> fmt::Result {
    let width = COLUMNS - indent;
    let mut head = format!("{label:<indent$}");
    let mut line = String::new();
    for word in text.split_whitespace() {
        for part in parts(word, width) {
            let joint = usize::from(!line.is_empty() && part.starts_word);
            if !line.is_empty() && line.len() + joint + part.text.len() > width {
                writeln!(f, "{head}{line}")?;
                head = " ".repeat(indent);
                line.clear();
            } else if joint == 1 {
                line.push(' ');
            }
            line.push_str(&part.text);
        }
    }
    writeln!(f, "{}", format!("{head}{line}").trim_end())
}

struct Part {
    text: String,
    /// Whether a space belongs before it.
    starts_word: bool,
}

/// A word in parts of at most `width` columns; more than one only where it is longer.
fn parts(word: &str, width: usize) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = printable(word);
    while rest.len() > width {
        let cut = rest[..width].rfind(',').map_or(width, |comma| comma + 1);
        let tail = rest.split_off(cut);
        parts.push(std::mem::replace(&mut rest, tail));
    }
    parts.push(rest);
    let part = |(at, text)| Part {
        text,
        starts_word: at == 0,
    };
    parts.into_iter().enumerate().map(part).collect()
}

/// What may come from files and variables, without what would move a cursor. A character that is
/// not ASCII may be wider than a column, so it is shown by its number.
fn printable(word: &str) -> String {
    let mut text = String::new();
    for c in word.chars() {
        match c {
            ' '..='~' => text.push(c),
            c => text.extend(c.escape_unicode()),
        }
    }
    text
}
