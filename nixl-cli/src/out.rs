//! What commands print on standard output.

use std::io::{ErrorKind::BrokenPipe, Write};

use nixl::{Error, Result};
use serde::Serialize;

/// Prints one line. A reader that went away (`nixl plan ... | head -1`) is no error.
pub(crate) fn line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != BrokenPipe => Err(Error::os("writing to standard output", e)),
        _ => Ok(()),
    }
}

/// Prints one JSON object on a line.
pub(crate) fn json(object: &impl Serialize) -> Result<()> {
    line(&to_json(object)?)
}

/// One JSON object as text.
pub(crate) fn to_json(object: &impl Serialize) -> Result<String> {
    serde_json::to_string(object).map_err(|e| Error::os("encoding JSON", e))
}

/// Bytes for people: storage units from a megabyte on, KiB below.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("KiB", 1024)];
    let unit = UNITS.iter().find(|(_, one)| bytes >= *one);
    match unit {
        Some((name, one)) if bytes.is_multiple_of(*one) => format!("{} {name}", bytes / one),
        Some((name, one)) => format!("{:.1} {name}", bytes as f64 / *one as f64),
        None => format!("{bytes} B"),
    }
}

/// The last line of a report.
pub(crate) fn verdict(verified: bool) -> &'static str {
    if verified {
        "every byte is right"
    } else {
        "WRONG BYTES"
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_the_unit_that_reads_best() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (18 << 10, "18 KiB"),
            (1536, "1.5 KiB"),
            (524_288_000, "524.3 MB"),
            (2_000_000_000, "2 GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
