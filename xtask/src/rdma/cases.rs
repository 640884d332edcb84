//! What is run in the virtual machine.

/// A libucp for our own programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ucx {
    /// The case runs no program of ours; UCX's own tools are Debian's.
    Tools,
    /// Debian's 1.13.
    Debian,
    /// The one that the NIXL wheel bundles.
    Nixl,
}

impl Ucx {
    /// Its name in scripts and in `target/ucx`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Ucx::Tools => "tools",
            Ucx::Debian => "debian",
            Ucx::Nixl => "nixl",
        }
    }
}

/// One script of `tests/rdma-vm/cases`, with one UCX.
pub(crate) struct Case {
    pub(crate) script: &'static str,
    pub(crate) ucx: Ucx,
    /// Seconds after which it is killed and has failed: several times what it takes.
    pub(crate) limit: u64,
    /// `cargo xtask test` runs it too. The others wait for Soft-RoCE's timers, or compare packets,
    /// and a host that is busy may make them fail.
    pub(crate) always: bool,
    pub(crate) proves: &'static str,
}

impl Case {
    /// What the user calls it.
    pub(crate) fn name(&self) -> String {
        match self.ucx {
            Ucx::Tools => self.script.to_owned(),
            ucx => format!("{}-{}", self.script, ucx.name()),
        }
    }
}

const fn case(script: &'static str, ucx: Ucx, limit: u64, proves: &'static str) -> Case {
    Case {
        script,
        ucx,
        limit,
        always: false,
        proves,
    }
}

/// One that `cargo xtask test` runs too.
const fn always(script: &'static str, ucx: Ucx, limit: u64, proves: &'static str) -> Case {
    Case {
        always: true,
        ..case(script, ucx, limit, proves)
    }
}

const SUITE: &str = "the backend's contract over rc_verbs";
const AGENTS: &str = "two processes, READ and WRITE, every byte";
const KILLED: &str = "a peer killed mid-transfer is PeerGone";
const PACKETS: &str = "our packets within 2 % of ucx_perftest's";

const CUT: &str = "the wire cut mid-transfer, and mended";

/// Every case, in the order in which they run.
pub(crate) const CASES: &[Case] = &[
    always(
        "devices",
        Ucx::Tools,
        20,
        "two RDMA devices are up and count",
    ),
    always("info", Ucx::Tools, 30, "UCX offers rc_verbs on them"),
    always("perftest", Ucx::Tools, 60, "UCX's get and put work on them"),
    always("suite", Ucx::Debian, 420, SUITE),
    always("suite", Ucx::Nixl, 420, SUITE),
    always("agents", Ucx::Debian, 120, AGENTS),
    always("agents", Ucx::Nixl, 120, AGENTS),
    case("killed", Ucx::Debian, 90, KILLED),
    case("killed", Ucx::Nixl, 90, KILLED),
    case("cut", Ucx::Debian, 120, CUT),
    case("cut", Ucx::Nixl, 120, CUT),
    case("packets", Ucx::Debian, 90, PACKETS),
    case("packets", Ucx::Nixl, 90, PACKETS),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_every_script_is_there() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/rdma-vm/cases");
        let mut names: Vec<String> = CASES.iter().map(Case::name).collect();
        for case in CASES {
            let script = std::path::Path::new(dir).join(format!("{}.sh", case.script));
            assert!(script.is_file(), "{}", script.display());
        }
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
