//! A negotiation as a table.

use std::fmt;

use super::{CostSource, Negotiation};
use crate::{PathClass, PathName};

/// One line of the table: plain data, for JSON and for people.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Path.
    pub path: PathName,
    /// Its class.
    pub class: PathClass,
    /// Place in the ranking from 1 on; `None` for a rejected path.
    pub rank: Option<usize>,
    /// Estimated time of the demand in nanoseconds.
    pub estimate_ns: Option<u64>,
    /// Whether the estimate was measured.
    pub measured: bool,
    /// Whether a probe has proven it.
    pub proven: bool,
    /// The peer does the opposite operation for us.
    pub flipped: bool,
    /// Stable word for a rejection.
    pub code: Option<&'static str>,
    /// The rejection in plain words.
    pub reason: Option<String>,
}

impl Negotiation {
    /// The table: ranked paths, then rejected ones.
    pub fn rows(&self) -> Vec<Row> {
        let ranked = self.ranked.iter().enumerate().map(|(i, c)| Row {
            path: c.path,
            class: c.class,
            rank: Some(i + 1),
            estimate_ns: Some(c.estimate_ns),
            measured: c.source == CostSource::Measured,
            proven: c.proven,
            flipped: c.flipped,
            code: None,
            reason: None,
        });
        let rejected = self.rejected.iter().map(|(path, class, why)| Row {
            path,
            class: *class,
            rank: None,
            estimate_ns: None,
            measured: false,
            proven: false,
            flipped: false,
            code: Some(why.code()),
            reason: Some(why.to_string()),
        });
        ranked.chain(rejected).collect()
    }
}

const WIDTH: usize = 80;
const INDENT: usize = 26;

impl fmt::Display for Negotiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<5}{:<7}{:<14}verdict", "rank", "path", "class")?;
        for row in self.rows() {
            let rank = row.rank.map_or("-".to_owned(), |r| r.to_string());
            write!(f, "{rank:<5}{:<7}{:<14}", row.path, row.class.as_str())?;
            let text = row.reason.unwrap_or_else(|| {
                let time = row.estimate_ns.unwrap_or(0) as f64 / 1000.0;
                let source = if row.measured {
                    "measured"
                } else {
                    "advertised"
                };
                let proof = match (row.flipped, row.proven) {
                    (true, _) => "done by the peer",
                    (_, true) => "proven",
                    _ => "not proven yet",
                };
                format!("{time:.1} us {source}, {proof}")
            });
            wrap(f, &text)?;
        }
        Ok(())
    }
}

fn wrap(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let mut at = INDENT;
    for word in text.split_whitespace() {
        if at + word.chars().count() + 1 > WIDTH && at > INDENT {
            write!(f, "\n{:INDENT$}", "")?;
            at = INDENT;
        } else if at > INDENT {
            f.write_str(" ")?;
            at += 1;
        }
        f.write_str(word)?;
        at += word.chars().count();
    }
    writeln!(f)
}
