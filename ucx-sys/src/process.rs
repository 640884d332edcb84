//! What this process has mapped.

use std::fs;
use std::path::{Path, PathBuf};

/// Files that this process has mapped whose name begins with `prefix`, each once.
pub(crate) fn mapped(prefix: &str) -> Vec<PathBuf> {
    // Without /proc nothing can be said; that costs diagnostics, not function.
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    mapped_in(&maps, prefix)
}

fn mapped_in(maps: &str, prefix: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with(prefix)
        })
        .map(Path::to_owned)
        .collect();
    files.sort();
    files.dedup();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_once() {
        let maps = "\
7f0000000000-7f0000001000 r--p 00000000 fe:00 77   /opt/a dir/ucx/libuct_cma.so.0.0.0
7f0000001000-7f0000002000 r-xp 00001000 fe:00 77   /opt/a dir/ucx/libuct_cma.so.0.0.0
7f0000002000-7f0000003000 r-xp 00000000 fe:00 78   /opt/a dir/libuct.so.0.0.0
7f0000003000-7f0000004000 rw-p 00000000 00:00 0    [heap]
7f0000004000-7f0000005000 rw-p 00000000 00:00 0
";
        let found = mapped_in(maps, "libuct_");
        assert_eq!(found, [Path::new("/opt/a dir/ucx/libuct_cma.so.0.0.0")]);
    }
}
