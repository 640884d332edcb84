//! Bounded reads below a root directory.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

/// No file that we read is longer, except in a tree made to harm us.
const MAX_BYTES: u64 = 1 << 20;

/// More entries in a directory are not looked at.
const MAX_ENTRIES: usize = 256;

/// The directory that stands for `/`.
pub(super) struct Root(PathBuf);

impl Root {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// The trimmed text of the file `path` (absolute), with replacements for what is not UTF-8.
    pub(super) fn text(&self, path: &str) -> Result<String, String> {
        let full = self.at(path);
        let fail = |error: std::io::Error| format!("{path}: {}", plain(&error));
        // Opening a pipe would wait for its writer.
        if !fs::metadata(&full).map_err(fail)?.is_file() {
            return Err(format!("{path} is no file"));
        }
        let mut bytes = Vec::new();
        let file = File::open(&full).map_err(fail)?;
        file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(fail)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Names in the directory `path`, sorted.
    pub(super) fn names(&self, path: &str) -> Result<Vec<String>, String> {
        let fail = |error: std::io::Error| format!("{path}: {}", plain(&error));
        let entries = fs::read_dir(self.at(path)).map_err(fail)?;
        let mut names: Vec<String> = entries
            .take(MAX_ENTRIES)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The last part of what the symbolic link `path` points to.
    pub(super) fn link_name(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.at(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.at(path).exists()
    }
}

/// The error without its number.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "not there".to_owned(),
        std::io::ErrorKind::PermissionDenied => "not allowed".to_owned(),
        _ => error.to_string(),
    }
}
