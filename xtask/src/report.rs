//! What was run, what was skipped, and the table at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// The table is this wide at most.
const WIDTH: usize = 80;

/// Something that was not tested, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Skip {
    pub(crate) what: String,
    pub(crate) why: String,
}

impl Skip {
    /// Reads a line that a test printed: `SKIP <what>: <why>`. The test harness may have written
    /// the test's name on the same line before it.
    pub(crate) fn parse(line: &str) -> Option<Skip> {
        let line = line.trim();
        let text = match line.strip_prefix("SKIP ") {
            Some(text) => text,
            None => line.split_once(" ... SKIP ")?.1,
        };
        let (what, why) = text.split_once(": ").unwrap_or((text, "no reason given"));
        Some(Skip {
            what: what.trim().to_owned(),
            why: why.trim().to_owned(),
        })
    }
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Ok(String),
    Failed(String),
    Skipped(String),
}

/// The skips that `NIXL_RS_REQUIRE` forbids.
#[derive(Debug, Default)]
pub(crate) struct Required(Vec<String>);

impl Required {
    /// Parses a comma-separated list of names; `all` stands for every name.
    pub(crate) fn parse(list: &str) -> Required {
        let names = list.split(',').map(|name| name.trim().to_lowercase());
        Required(names.filter(|name| !name.is_empty()).collect())
    }

    fn forbids(&self, skip: &Skip) -> bool {
        let what = skip.what.to_lowercase();
        self.0.iter().any(|name| name == "all" || *name == what)
    }
}

struct Line {
    name: &'static str,
    outcome: Outcome,
    seconds: f64,
}

/// Collects outcomes and renders them.
#[derive(Default)]
pub(crate) struct Report {
    required: Required,
    lines: Vec<Line>,
    skips: Vec<Skip>,
}

impl Report {
    pub(crate) fn new(required: Required) -> Report {
        Report {
            required,
            ..Report::default()
        }
    }

    /// Notes how check `name` ended and what its tests skipped.
    pub(crate) fn add(
        &mut self,
        name: &'static str,
        outcome: Outcome,
        skips: Vec<Skip>,
        took: Duration,
    ) {
        if let Outcome::Skipped(why) = &outcome {
            self.skips.push(Skip {
                what: name.to_owned(),
                why: why.clone(),
            });
        }
        self.skips.extend(skips);
        self.lines.push(Line {
            name,
            outcome,
            seconds: took.as_secs_f64(),
        });
    }

    fn forbidden(&self) -> usize {
        let forbidden = |skip: &&Skip| self.required.forbids(skip);
        self.skips.iter().filter(forbidden).count()
    }

    /// Whether nothing failed and no required check or test was skipped.
    pub(crate) fn passed(&self) -> bool {
        let failed = |line: &Line| matches!(line.outcome, Outcome::Failed(_));
        !self.lines.iter().any(failed) && self.forbidden() == 0
    }

    /// The table, the list of skips and a closing line of counts.
    pub(crate) fn render(&self) -> String {
        let mut text = format!("{:<10} {:<6} {:>7}  note\n", "check", "result", "seconds");
        let (mut ok, mut failed) = (0, self.forbidden());
        for line in &self.lines {
            let (word, note) = match &line.outcome {
                Outcome::Ok(note) => ("ok", note),
                Outcome::Failed(note) => ("FAIL", note),
                Outcome::Skipped(note) => ("SKIP", note),
            };
            ok += usize::from(word == "ok");
            failed += usize::from(word == "FAIL");
            let row = format!("{:<10} {word:<6} {:>7.1}  {note}", line.name, line.seconds);
            text.push_str(&cut(&row));
            text.push('\n');
        }
        self.render_failures(&mut text);
        self.render_skips(&mut text);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n{ok} passed, {failed} failed, {} skipped\n",
            self.skips.len()
        );
        text
    }

    fn render_failures(&self, text: &mut String) {
        for line in &self.lines {
            let Outcome::Failed(why) = &line.outcome else {
                continue;
            };
            text.push_str(&format!("\n{} failed:\n", line.name));
            for reason in why.lines() {
                text.push_str(&wrapped(reason));
            }
        }
    }

    fn render_skips(&self, text: &mut String) {
        let mut counted: BTreeMap<&Skip, usize> = BTreeMap::new();
        for skip in &self.skips {
            *counted.entry(skip).or_default() += 1;
        }
        if !counted.is_empty() {
            text.push_str("\nnot tested:\n");
        }
        for (skip, count) in counted {
            let times = if count > 1 {
                format!(" ({count} times)")
            } else {
                String::new()
            };
            let forbidden = if self.required.forbids(skip) {
                " [required: FAIL]"
            } else {
                ""
            };
            let line = format!("SKIP {}: {}{times}{forbidden}", skip.what, skip.why);
            text.push_str(&wrapped(&line));
        }
    }
}

/// `row` without what does not fit.
fn cut(row: &str) -> String {
    let row = row.lines().next().unwrap_or_default().trim_end();
    if row.chars().count() <= WIDTH {
        return row.to_owned();
    }
    let kept: String = row.chars().take(WIDTH - 3).collect();
    kept + "..."
}

/// `line` broken at spaces, with a newline at its end.
fn wrapped(line: &str) -> String {
    const INDENT: &str = "  ";
    let (mut text, mut column) = (String::from(INDENT), INDENT.len());
    for word in line.split_whitespace() {
        let width = word.chars().count();
        if column > INDENT.len() && column + width > WIDTH {
            text = text.trim_end().to_owned() + "\n      ";
            column = 6;
        }
        text.push_str(word);
        text.push(' ');
        column += width + 1;
    }
    text.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(what: &str, why: &str) -> Skip {
        Skip {
            what: what.into(),
            why: why.into(),
        }
    }

    fn report(require: &str) -> Report {
        let mut report = Report::new(Required::parse(require));
        let second = Duration::from_secs(1);
        let tests = vec![
            skip("netns", "no permission"),
            skip("netns", "no permission"),
        ];
        report.add("tests", Outcome::Ok("12 tests".into()), tests, second);
        let why = "no cargo-miri in the nightly toolchain ".repeat(4);
        report.add("miri", Outcome::Skipped(why), Vec::new(), second);
        report
    }

    #[test]
    fn a_tests_skip_line_is_read() {
        let expected = Some(skip("etcd", "no server: port 1"));
        assert_eq!(Skip::parse("SKIP etcd: no server: port 1"), expected);
        let behind_name = "test meta::etcd ... SKIP etcd: no server: port 1";
        assert_eq!(Skip::parse(behind_name), expected);
        assert_eq!(Skip::parse("we SKIP etcd: x"), None);
        assert_eq!(Skip::parse("SKIPPED: x"), None);
    }

    #[test]
    fn skips_are_counted_and_alone_do_not_fail() {
        let report = report("");
        assert!(report.passed());
        let text = report.render();
        assert!(
            text.ends_with("\n1 passed, 0 failed, 3 skipped\n"),
            "{text}"
        );
        assert!(
            text.contains("SKIP netns: no permission (2 times)"),
            "{text}"
        );
    }

    #[test]
    fn a_required_skip_fails() {
        for list in ["miri", "x, MIRI ", "all"] {
            assert!(!report(list).passed(), "{list}");
        }
        let text = report("netns").render();
        assert!(
            text.ends_with("\n1 passed, 2 failed, 3 skipped\n"),
            "{text}"
        );
        assert!(report("mir,etcd").passed());
    }

    #[test]
    fn a_failure_fails() {
        let mut report = Report::default();
        let failed = Outcome::Failed("exit status: 1".into());
        report.add("fmt", failed, Vec::new(), Duration::ZERO);
        assert!(!report.passed());
        let text = report.render();
        assert!(text.contains("\nfmt failed:\n  exit status: 1\n"), "{text}");
    }

    #[test]
    fn no_line_is_wider_than_a_terminal() {
        for line in report("all").render().lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }
}
