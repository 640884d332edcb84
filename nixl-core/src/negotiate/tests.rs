mod costs;
mod props;

use std::ops::RangeInclusive;

use super::*;
use crate::{BackendCard, ErrorKind, Generation, HostId, Revocation, Secret};

const DRAM: &[(Op, MemKind, MemKind)] = &[
    (Op::Read, MemKind::Dram, MemKind::Dram),
    (Op::Write, MemKind::Dram, MemKind::Dram),
];

fn caps(
    path: PathName,
    backend: BackendName,
    class: PathClass,
    reach: Reach,
    gbps: u64,
) -> PathCaps {
    PathCaps {
        path,
        backend,
        class,
        wire: 1..=2,
        reach,
        mem: DRAM,
        needs_shareable: path == "shm",
        target_must_progress: path == "tcp",
        revocation: Revocation::Cooperative,
        hazard: None,
        cost: Cost {
            latency_ns: if path == "tcp" { 20_000 } else { 1_000 },
            per_desc_ns: 100,
            bytes_per_sec: gbps * 1_000_000_000,
        },
    }
}

fn paths() -> Vec<PathCaps> {
    vec![
        caps("local", "ipc", PathClass::SameProcess, Reach::Process, 9),
        caps("shm", "ipc", PathClass::SharedMemory, Reach::Host, 8),
        caps("cma", "ipc", PathClass::CrossMemory, Reach::Host, 6),
        caps("tcp", "tcp", PathClass::Tcp, Reach::Routed, 2),
    ]
}

fn card(name: &str, boot: u8, pid: u32) -> AgentCard {
    let mut backends: Vec<BackendCard> = Vec::new();
    for c in paths() {
        let path = PathCard {
            path: c.path.to_owned(),
            wire_min: 1,
            wire_max: 2,
        };
        match backends.iter_mut().find(|b| b.backend == c.backend) {
            Some(b) => b.paths.push(path),
            None => backends.push(BackendCard {
                backend: c.backend.to_owned(),
                address: bytes::Bytes::new(),
                paths: vec![path],
            }),
        }
    }
    AgentCard {
        name: name.to_owned(),
        generation: Generation(1),
        secret: Secret([0; 32]),
        host: HostId {
            boot: [boot; 16],
            pid_ns: 7,
            pid,
            name: format!("host{boot}"),
            ..HostId::default()
        },
        progresses: true,
        backends,
        probes: Vec::new(),
        foreign: false,
    }
}

fn demand() -> Demand {
    Demand {
        op: Op::Read,
        local: MemKind::Dram,
        remote: MemKind::Dram,
        all_remote_shareable: true,
        descs: 100,
        bytes: 1 << 20,
    }
}

const RETRY: Duration = Duration::from_millis(12_500);

fn ptrace() -> Error {
    Error::new(ErrorKind::Unsupported, "ptrace is forbidden")
}

fn probe_failed() -> Health {
    let (why, retry_in) = (ptrace(), RETRY);
    Health::ProbeFailed { why, retry_in }
}

fn connect_failed() -> Health {
    let (why, retry_in) = (ptrace(), RETRY);
    Health::ConnectFailed { why, retry_in }
}

#[derive(Clone, Debug)]
struct Case {
    me: AgentCard,
    peer: AgentCard,
    paths: Vec<PathCaps>,
    demand: Demand,
    policy: Policy,
    health: Vec<(PathName, Health)>,
}

impl Case {
    fn new() -> Self {
        Self {
            me: card("me", 1, 10),
            peer: card("peer", 1, 11),
            paths: paths(),
            demand: demand(),
            policy: Policy::default(),
            health: Vec::new(),
        }
    }

    fn run(&self) -> Negotiation {
        self.run_with(&|caps, _| (caps.cost, CostSource::Advertised))
    }

    fn run_with(&self, cost: &dyn Fn(&PathCaps, &Demand) -> (Cost, CostSource)) -> Negotiation {
        let health = |caps: &PathCaps| {
            let known = self.health.iter().find(|h| h.0 == caps.path);
            known.map_or(Health::Unknown, |h| h.1.clone())
        };
        negotiate(
            &self.me,
            &self.paths,
            &self.peer,
            &self.demand,
            cost,
            &self.policy,
            &health,
        )
    }

    fn order(&self) -> Vec<PathName> {
        self.run().ranked.iter().map(|c| c.path).collect()
    }

    fn why(&self, path: PathName) -> Reject {
        let rejected = self.run().rejected;
        rejected.into_iter().find(|r| r.0 == path).unwrap().2
    }
}

#[test]
fn the_nearest_path_wins_and_every_other_says_why() {
    let mut case = Case::new();
    assert_eq!(case.order(), ["shm", "cma", "tcp"]);
    assert_eq!(case.why("local"), Reject::OtherProcess);
    case.peer.host.pid = 10;
    assert_eq!(case.order(), ["local", "shm", "cma", "tcp"]);
    case.peer.host.boot = [2; 16];
    assert_eq!(case.order(), ["tcp"]);
    let other = Reject::OtherHost {
        mine: "host1".into(),
        theirs: "host1".into(),
    };
    assert_eq!(case.why("cma"), other);
    case.me.host.boot = [0; 16];
    case.peer.host.boot = [0; 16];
    assert_eq!(
        case.order(),
        ["tcp"],
        "an unreadable boot id matches nobody"
    );
}

#[test]
fn each_filter_has_its_reason() {
    let mut case = Case::new();
    case.demand.all_remote_shareable = false;
    assert_eq!(case.why("shm"), Reject::NotShareable);
    case.demand.local = MemKind::Vram;
    assert!(matches!(
        case.why("tcp"),
        Reject::MemKind {
            local: MemKind::Vram,
            ..
        }
    ));
    let mut case = Case::new();
    case.peer.backends.retain(|b| b.backend != "ipc");
    assert_eq!(case.why("cma"), Reject::NotShared);
    case.peer.foreign = true;
    assert_eq!(case.why("cma"), Reject::Foreign);
    case.peer.backends[0].paths[0].wire_min = 3;
    case.peer.backends[0].paths[0].wire_max = 4;
    let wire = Reject::WireVersion {
        mine: 1..=2,
        theirs: 3..=4,
    };
    assert_eq!(case.why("tcp"), wire);
    let mut case = Case::new();
    case.health = vec![("cma", probe_failed()), ("tcp", connect_failed())];
    let (why, retry_in) = (ptrace(), RETRY);
    assert_eq!(case.why("cma"), Reject::ProbeFailed { why, retry_in });
    let (why, retry_in) = (ptrace(), RETRY);
    assert_eq!(case.why("tcp"), Reject::ConnectFailed { why, retry_in });
    let mut case = Case::new();
    case.paths[3].cost.bytes_per_sec = 0;
    assert_eq!(case.why("tcp"), Reject::NoCost);
}

#[test]
fn a_path_is_missing_when_only_its_backend_is_shared() {
    let mut case = Case::new();
    case.peer.backends[0].paths.retain(|p| p.path != "cma");
    assert_eq!(case.why("cma"), Reject::NotShared);
    assert_eq!(case.order(), ["shm", "tcp"]);
}

#[test]
fn wire_versions_that_touch_are_enough() {
    let mut case = Case::new();
    let wire = |case: &mut Case, min, max| {
        case.peer.backends[1].paths[0].wire_min = min;
        case.peer.backends[1].paths[0].wire_max = max;
    };
    wire(&mut case, 2, 9);
    assert_eq!(case.order(), ["shm", "cma", "tcp"]);
    wire(&mut case, 0, 0);
    let why = Reject::WireVersion {
        mine: 1..=2,
        theirs: 0..=0,
    };
    assert_eq!(case.why("tcp"), why);
    wire(&mut case, 2, 1);
    let why = Reject::WireVersion {
        mine: 1..=2,
        theirs: RangeInclusive::new(2, 1),
    };
    assert_eq!(case.why("tcp"), why, "a range turned round holds nothing");
}

#[test]
fn a_peer_without_threads_is_refused_only_on_request() {
    let mut case = Case::new();
    case.peer.progresses = false;
    assert_eq!(case.order(), ["shm", "cma", "tcp"]);
    case.policy.refuse_idle_targets = true;
    assert_eq!(case.order(), ["shm", "cma"], "these need no thread there");
    assert_eq!(case.why("tcp"), Reject::TargetIdle);
    case.peer.progresses = true;
    case.me.progresses = false;
    assert_eq!(
        case.order(),
        ["shm", "cma", "tcp"],
        "only the target counts"
    );
}

#[test]
fn a_hazard_is_taken_only_by_name_or_with_an_agent_that_has_nothing_else() {
    let mut case = Case::new();
    let tcp = case.paths.iter_mut().find(|c| c.path == "tcp").unwrap();
    tcp.hazard = Some("it may break");
    assert_eq!(case.order(), ["shm", "cma"]);
    assert_eq!(case.why("tcp"), Reject::Hazard("it may break"));
    case.policy.prefer = vec!["tcp".into()];
    assert_eq!(case.order(), ["tcp", "shm", "cma"]);
    case.policy = Policy::default();
    case.peer.foreign = true;
    assert!(case.order().contains(&"tcp"));
}

#[test]
fn what_is_so_by_design_is_said_before_what_failed() {
    let mut case = Case::new();
    for path in &mut case.peer.backends[0].paths {
        (path.wire_min, path.wire_max) = (3, 4);
    }
    assert!(matches!(case.why("shm"), Reject::WireVersion { .. }));
    case.policy.forbid = vec!["cma".into()];
    assert_eq!(case.why("cma"), Reject::Policy(PolicyRule::Forbidden));
    case.demand.all_remote_shareable = false;
    assert_eq!(case.why("shm"), Reject::NotShareable);
    assert_eq!(case.run().degraded, None, "nothing better was to be had");
    case.peer.host.boot = [2; 16];
    assert!(matches!(case.why("shm"), Reject::OtherHost { .. }));
    assert_eq!(case.run().degraded, None);
}

#[test]
fn directions_are_decided_apart() {
    let mut case = Case::new();
    case.paths[1].mem = &DRAM[..1];
    assert_eq!(case.order()[0], "shm");
    case.demand.op = Op::Write;
    assert_eq!(case.order()[0], "cma");
    let why = Reject::MemKind {
        op: Op::Write,
        local: MemKind::Dram,
        remote: MemKind::Dram,
    };
    assert_eq!(case.why("shm"), why);
}

#[test]
fn ties_go_to_the_better_class_then_to_the_name() {
    let mut case = Case::new();
    let cost = case.paths[3].cost;
    for path in &mut case.paths {
        path.cost = cost;
    }
    assert_eq!(case.order(), ["shm", "cma", "tcp"]);
    for path in &mut case.paths {
        path.class = PathClass::Tcp;
    }
    assert_eq!(case.order(), ["cma", "shm", "tcp"]);
}

#[test]
fn policies_restrict_and_prefer() {
    let mut case = Case::new();
    case.policy.prefer = vec!["tcp".into()];
    assert_eq!(case.order(), ["tcp", "shm", "cma"]);
    case.policy.prefer = vec!["cma".into(), "ipc".into()];
    assert_eq!(case.order(), ["cma", "shm", "tcp"]);
    case.policy.forbid = vec!["ipc".into()];
    assert_eq!(case.order(), ["tcp"]);
    case.policy = Policy {
        only: vec!["cma".into()],
        ..Policy::default()
    };
    assert_eq!(case.order(), ["cma"]);
    assert_eq!(case.why("tcp"), Reject::Policy(PolicyRule::NotInOnly));
    case.policy = Policy {
        mode: "strict:shared_memory".parse().unwrap(),
        ..Policy::default()
    };
    assert_eq!(case.order(), ["shm"]);
    let below = |class| PolicyRule::BelowMinimum {
        class,
        min: PathClass::SharedMemory,
    };
    assert_eq!(
        case.why("cma"),
        Reject::Policy(below(PathClass::CrossMemory))
    );
    assert_eq!(case.why("tcp"), Reject::Policy(below(PathClass::Tcp)));
    for wrong in ["", "Any", "strict:", "strict:fast", "warn:tcp"] {
        assert!(wrong.parse::<Mode>().is_err(), "{wrong:?}");
    }
    assert_eq!(
        "strict".parse::<Mode>().unwrap(),
        Mode::Strict(PathClass::RdmaStaged)
    );
}

#[test]
fn only_failures_of_better_classes_are_degradations() {
    let mut case = Case::new();
    assert_eq!(
        degradation(&case.run()),
        None,
        "another process is by design"
    );
    case.demand.all_remote_shareable = false;
    assert_eq!(
        degradation(&case.run()),
        None,
        "the caller's memory is by design"
    );
    case.health = vec![("cma", probe_failed())];
    let why = Reject::ProbeFailed {
        why: ptrace(),
        retry_in: RETRY,
    };
    let found = case.run();
    let degraded = degradation(&found).unwrap();
    assert_eq!((degraded.path, degraded.class), ("tcp", PathClass::Tcp));
    assert_eq!(degraded.lost, [("cma", PathClass::CrossMemory, why)]);
    assert_eq!(
        degraded.to_string(),
        "cma: proof failed: ptrace is forbidden; next try in 12.5 s"
    );
    case.policy.prefer = vec!["tcp".into()];
    assert_eq!(degradation(&case.run()), None, "TCP is what the user wants");
    case.policy.prefer = vec!["ipc".into(), "tcp".into()];
    assert!(
        degradation(&case.run()).is_some(),
        "TCP is the second choice"
    );
    case.policy.forbid = vec!["cma".into()];
    assert_eq!(degradation(&case.run()), None, "the user forbids it");
    case.policy = Policy::default();
    case.demand.all_remote_shareable = true;
    assert_eq!(degradation(&case.run()), None, "shm is better than cma");
    case.health.push(("shm", connect_failed()));
    assert_eq!(degradation(&case.run()).unwrap().lost.len(), 2);
    case.health.push(("tcp", connect_failed()));
    assert_eq!(degradation(&case.run()), None, "nothing is left to fall to");
}

#[test]
fn a_better_class_that_is_slower_is_no_degradation() {
    let mut case = Case::new();
    case.paths[1].cost.bytes_per_sec = 1_000_000;
    case.paths[2].cost.bytes_per_sec = 1_000_000;
    assert_eq!(case.order()[0], "tcp");
    assert_eq!(degradation(&case.run()), None);
}

#[test]
fn the_table_fits_eighty_columns_and_steers_no_terminal() {
    let mut case = Case::new();
    case.peer.host.boot = [2; 16];
    case.peer.host.name = "\u{1b}[2Jevil\n".repeat(9);
    case.paths[3].path = "ucx:a_path_with_a_long_name";
    let long = format!("\u{1b}[31m {} a\tb", "x".repeat(200));
    case.peer.backends[1].paths[0].path = case.paths[3].path.to_owned();
    let e = Error::new(ErrorKind::Unsupported, long);
    let (why, retry_in) = (e, RETRY);
    case.health = vec![(case.paths[3].path, Health::ProbeFailed { why, retry_in })];
    let table = case.run().to_string();
    assert!(table.lines().all(|l| l.chars().count() <= 80), "{table}");
    let steers = |c: char| c.is_control() && c != '\n';
    assert!(!table.contains(steers), "{table:?}");
    assert!(!case.why("cma").to_string().contains(char::is_control));
    assert!(table.contains("ucx:a_path_with_a_lo "), "{table}");
}

#[test]
fn the_table_for_people() {
    let mut case = Case::new();
    case.health = vec![("shm", Health::Proven), ("cma", probe_failed())];
    let want = "\
rank path   class         verdict
1    shm    shared_memory 142.1 us advertised, proven
2    tcp    tcp           554.3 us advertised, not proven yet
-    cma    cross_memory  proof failed: ptrace is forbidden; next try in 12.5 s
-    local  same_process  the peer is another process; nothing to do, it is for
                          agents of one
";
    assert_eq!(case.run().to_string(), want);
    let rows = case.run().rows();
    let codes: Vec<_> = rows.iter().map(|r| (r.path, r.rank, r.code)).collect();
    assert_eq!(
        codes,
        [
            ("shm", Some(1), None),
            ("tcp", Some(2), None),
            ("cma", None, Some("probe_failed")),
            ("local", None, Some("other_process")),
        ]
    );
}
