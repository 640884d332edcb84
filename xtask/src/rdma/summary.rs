//! How the cases ended.

use serde_json::json;

use super::cases::Case;

/// The table is this wide at most.
const WIDTH: usize = 80;

/// How one case ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Result {
    Ok,
    Failed(String),
    /// Its UCX is not here.
    Skipped(String),
}

/// One line of the summary.
pub(crate) struct Entry {
    pub(crate) case: &'static Case,
    pub(crate) result: Result,
    /// What the case itself had to say.
    pub(crate) note: String,
    pub(crate) seconds: f64,
}

/// Everything about a run.
#[derive(Default)]
pub(crate) struct Summary {
    pub(crate) entries: Vec<Entry>,
    /// Seconds until the first case began.
    pub(crate) boot: f64,
    pub(crate) seconds: f64,
}

impl Summary {
    fn count(&self, wanted: fn(&Result) -> bool) -> usize {
        let wanted = |entry: &&Entry| wanted(&entry.result);
        self.entries.iter().filter(wanted).count()
    }

    pub(crate) fn failed(&self) -> usize {
        self.count(|result| matches!(result, Result::Failed(_)))
    }

    pub(crate) fn skipped(&self) -> usize {
        self.count(|result| matches!(result, Result::Skipped(_)))
    }

    /// A table of at most 80 columns, and all that it had no room for.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{:<16} {:<6} {:>7}  proves\n", "case", "result", "seconds");
        for entry in &self.entries {
            let word = entry.word();
            let (name, proves) = (entry.case.name(), entry.case.proves);
            let row = format!("{name:<16} {word:<6} {:>7.1}  {proves}", entry.seconds);
            text = text + row.trim_end() + "\n";
        }
        text.push('\n');
        for entry in &self.entries {
            let why = match &entry.result {
                Result::Ok => &entry.note,
                Result::Failed(why) | Result::Skipped(why) => why,
            };
            wrap(&mut text, &format!("{}: {why}", entry.case.name()));
        }
        let (failed, skipped) = (self.failed(), self.skipped());
        let passed = self.entries.len() - failed - skipped;
        text + &format!(
            "\n{passed} passed, {failed} failed, {skipped} skipped; boot {:.1} s, all {:.0} s\n",
            self.boot, self.seconds
        )
    }

    /// One object for each case, and one for all, each on a line.
    pub(crate) fn json(&self) -> String {
        let mut text = String::new();
        for entry in &self.entries {
            let why = match &entry.result {
                Result::Ok => None,
                Result::Failed(why) | Result::Skipped(why) => Some(why),
            };
            let object = json!({
                "case": entry.case.name(), "ucx": entry.case.ucx.name(), "result": entry.word(),
                "seconds": entry.seconds, "proves": entry.case.proves, "note": entry.note,
                "why": why,
            });
            text = text + &object.to_string() + "\n";
        }
        let (failed, skipped) = (self.failed(), self.skipped());
        let object = json!({
            "passed": self.entries.len() - failed - skipped, "failed": failed,
            "skipped": skipped, "boot_seconds": self.boot, "seconds": self.seconds,
        });
        text + &object.to_string() + "\n"
    }
}

impl Entry {
    fn word(&self) -> &'static str {
        match self.result {
            Result::Ok => "ok",
            Result::Failed(_) => "FAIL",
            Result::Skipped(_) => "SKIP",
        }
    }
}

/// Adds `line`, broken at spaces.
fn wrap(text: &mut String, line: &str) {
    let mut column = 0;
    for word in line.split_whitespace() {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > WIDTH {
            text.push_str("\n   ");
            column = 3;
        }
        if column > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdma::cases::CASES;

    fn summary() -> Summary {
        let results = [
            Result::Ok,
            Result::Failed("it took more than its limit ".repeat(5)),
            Result::Skipped("no target/ucx/nixl".into()),
        ];
        let entries = CASES.iter().zip(results.iter().cycle());
        let entries = entries.map(|(case, result)| Entry {
            case,
            result: result.clone(),
            note: "a note that a case printed ".repeat(6),
            seconds: 1234.5,
        });
        Summary {
            entries: entries.collect(),
            ..Summary::default()
        }
    }

    #[test]
    fn the_table_fits_a_terminal_and_counts() {
        let table = summary().table();
        for line in table.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        assert!(table.contains("5 passed, 4 failed, 4 skipped"), "{table}");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = summary().json();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("each line is JSON"))
            .collect();
        assert_eq!(lines.len(), CASES.len() + 1);
        assert_eq!(lines[0]["result"], "ok");
        assert_eq!(lines[CASES.len()]["failed"], 4);
    }
}
