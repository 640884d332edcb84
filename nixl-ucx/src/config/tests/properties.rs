//! What holds for any wishes.

use std::collections::BTreeSet;

use proptest::{
    prelude::*,
    sample::{select, subsequence},
};

use super::{super::tls::Tls, *};

/// What an alias stands for: what `ucp_tl_aliases` of UCX says.
const ALIASES: [(&str, &[&str]); 8] = [
    ("mm", &["posix", "sysv", "xpmem"]),
    ("sm", &["posix", "sysv", "xpmem", "knem", "cma"]),
    ("shm", &["posix", "sysv", "xpmem", "knem", "cma"]),
    ("rc", &["rc_mlx5", "rc_verbs"]),
    ("rc_v", &["rc_verbs"]),
    ("rc_x", &["rc_mlx5"]),
    ("dc", &["dc_mlx5"]),
    ("cuda", &["cuda_copy", "cuda_ipc", "gdr_copy"]),
];

const TRANSPORTS: [&str; 14] = [
    "self",
    "tcp",
    "posix",
    "sysv",
    "xpmem",
    "knem",
    "cma",
    "rc_verbs",
    "rc_mlx5",
    "dc_mlx5",
    "srd",
    "cuda_copy",
    "cuda_ipc",
    "gdr_copy",
];

/// Transports that a list lets UCX use; a model apart from the code under test.
fn admitted(list: &str) -> BTreeSet<&'static str> {
    let (excludes, names) = match list.strip_prefix('^') {
        Some(names) => (true, names),
        None => (false, list),
    };
    let names: Vec<&str> = names.split(',').collect();
    let is_named = |transport: &str| {
        names.iter().any(|name| {
            let alias = ALIASES.iter().find(|(alias, _)| alias == name);
            let of_alias = alias.is_some_and(|(_, all)| all.contains(&transport));
            *name == transport || *name == "all" || of_alias
        })
    };
    let all = TRANSPORTS.into_iter();
    all.filter(|transport| is_named(transport) != excludes)
        .collect()
}

fn lists() -> impl Strategy<Value = String> {
    let mut names: Vec<&str> = TRANSPORTS.to_vec();
    names.extend(ALIASES.map(|(alias, _)| alias));
    let some = subsequence(names, 1..6).prop_shuffle();
    (any::<bool>(), some).prop_map(|(excludes, names)| {
        let sign = if excludes { "^" } else { "" };
        format!("{sign}{}", names.join(","))
    })
}

fn trees() -> impl Strategy<Value = usize> {
    0..5usize
}

fn tree(number: usize) -> Tree {
    match number {
        0 => Tree::none(),
        1 => Tree::infiniband(),
        2 => Tree::roce(),
        3 => Tree::rxe(),
        _ => Tree::efa("6.8.0-1021-aws", "24.04"),
    }
}

fn wishes() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let all = vec![
        ("TLS", "rc,self"),
        ("NET_DEVICES", "mlx5_0:1"),
        ("RNDV_SCHEME", "put_zcopy"),
        ("RNDV_THRESH", "inf"),
        ("IB_REG_METHODS", "odp,rcache"),
        ("RCACHE_ENABLE", "y"),
        ("IB_GID_INDEX", "2"),
        ("PROTO_EMULATION_ENABLE", "n"),
        ("LOG_LEVEL", "info"),
        ("LOG_FILE", "/tmp/a b"),
        ("MAX_RMA_RAILS", "2"),
        ("A", "1"),
    ];
    subsequence(all, 0..12)
}

fn versions() -> impl Strategy<Value = Option<UcxVersion>> {
    select(vec![
        None,
        DEBIAN,
        Some((1, 15)),
        Some((1, 16)),
        Some((1, 21)),
        NEW,
    ])
}

proptest! {
    #[test]
    fn strict_forbids_tcp_and_sysv_and_nothing_else(list in lists()) {
        let mut expected = admitted(&list);
        expected.remove("tcp");
        expected.remove("sysv");
        match Tls::parse(&list).unwrap().strict() {
            Ok(strict) => {
                let strict = strict.to_string();
                prop_assert_eq!(admitted(&strict), expected, "{}", strict);
                let again = Tls::parse(&strict).unwrap().strict().unwrap().to_string();
                prop_assert_eq!(again, strict, "a second time changes nothing");
            }
            Err(_) => prop_assert_eq!(expected, BTreeSet::new()),
        }
    }

    #[test]
    fn any_text_is_taken_or_refused_by_name(
        key in "[A-Z_]{0,12}|\\PC{0,8}",
        known in select(known::KNOWN.map(|known| known.key).to_vec()),
        value in "\\PC{0,40}|[0-9kmgb:^,a-z_]{0,20}",
    ) {
        for key in [key.as_str(), known] {
            let mut config = UcxConfig::default();
            match config.set(key, &value) {
                Ok(()) => {
                    let bare = key.strip_prefix("UCX_").unwrap_or(key);
                    prop_assert_eq!(config.get(bare), Some(value.as_str()));
                }
                Err(error) => prop_assert!(error.to_string().contains("UCX setting")),
            }
        }
    }

    #[test]
    fn every_wish_is_found_once_and_the_strongest_wins(
        machine in trees(),
        configured in wishes(),
        exported in wishes(),
        profile in proptest::option::of(select(Profile::ALL.to_vec())),
        version in versions(),
    ) {
        let mut config = config(&configured);
        config.profile = profile;
        let names: Vec<_> = exported.iter().map(|(k, v)| (format!("UCX_{k}"), *v)).collect();
        let vars: Vec<_> = names.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        let plan = plan(&tree(machine).read(), &config, &env(&vars), version).unwrap();

        let keys: Vec<&str> = plan.report.settings.iter().map(|s| s.key.as_str()).collect();
        let once: BTreeSet<&str> = keys.iter().copied().collect();
        prop_assert_eq!(once.len(), keys.len(), "{:?}", keys);
        for (key, value) in &exported {
            let setting = plan.report.setting(key).unwrap();
            prop_assert_eq!((setting.value.as_str(), setting.origin), (*value, Origin::Environment));
            prop_assert!(plan.settings.iter().all(|(k, _)| k != key), "UCX reads {}", key);
        }
        let is_exported = |key: &str| exported.iter().any(|(k, _)| *k == key);
        for (key, value) in configured.iter().filter(|(key, _)| !is_exported(key)) {
            let setting = plan.report.setting(key).unwrap();
            prop_assert_eq!((setting.value.as_str(), setting.origin), (*value, Origin::Configuration));
            let name = known::name_in(key, version);
            let told = plan.settings.iter().any(|(k, v)| k == name && v == value);
            prop_assert_eq!(told, setting.ignored.is_none());
        }
        let on_the_wire = matches!(plan.report.gpu, GpuMemory::Direct(_));
        prop_assert!(!on_the_wire, "no tree has GPUDirect");
    }

    #[test]
    fn reports_fit_any_terminal(machine in trees(), values in prop::collection::vec("\\PC{0,200}", 3)) {
        let keys = ["UCX_TLS", "UCX_NET_DEVICES", "UCX_OTHER"];
        let vars: Vec<_> = keys.into_iter().zip(values.iter().map(String::as_str)).collect();
        let text = plan_of(&tree(machine), &UcxConfig::default(), &vars).report.to_string();
        for line in text.lines() {
            prop_assert!(line.len() <= 80 && line.is_ascii(), "{}", line);
        }
    }
}
