//! What holds for every negotiation.

use proptest::prelude::*;

use super::*;

const NAMES: [(PathName, BackendName); 6] = [
    ("local", "ipc"),
    ("shm", "ipc"),
    ("cma", "ipc"),
    ("tcp", "tcp"),
    ("rc", "ucx"),
    ("staged", "ucx"),
];
const CLASSES: [PathClass; 7] = [
    PathClass::SameProcess,
    PathClass::DeviceIpc,
    PathClass::SharedMemory,
    PathClass::CrossMemory,
    PathClass::Rdma,
    PathClass::RdmaStaged,
    PathClass::Tcp,
];
const REACHES: [Reach; 4] = [Reach::Process, Reach::Host, Reach::Fabric, Reach::Routed];

fn any_caps(name: (PathName, BackendName)) -> impl Strategy<Value = PathCaps> {
    (
        proptest::sample::select(&CLASSES[..]),
        proptest::sample::select(&REACHES[..]),
        (
            0u16..3,
            0u16..3,
            0usize..3,
            any::<bool>(),
            any::<bool>(),
            proptest::bool::weighted(0.2),
        ),
        // Few different costs, so that ties are common.
        (
            0u64..3,
            0u64..2,
            prop_oneof![Just(0u64), 1u64..4, Just(u64::MAX)],
        ),
    )
        .prop_map(
            move |(class, reach, (low, more, mem, share, target, hazard), cost)| PathCaps {
                path: name.0,
                backend: name.1,
                class,
                wire: low..=low + more,
                reach,
                mem: &DRAM[..mem],
                needs_shareable: share,
                target_must_progress: target,
                revocation: Revocation::Fenced,
                hazard: hazard.then_some("it breaks"),
                cost: Cost {
                    latency_ns: cost.0 * 1000,
                    per_desc_ns: cost.1,
                    bytes_per_sec: cost.2.saturating_mul(1_000_000_000),
                },
            },
        )
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let names = || {
        let all = vec!["shm", "cma", "tcp", "ucx", "ipc", "nothing"];
        proptest::sample::subsequence(all, 0..=3).prop_shuffle()
    };
    let list = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let mode = prop_oneof![
        Just(Mode::Any),
        Just(Mode::Warn),
        proptest::sample::select(&CLASSES[..]).prop_map(Mode::Strict),
    ];
    let only = prop_oneof![3 => Just(Vec::new()), 1 => names()];
    (mode, names(), names(), only, any::<bool>()).prop_map(
        move |(mode, prefer, forbid, only, refuse_idle_targets)| Policy {
            mode,
            prefer: list(prefer),
            forbid: list(forbid),
            only: list(only),
            refuse_idle_targets,
        },
    )
}

fn any_health() -> impl Strategy<Value = Health> {
    prop_oneof![
        Just(Health::Unknown),
        Just(Health::Proven),
        Just(probe_failed()),
        Just(connect_failed()),
    ]
}

/// The peer has the paths whose bit in `theirs` is set.
fn peer_card(boot: u8, pid: u32, progresses: bool, theirs: [Option<u16>; 6]) -> AgentCard {
    let mut peer = card("peer", boot, pid);
    peer.progresses = progresses;
    peer.backends.clear();
    for ((path, backend), wire) in NAMES.into_iter().zip(theirs) {
        let Some(wire) = wire else { continue };
        let path = PathCard {
            path: path.to_owned(),
            wire_min: wire,
            wire_max: wire + 1,
        };
        match peer.backends.iter_mut().find(|b| b.backend == backend) {
            Some(b) => b.paths.push(path),
            None => peer.backends.push(BackendCard {
                backend: backend.to_owned(),
                address: bytes::Bytes::new(),
                paths: vec![path],
            }),
        }
    }
    peer
}

fn any_case() -> impl Strategy<Value = Case> {
    let paths = NAMES.map(any_caps);
    let health: [_; 6] = std::array::from_fn(|_| any_health());
    let theirs: [_; 6] = std::array::from_fn(|_| proptest::option::weighted(0.8, 0u16..3));
    (
        (paths, health, theirs, any_policy()),
        (
            1u8..3,
            10u32..12,
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
        ),
        (0u64..100, 0u64..1 << 40),
    )
        .prop_map(|((paths, health, theirs, policy), facts, (descs, bytes))| {
            let (boot, pid, progresses, shareable, write) = facts;
            let mut case = Case::new();
            case.health = NAMES.iter().map(|n| n.0).zip(health).collect();
            case.paths = paths.to_vec();
            case.peer = peer_card(boot, pid, progresses, theirs);
            case.policy = policy;
            case.demand.op = if write { Op::Write } else { Op::Read };
            case.demand.all_remote_shareable = shareable;
            (case.demand.descs, case.demand.bytes) = (descs, bytes);
            case
        })
}

proptest! {
    #[test]
    fn every_path_is_ranked_or_rejected_once(case in any_case()) {
        let found = case.run();
        let mut seen: Vec<_> = found.ranked.iter().map(|c| c.path).collect();
        seen.extend(found.rejected.iter().map(|r| r.0));
        seen.sort_unstable();
        let mut asked: Vec<_> = case.paths.iter().map(|c| c.path).collect();
        asked.sort_unstable();
        prop_assert_eq!(seen, asked);
    }

    #[test]
    fn the_order_of_anything_that_has_none_does_not_matter(case in any_case(), turn in 0usize..6) {
        let mut other = case.clone();
        other.paths.rotate_left(turn);
        other.peer.backends.reverse();
        other.peer.backends.iter_mut().for_each(|b| b.paths.reverse());
        other.policy.forbid.reverse();
        other.policy.only.reverse();
        prop_assert_eq!(other.run(), case.run());
        prop_assert_eq!(case.run(), case.run());
    }

    #[test]
    fn each_path_is_judged_alone(case in any_case()) {
        let together = case.run();
        for caps in &case.paths {
            let mut alone = case.clone();
            alone.paths = vec![caps.clone()];
            let alone = alone.run();
            prop_assert!(alone.ranked.iter().all(|c| together.ranked.contains(c)));
            prop_assert!(alone.rejected.iter().all(|r| together.rejected.contains(r)));
        }
    }

    #[test]
    fn another_path_never_makes_it_worse(mut case in any_case()) {
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
    fn nothing_is_ranked_that_must_not_be_used(case in any_case()) {
        for c in case.run().ranked {
            let named = |list: &[String]| list.iter().any(|n| n == c.path || n == c.backend);
            if let Mode::Strict(min) = case.policy.mode {
                prop_assert!(c.class <= min);
            }
            prop_assert!(!named(&case.policy.forbid));
            prop_assert!(case.policy.only.is_empty() || named(&case.policy.only));
            let caps = case.paths.iter().find(|p| p.path == c.path).unwrap();
            let direct = caps.mem.iter().any(|m| m.0 == case.demand.op);
            prop_assert_eq!(c.flipped, !direct);
            let listed = case.policy.only.iter().chain(&case.policy.prefer);
            let mut listed = listed.map(String::as_str);
            prop_assert!(caps.hazard.is_none() || listed.any(|n| n == c.path));
            prop_assert!(!caps.needs_shareable || case.demand.all_remote_shareable);
            let health = &case.health.iter().find(|h| h.0 == c.path).unwrap().1;
            prop_assert!(matches!(health, Health::Unknown | Health::Proven));
            prop_assert_eq!(c.proven, *health == Health::Proven);
        }
    }

    #[test]
    fn preferred_paths_come_first_in_their_order_then_the_fastest(case in any_case()) {
        let place = |c: &Candidate| {
            let prefer = &case.policy.prefer;
            let found = prefer.iter().position(|n| n == c.path || n == c.backend);
            found.unwrap_or(prefer.len())
        };
        for pair in case.run().ranked.windows(2) {
            let key = |c: &Candidate| (place(c), c.estimate_ns, c.class, c.path);
            prop_assert!(key(&pair[0]) < key(&pair[1]));
        }
    }

    #[test]
    fn only_what_failed_and_would_have_come_first_degrades(case in any_case()) {
        let found = case.run();
        if let Some(degraded) = &found.degraded {
            prop_assert_eq!(degraded.path, found.ranked[0].path);
            prop_assert!(!degraded.lost.is_empty());
            for lost in &degraded.lost {
                prop_assert!(found.rejected.contains(lost));
                prop_assert!(lost.1 < degraded.class && lost.2.is_failure());
            }
        }
    }

    #[test]
    fn corrections_are_bounded(
        caps in any_caps(NAMES[3]),
        times in proptest::collection::vec((0usize..2, any::<u64>()), 0..60),
        bytes in any::<u64>(),
        descs in any::<u64>(),
    ) {
        let other = PathCaps { path: "other", ..caps.clone() };
        let mut book = CostBook::default();
        for (which, nanos) in times {
            book.record([&caps, &other][which], Op::Read, descs, bytes, nanos);
        }
        let demand = Demand { descs, bytes, ..demand() };
        let (cost, _) = book.cost(&caps, &demand);
        let within = |found: u64, claim: u64| {
            // One is lost to rounding down, and f64 has 53 bits.
            let (found, claim) = (found as f64, claim as f64);
            found + 1.0 >= claim / 64.0 * 0.999 && found <= claim * 64.0 * 1.001
        };
        prop_assert!(within(cost.latency_ns, caps.cost.latency_ns));
        prop_assert!(within(cost.per_desc_ns, caps.cost.per_desc_ns));
        prop_assert!(within(cost.bytes_per_sec, caps.cost.bytes_per_sec));
        prop_assert_eq!(cost.bytes_per_sec == 0, caps.cost.bytes_per_sec == 0);
    }

    #[test]
    fn the_table_always_fits(case in any_case(), text in any::<String>()) {
        let mut case = case;
        let why = Error::new(ErrorKind::Backend, text.clone());
        case.peer.host.name = text;
        case.health[0].1 = Health::ProbeFailed { why, retry_in: RETRY };
        let table = case.run().to_string();
        prop_assert!(table.lines().all(|l| l.chars().count() <= 80), "{}", table);
    }
}
