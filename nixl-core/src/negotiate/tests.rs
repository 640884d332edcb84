use proptest::prelude::*;

use super::*;
use crate::{ErrorKind, Generation, HostId, PathCard, Revocation, Secret};

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
            pid,
            name: format!("host{boot}"),
            ..HostId::default()
        },
        progresses: true,
        backends,
        probes: Vec::new(),
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

#[derive(Debug)]
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
        let book = CostBook::default();
        negotiate(
            &self.me,
            &self.paths,
            &self.peer,
            &self.demand,
            &|c, d| book.cost(c, d),
            &self.policy,
            &|c| {
                let known = self.health.iter().find(|h| h.0 == c.path);
                known.map_or(Health::Unknown, |h| h.1.clone())
            },
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
    case.peer.backends[0].paths[0].wire_min = 3;
    case.peer.backends[0].paths[0].wire_max = 4;
    let wire = Reject::WireVersion {
        mine: 1..=2,
        theirs: 3..=4,
    };
    assert_eq!(case.why("tcp"), wire);
    let mut case = Case::new();
    let e = Error::new(ErrorKind::Unsupported, "ptrace is forbidden");
    case.health = vec![
        ("cma", Health::ProbeFailed(e.clone())),
        ("tcp", Health::ConnectFailed(e.clone())),
    ];
    assert_eq!(case.why("cma"), Reject::ProbeFailed(e.clone()));
    assert_eq!(case.why("tcp"), Reject::ConnectFailed(e));
}

#[test]
fn policies_restrict_and_prefer() {
    let mut case = Case::new();
    case.policy.prefer = vec!["tcp".into()];
    assert_eq!(case.order(), ["tcp", "shm", "cma"]);
    case.policy.forbid = vec!["ipc".into()];
    assert_eq!(case.order(), ["tcp"]);
    case.policy = Policy {
        only: vec!["cma".into()],
        ..Policy::default()
    };
    assert_eq!(case.order(), ["cma"]);
    case.policy = Policy {
        mode: "strict:shared_memory".parse().unwrap(),
        ..Policy::default()
    };
    assert_eq!(case.order(), ["shm"]);
    assert!(matches!(case.why("tcp"), Reject::Policy(_)));
    assert!("strict:fast".parse::<Mode>().is_err());
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
    let e = Error::new(ErrorKind::Unsupported, "ptrace is forbidden");
    case.health = vec![("cma", Health::ProbeFailed(e))];
    let text = degradation(&case.run()).unwrap();
    assert!(text.contains("cma") && text.contains("ptrace"), "{text}");
}

#[test]
fn measurements_correct_the_ranking_within_bounds() {
    let (paths, demand) = (paths(), demand());
    let mut book = CostBook::default();
    let (shm, cma) = (&paths[1], &paths[2]);
    assert_eq!(book.cost(shm, &demand).1, CostSource::Advertised);
    for _ in 0..50 {
        book.record(shm, Op::Read, demand.descs, demand.bytes, u64::MAX);
    }
    let (slow, source) = book.cost(shm, &demand);
    assert_eq!(source, CostSource::Measured);
    let ratio = slow.estimate_ns(100, 1 << 20) as f64 / shm.cost.estimate_ns(100, 1 << 20) as f64;
    assert!((60.0..68.0).contains(&ratio), "{ratio}");
    let rank = |book: &CostBook| {
        let cost = |c: &PathCaps, d: &Demand| book.cost(c, d);
        let me = card("me", 1, 10);
        let peer = card("peer", 1, 11);
        negotiate(
            &me,
            &paths,
            &peer,
            &demand,
            &cost,
            &Policy::default(),
            &|_| Health::Unknown,
        )
        .ranked[0]
            .path
    };
    assert_eq!(rank(&book), "cma");
    let write = Demand {
        op: Op::Write,
        ..demand
    };
    assert_eq!(
        book.cost(shm, &write).1,
        CostSource::Advertised,
        "directions are apart"
    );
    book.record(cma, Op::Read, 1, 1 << 20, 0);
    assert!(book.cost(cma, &demand).0.bytes_per_sec <= 64 * cma.cost.bytes_per_sec);
}

#[test]
fn the_table_fits_eighty_columns() {
    let mut case = Case::new();
    let e = Error::new(ErrorKind::Unsupported, "a very long reason ".repeat(20));
    case.health = vec![("cma", Health::ProbeFailed(e))];
    let table = case.run().to_string();
    assert!(table.lines().all(|l| l.chars().count() <= 80), "{table}");
    assert!(table.contains("not proven yet"));
}

fn any_case() -> impl Strategy<Value = Case> {
    (
        proptest::sample::subsequence(vec![0usize, 1, 2, 3], 0..=4),
        proptest::sample::subsequence(vec!["ipc", "tcp"], 0..=2),
        (1u8..3, 10u32..12, any::<bool>(), 0u64..1 << 40),
        proptest::sample::subsequence(vec!["tcp", "cma", "shm", "local"], 0..=4),
        proptest::option::of(0usize..7),
    )
        .prop_map(
            |(mine, theirs, (boot, pid, shareable, bytes), prefer, min)| {
                let mut case = Case::new();
                let all = paths();
                case.paths = mine.into_iter().map(|i| all[i].clone()).collect();
                case.peer = card("peer", boot, pid);
                case.peer
                    .backends
                    .retain(|b| theirs.contains(&b.backend.as_str()));
                case.demand.all_remote_shareable = shareable;
                case.demand.bytes = bytes;
                case.policy.prefer = prefer.into_iter().map(str::to_owned).collect();
                let classes = [0, 1, 2, 3, 4, 5, 6].map(|i| {
                    [
                        "same_process",
                        "device_ipc",
                        "shared_memory",
                        "cross_memory",
                        "rdma",
                        "rdma_staged",
                        "tcp",
                    ][i]
                });
                if let Some(min) = min {
                    case.policy.mode = Mode::Strict(classes[min].parse().unwrap());
                }
                case
            },
        )
}

proptest! {
    #[test]
    fn every_path_is_ranked_or_rejected_once_whatever_the_order(mut case in any_case(), turn in 0usize..4) {
        let found = case.run();
        let mut seen: Vec<_> = found.ranked.iter().map(|c| c.path).collect();
        seen.extend(found.rejected.iter().map(|r| r.0));
        seen.sort_unstable();
        let mut asked: Vec<_> = case.paths.iter().map(|c| c.path).collect();
        asked.sort_unstable();
        prop_assert_eq!(seen, asked);
        let by = turn % case.paths.len().max(1);
        case.paths.rotate_left(by);
        case.peer.backends.reverse();
        prop_assert_eq!(case.run(), found);
    }

    #[test]
    fn another_path_never_makes_it_worse(case in any_case()) {
        let mut case = case;
        case.policy.prefer.clear();
        let best = |case: &Case| case.run().ranked.first().map(|c| c.estimate_ns);
        let all = best(&case);
        while case.paths.pop().is_some() {
            if let Some(fewer) = best(&case) {
                prop_assert!(all.is_some_and(|a| a <= fewer));
            }
        }
    }

    #[test]
    fn strict_never_goes_below_its_class(case in any_case()) {
        if let Mode::Strict(min) = case.policy.mode {
            prop_assert!(case.run().ranked.iter().all(|c| c.class <= min));
        }
    }
}
