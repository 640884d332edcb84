//! A negotiation as a table.

use std::fmt::{self, Write};

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
    /// The peer is an agent of NIXL's.
    pub foreign: bool,
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
            foreign: self.foreign,
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
            foreign: self.foreign,
            code: Some(why.code()),
            reason: Some(why.to_string()),
        });
        ranked.chain(rejected).collect()
    }
}

const WIDTH: usize = 80;
const RANK: usize = 5;
const CLASS: usize = 14;

impl fmt::Display for Negotiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let longest = rows.iter().map(|r| r.path.chars().count()).max();
        let path = longest.unwrap_or(0).clamp(6, 20) + 1;
        let indent = RANK + path + CLASS;
        writeln!(
            f,
            "{:<RANK$}{:<path$}{:<CLASS$}verdict",
            "rank", "path", "class"
        )?;
        for row in rows {
            let rank = row.rank.map_or("-".to_owned(), |r| r.to_string());
            write!(
                f,
                "{rank:<RANK$}{:<path$.20}{:<CLASS$}",
                row.path,
                row.class.as_str()
            )?;
            match &row.reason {
                Some(reason) => wrap(f, reason, indent)?,
                None => wrap(f, &row.verdict(), indent)?,
            }
        }
        for (page, bytes) in &self.allocated {
            let (page, bytes) = (page >> 10, bytes >> 10);
            writeln!(f, "memory of this agent: {bytes} KiB in {page} KiB pages")?;
        }
        Ok(())
    }
}

impl Row {
    fn verdict(&self) -> String {
        let time = self.estimate_ns.unwrap_or(0) as f64 / 1000.0;
        let source = if self.measured {
            "measured"
        } else {
            "advertised"
        };
        let proof = match (self.flipped, self.proven) {
            (true, _) => "done by the peer",
            (_, true) => "proven",
            _ => "not proven yet",
        };
        let whose = if self.foreign { ", foreign agent" } else { "" };
        format!("{time:.1} us {source}, {proof}{whose}")
    }
}

/// Ends the line with `text`, broken into lines of at most `WIDTH` columns. Reasons quote system
/// calls and peers: what would steer a terminal is shown as a question mark.
fn wrap(f: &mut fmt::Formatter<'_>, text: &str, indent: usize) -> fmt::Result {
    let room = WIDTH - indent;
    let mut used = 0;
    for word in text.split_whitespace() {
        let len = word.chars().count();
        if used > 0 && used + 1 + len > room {
            write!(f, "\n{:indent$}", "")?;
            used = 0;
        } else if used > 0 {
            f.write_str(" ")?;
            used += 1;
        }
        for c in word.chars() {
            if used == room {
                write!(f, "\n{:indent$}", "")?;
                used = 0;
            }
            f.write_char(if c.is_control() { '?' } else { c })?;
            used += 1;
        }
    }
    writeln!(f)
}
