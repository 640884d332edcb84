//! The Rust files of the workspace.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::checks::Stop;

/// A file, by its path from the root of the workspace.
pub(crate) struct SourceFile {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl SourceFile {
    /// Whether a program wrote it: it says so, as is the custom, in its first lines.
    pub(crate) fn is_generated(&self) -> bool {
        self.text
            .lines()
            .take(5)
            .any(|line| line.contains("@generated"))
    }
}

/// Every Rust file below `root`, in order, but for build output and hidden directories.
pub(crate) fn files(root: &Path) -> Result<Vec<SourceFile>, Stop> {
    let mut files = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        read_dir(root, &dir, &mut files, &mut dirs)
            .map_err(|error| Stop::Fail(format!("{}: {error}", dir.display())))?;
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn read_dir(
    root: &Path,
    dir: &Path,
    files: &mut Vec<SourceFile>,
    dirs: &mut Vec<PathBuf>,
) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let hidden = name.to_string_lossy().starts_with('.');
        let kind = entry.file_type()?;
        if kind.is_dir() && !hidden && name != "target" {
            dirs.push(path);
        } else if kind.is_file() && path.extension().is_some_and(|ext| ext == "rs") {
            let text = fs::read_to_string(&path)?;
            let path = path.strip_prefix(root).unwrap_or(&path).to_owned();
            files.push(SourceFile { path, text });
        }
    }
    Ok(())
}
