//! Transport modules that this machine has use for and this UCX does not have.

use std::{fs, path::Path};

use crate::{
    config::{Warning, WarningCode},
    detect::Machine,
};

/// A warning for each module that is not in `dir`, where UCX looks for its modules, though the
/// machine has what it is for. Distributions put them into packages of their own, and some wheels
/// leave them out.
pub(crate) fn missing(dir: Option<&Path>, machine: &Machine) -> Vec<Warning> {
    let Some(dir) = dir else {
        return Vec::new();
    };
    let mut wanted = Vec::new();
    if machine.usable_devices().next().is_some() {
        wanted.push(("libuct_ib.so", "RDMA devices are not used"));
    }
    if machine.nvidia.known().is_some() {
        wanted.push(("libuct_cuda.so", "GPU memory is not recognised"));
    }
    let warning = |(module, so)| {
        let text = format!(
            "this UCX has no module {module}, so {so}: install it in {}, or load a UCX that has it \
             (ucx.lib, NIXL_RS_UCX_LIB)",
            dir.display()
        );
        Warning::new(WarningCode::NoModule, text)
    };
    wanted.retain(|(module, _)| !has(dir, module));
    wanted.into_iter().map(warning).collect()
}

/// Whether a file of that name is there, with or without a version after it.
fn has(dir: &Path, module: &str) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names = entries.map(|entry| entry.file_name());
    names.any(|name| name.to_string_lossy().starts_with(module))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::tests::tree::Tree;

    #[test]
    fn what_the_machine_has_use_for_is_missed() {
        let dir = tempfile::tempdir().unwrap();
        let path = Some(dir.path());
        let tree = Tree::infiniband();
        let infiniband = tree.nvidia(true, "550.54.14").read();
        let found = missing(path, &infiniband);
        let text = found.iter().map(|w| w.text.as_str()).collect::<String>();
        assert!(found.iter().all(|w| w.code == WarningCode::NoModule));
        assert!(
            text.contains("libuct_ib.so, so RDMA devices are not used"),
            "{text}"
        );
        assert!(text.contains("libuct_cuda.so, so GPU memory"), "{text}");
        assert!(text.contains(&dir.path().display().to_string()), "{text}");

        // That of another module, and one with a version.
        fs::write(dir.path().join("libuct_ib_efa.so.0"), "").unwrap();
        assert_eq!(missing(path, &infiniband).len(), found.len());
        for module in ["libuct_ib.so.0.0.0", "libuct_cuda.so"] {
            fs::write(dir.path().join(module), "").unwrap();
        }
        assert_eq!(missing(path, &infiniband), []);
        assert_eq!(missing(None, &infiniband), []);
    }

    #[test]
    fn what_it_has_no_use_for_is_not() {
        let nowhere = Path::new("/nowhere");
        assert_eq!(missing(Some(nowhere), &Tree::none().read()), []);
        assert!(!missing(Some(nowhere), &Tree::infiniband().read()).is_empty());
    }
}
