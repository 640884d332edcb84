//! How data moves.

use std::{fmt, str::FromStr};

use nixl_core::Error;

use super::misuse;

/// Which of UCX's two ways of moving data the backend offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// One-sided operations, and rendezvous where UCX may emulate or refuse those; the negotiator
    /// ranks them.
    #[default]
    Auto,
    /// One-sided operations only.
    Rma,
    /// Rendezvous only.
    Rendezvous,
}

const NAMES: [(&str, Mode); 3] = [
    ("auto", Mode::Auto),
    ("rma", Mode::Rma),
    ("rendezvous", Mode::Rendezvous),
];

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = NAMES.iter().find(|(_, mode)| mode == self);
        f.write_str(found.map_or("", |(name, _)| name))
    }
}

impl FromStr for Mode {
    type Err = Error;

    /// Errors: `ApiMisuse` for another name, with those that there are.
    fn from_str(text: &str) -> Result<Self, Error> {
        let found = NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, mode)| *mode).ok_or_else(|| {
            misuse(format!(
                "UCX mode {text:?}: expected auto, rma or rendezvous"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for (name, mode) in NAMES {
            assert_eq!(name.parse::<Mode>().unwrap(), mode);
            assert_eq!(mode.to_string(), name);
        }
        let e = "both".parse::<Mode>().unwrap_err();
        assert!(e.message().contains("auto, rma or rendezvous"), "{e}");
    }
}
