//! The checks of `cargo xtask test`.

mod asan;
mod benches;
mod bindings;
mod etcd;
mod fuzz;
mod ignored;
mod layers;
mod loom;
mod miri;
mod nixl_sys;
mod panics;
mod python;
mod safety;
mod sizes;
mod tests;
mod toolchain;

use std::path::PathBuf;
use std::process::Command;

use crate::install::{self, Tool};
use crate::report::Skip;
use crate::{rdma, shell};

/// One step of `cargo xtask test`.
pub(crate) struct Check {
    /// What the user calls it, in `--only` and in `NIXL_RS_REQUIRE`.
    pub(crate) name: &'static str,
    /// One line of help, and its heading.
    pub(crate) about: &'static str,
    /// Programs that it can use, installed beforehand where that is allowed.
    pub(crate) needs: &'static [Tool],
    /// Returns a note for the table.
    pub(crate) run: fn(&mut Context) -> Result<String, Stop>,
}

/// Why a check did not succeed.
#[derive(Debug, PartialEq)]
pub(crate) enum Stop {
    Fail(String),
    Skip(String),
}

/// What a check works with.
pub(crate) struct Context {
    /// The root of the workspace.
    pub(crate) root: PathBuf,
    /// What the tests of this check did not test.
    pub(crate) skips: Vec<Skip>,
}

impl Context {
    pub(crate) fn new(root: PathBuf) -> Context {
        let skips = Vec::new();
        Context { root, skips }
    }

    /// `cargo` with `args`, in the root of the workspace.
    fn cargo(&self, args: &[&str]) -> Command {
        let mut command = shell::cargo(&self.root);
        command.args(args);
        command
    }

    /// As [`Context::cargo`], with the nightly toolchain that rustup has.
    fn nightly(&self, args: &[&str]) -> Command {
        let mut command = shell::cargo(&self.root);
        command.arg("+nightly").args(args);
        command
    }
}

/// Every check: what is quick and cheap first.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        name: "fmt",
        about: "formatting",
        needs: &[],
        run: toolchain::fmt,
    },
    Check {
        name: "sizes",
        about: "no source file over 800 lines, a list of those over 500",
        needs: &[],
        run: sizes::run,
    },
    Check {
        name: "safety",
        about: "unsafe code cites an invariant of docs/safety.md",
        needs: &[],
        run: safety::run,
    },
    Check {
        name: "panics",
        about: "code that can panic says why it does not",
        needs: &[],
        run: panics::run,
    },
    Check {
        name: "ignored",
        about: "no test is ignored",
        needs: &[],
        run: ignored::run,
    },
    Check {
        name: "layers",
        about: "which crate may depend on which",
        needs: &[],
        run: layers::run,
    },
    Check {
        name: "clippy",
        about: "lints on every target, warnings denied",
        needs: &[],
        run: toolchain::clippy,
    },
    Check {
        name: "doc",
        about: "rustdoc, warnings denied",
        needs: &[],
        run: toolchain::doc,
    },
    Check {
        name: "bindings",
        about: "the bindings of ucx-sys are those of the pinned headers",
        needs: &[install::LIBCLANG, install::UCX],
        run: bindings::run,
    },
    Check {
        name: "tests",
        about: "unit and integration tests of every crate",
        needs: &[
            install::NEXTEST,
            install::IP,
            install::UCX,
            install::CXX,
            install::VALGRIND,
            install::PKG_CONFIG,
            install::CMAKE,
        ],
        run: tests::run,
    },
    Check {
        name: "doctest",
        about: "examples in the documentation",
        needs: &[],
        run: tests::doctests,
    },
    Check {
        name: "python",
        about: "the Python package, tested by pytest",
        needs: &[install::UCX],
        run: python::run,
    },
    Check {
        name: "etcd",
        about: "nixl-meta with its etcd feature, against a real server",
        needs: &[install::PROTOC, install::ETCD, install::NEXTEST],
        run: etcd::run,
    },
    Check {
        name: "nixl-sys",
        about: "NIXL's published Rust crate, and its own tests, on libnixl_capi.so",
        needs: &[install::LIBCLANG, install::CXX],
        run: nixl_sys::run,
    },
    Check {
        name: "benches",
        about: "each benchmark runs once",
        needs: &[],
        run: benches::run,
    },
    Check {
        name: "loom",
        about: "every interleaving of the completion protocol",
        needs: &[],
        run: loom::run,
    },
    Check {
        name: "miri",
        about: "core's in-flight kernel and the TCP protocol under Miri",
        needs: &[],
        run: miri::run,
    },
    Check {
        name: "asan",
        about: "crates with unsafe code under AddressSanitizer",
        needs: &[install::NEXTEST],
        run: asan::run,
    },
    Check {
        name: "rdma",
        about: "our programs over RDMA verbs, in a virtual machine",
        needs: install::RDMA,
        run: rdma::check,
    },
    Check {
        name: "fuzz",
        about: "each fuzz target for ten seconds",
        needs: &[install::CXX, install::FUZZ],
        run: fuzz::run,
    },
];
