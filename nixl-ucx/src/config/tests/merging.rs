//! Who wins: the user's variables, strict, the configuration, the profile.

use nixl_core::ErrorKind;

use super::*;

fn origin(plan: &Plan, key: &str) -> Option<Origin> {
    plan.report.setting(key).map(|setting| setting.origin)
}

#[test]
fn the_environment_wins_over_the_configuration_and_that_over_the_profile() {
    let tree = Tree::infiniband();
    let config = config(&[("TLS", "rc_v,self"), ("RNDV_THRESH", "64k")]);
    let vars = [
        ("UCX_TLS", "ud"),
        ("UCX_MAX_RMA_RAILS", "2"),
        ("UCX_RNDV_SCHEME", "get_zcopy"),
        ("NIXL_RS_UCX_TLS", "dc"),
        ("MY_UCX_TLS", "dc"),
    ];
    let plan = plan_of(&tree, &config, &vars);
    let expected = ["RNDV_THRESH=64k", "ZCOPY_THRESH=8192", "RCACHE_ENABLE=n"];
    assert_eq!(told(&plan), expected);
    let tls = plan.report.setting("TLS").unwrap();
    assert_eq!(
        (tls.value.as_str(), tls.origin),
        ("ud", Origin::Environment)
    );
    assert_eq!(tls.why, "wins over rc_v,self (configuration)");
    assert_eq!(origin(&plan, "RNDV_THRESH"), Some(Origin::Configuration));
    assert_eq!(origin(&plan, "RCACHE_ENABLE"), Some(Origin::Profile));
    assert_eq!(origin(&plan, "MAX_RMA_RAILS"), Some(Origin::Environment));
    // The same value as the profile's is nothing to warn of.
    assert_eq!(codes(&plan), [WarningCode::EnvironmentWins]);
    let text = "UCX_TLS=ud of the environment wins over rc_v,self (configuration)";
    assert_eq!(plan.report.warnings[0].text, text);
}

#[test]
fn known_settings_come_in_their_order_and_others_by_name() {
    let config = config(&[
        ("UNIFIED_MODE", "n"),
        ("LOG_LEVEL", "debug"),
        ("MAX_RMA_RAILS", "2"),
        ("TLS", "posix"),
    ]);
    let plan = plan_of(&Tree::none(), &config, &[]);
    let expected = [
        "TLS=posix",
        "RCACHE_ENABLE=n",
        "CMA_MEMORY_INVALIDATE=y",
        "LOG_LEVEL=debug",
        "MAX_RMA_RAILS=2",
        "UNIFIED_MODE=n",
    ];
    assert_eq!(told(&plan), expected);
}

#[test]
fn what_libucs_reads_before_it_is_loaded_is_not_in_force() {
    let config = config(&[("LOG_FILE", "/tmp/ucx.log"), ("STATS_DEST", "stdout")]);
    let plan = plan_of(&Tree::none(), &config, &[("UCX_STATS_DEST", "stderr")]);
    assert_eq!(
        told(&plan),
        [
            "TLS=cma,tcp,self",
            "RCACHE_ENABLE=n",
            "CMA_MEMORY_INVALIDATE=y"
        ]
    );
    let file = plan.report.setting("LOG_FILE").unwrap();
    let why = file.ignored.as_deref().unwrap();
    assert!(
        why.contains("start the process with UCX_LOG_FILE=/tmp/ucx.log"),
        "{why}"
    );
    assert!(codes(&plan).contains(&WarningCode::NotInForce));
    // In the environment it is.
    assert_eq!(plan.report.in_force("STATS_DEST"), Some("stderr"));
}

#[test]
fn registration_is_said_as_each_version_says_it() {
    let none = UcxConfig::default();
    let guide = config(&[("IB_REG_METHODS", "odp,rcache")]);
    for (config, version, expected, cached) in [
        (
            &none,
            DEBIAN,
            &["REG_METHODS=direct", "RCACHE_ENABLE=n"][..],
            false,
        ),
        (&none, NEW, &["RCACHE_ENABLE=n"], false),
        (
            &guide,
            DEBIAN,
            &["REG_METHODS=odp,rcache", "RCACHE_ENABLE=try"],
            true,
        ),
        (
            &guide,
            Some((1, 15)),
            &["REG_METHODS=odp,rcache", "RCACHE_ENABLE=try"],
            true,
        ),
        (
            &guide,
            NEW,
            &["RCACHE_ENABLE=try", "REG_NONBLOCK_MEM_TYPES=host"],
            true,
        ),
        (
            &guide,
            Some((1, 16)),
            &["RCACHE_ENABLE=try", "REG_NONBLOCK_MEM_TYPES=host"],
            true,
        ),
        // Not known yet: all of it.
        (
            &guide,
            None,
            &[
                "IB_REG_METHODS=odp,rcache",
                "RCACHE_ENABLE=try",
                "REG_NONBLOCK_MEM_TYPES=host",
            ],
            true,
        ),
    ] {
        let machine = Tree::infiniband().read();
        let plan = plan(&machine, config, &env(&[]), version).unwrap();
        assert_eq!(told(&plan)[4..], *expected, "{version:?}");
        assert_eq!(plan.report.registration_cache, cached, "{version:?}");
    }
}

/// The guide has users set it in the environment; a newer UCX would not see it there.
#[test]
fn the_users_registration_methods_are_translated() {
    let tree = Tree::infiniband();
    let vars = [("UCX_IB_REG_METHODS", "odp,rcache")];
    let plan = plan_of(&tree, &UcxConfig::default(), &vars);
    let expected = ["RCACHE_ENABLE=try", "REG_NONBLOCK_MEM_TYPES=host"];
    assert_eq!(told(&plan)[4..], expected);
    let setting = plan.report.setting("IB_REG_METHODS").unwrap();
    let why = setting.ignored.as_deref().unwrap();
    assert!(
        why.contains("UCX 1.22 lacks it, which ended with 1.15"),
        "{why}"
    );
    assert!(plan.report.registration_cache);

    let off = [("UCX_IB_REG_METHODS", "rcache"), ("UCX_RCACHE_ENABLE", "n")];
    let plan = plan_of(&tree, &UcxConfig::default(), &off);
    assert!(!plan.report.registration_cache, "the newer name says no");
    let on = [("UCX_RCACHE_ENABLE", "Yes")];
    assert!(
        plan_of(&tree, &UcxConfig::default(), &on)
            .report
            .registration_cache
    );
}

#[test]
fn what_this_ucx_lacks_is_ignored_and_said() {
    let config = config(&[("PROTO_EMULATION_ENABLE", "n")]);
    let plan = plan(&Tree::none().read(), &config, &env(&[]), DEBIAN).unwrap();
    assert_eq!(told(&plan), ["TLS=cma,tcp,self", "RCACHE_ENABLE=n"]);
    let setting = plan.report.setting("PROTO_EMULATION_ENABLE").unwrap();
    let why = "UCX 1.13 lacks it, which came with 1.21";
    assert_eq!(setting.ignored.as_deref(), Some(why));
}

#[test]
fn what_libucp_refuses_can_be_recorded() {
    let mut plan = default_plan(&Tree::roce());
    plan.report.ignore("IB_GID_INDEX", "no IB module");
    plan.report.ignore("NOBODY", "says so");
    assert_eq!(plan.report.in_force("IB_GID_INDEX"), None);
    let last = plan.report.warnings.last().unwrap();
    assert_eq!(last.text, "IB_GID_INDEX=3 is not in force: no IB module");
}

#[test]
fn strict_takes_tcp_and_sysv_out_of_every_profile() {
    for (tree, wanted, tls) in [
        (Tree::infiniband(), Profile::Rdma, RDMA[0]),
        (Tree::infiniband(), Profile::Staged, RDMA[0]),
        (Tree::efa("6.8.0", "24.04"), Profile::Efa, "TLS=srd"),
        (Tree::none(), Profile::Local, "TLS=cma,self"),
    ] {
        let config = UcxConfig {
            profile: Some(wanted),
            ..strict()
        };
        let plan = plan_of(&tree, &config, &[]);
        assert_eq!(told(&plan)[0], tls);
        assert_eq!(told(&plan).last().unwrap(), "PROTO_EMULATION_ENABLE=n");
        assert_eq!(
            origin(&plan, "PROTO_EMULATION_ENABLE"),
            Some(Origin::Strict)
        );
        assert_eq!(origin(&plan, "TLS"), Some(Origin::Profile));
    }
}

#[test]
fn strict_narrows_a_configured_list() {
    for (configured, expected) in [
        ("all", "^tcp,sysv"),
        ("^mm", "^mm,tcp,sysv"),
        ("^tcp,ud", "^tcp,ud,sysv"),
        ("rc,tcp", "rc"),
        ("rc,tcp:aux,\\sysv", "rc"),
        ("sm,rc", "posix,xpmem,knem,cma,rc"),
        ("mm,posix,self", "posix,xpmem,self"),
    ] {
        let mut config = strict();
        config.set("TLS", configured).unwrap();
        let plan = plan_of(&Tree::none(), &config, &[]);
        let tls = plan.report.setting("TLS").unwrap();
        assert_eq!(tls.value, expected, "{configured}");
        let why = format!("{configured} without what strict forbids");
        assert_eq!(tls.why, why);
    }
}

#[test]
fn strict_contradicted_is_an_error() {
    let refused = |settings: &[(&str, &str)], vars: &[(&str, &str)]| {
        let config = UcxConfig {
            strict: true,
            ..config(settings)
        };
        let error = plan(&Tree::none().read(), &config, &env(vars), NEW).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ApiMisuse);
        error.to_string()
    };
    let text = refused(&[], &[("UCX_TLS", "rc,tcp")]);
    let expected = "UCX setting TLS = \"rc,tcp\" (environment) contradicts strict";
    assert!(
        text.contains(expected) && text.contains("expected rc;"),
        "{text}"
    );
    assert!(refused(&[("TLS", "tcp")], &[]).contains("nothing of tcp is left"));
    assert!(refused(&[], &[("UCX_TLS", "")]).contains("a name is empty"));
    for (settings, vars) in [
        (&[("PROTO_EMULATION_ENABLE", "y")][..], &[][..]),
        (&[], &[("UCX_PROTO_EMULATION_ENABLE", "1")]),
    ] {
        assert!(refused(settings, vars).contains("PROTO_EMULATION_ENABLE"));
    }
    // What agrees is taken.
    let vars = [
        ("UCX_TLS", "^sysv,tcp"),
        ("UCX_PROTO_EMULATION_ENABLE", "n"),
    ];
    let plan = plan_of(&Tree::none(), &strict(), &vars);
    assert_eq!(told(&plan), ["RCACHE_ENABLE=n", "CMA_MEMORY_INVALIDATE=y"]);
}

#[test]
fn strict_refuses_a_ucx_that_cannot_be() {
    let machine = Tree::infiniband().read();
    for version in [(1, 13), (1, 20)] {
        let error = plan(&machine, &strict(), &env(&[]), Some(version)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        let found = format!("this is {}.{}", version.0, version.1);
        assert!(
            text.contains("1.21 or newer") && text.contains(&found),
            "{text}"
        );
    }
    for version in [None, Some((1, 21)), Some((2, 0))] {
        plan(&machine, &strict(), &env(&[]), version).unwrap();
    }
}

#[test]
fn odd_variables_are_warned_of_but_left_to_ucx() {
    let vars = [("UCX_RNDV_SCHEME", "new_scheme"), ("UCX_TLS", "rc,warp")];
    let plan = plan_of(&Tree::infiniband(), &UcxConfig::default(), &vars);
    let codes = codes(&plan);
    for code in [
        WarningCode::EnvironmentWins,
        WarningCode::EnvironmentValue,
        WarningCode::UnknownTransport,
    ] {
        assert!(codes.contains(&code), "{codes:?}");
    }
    assert_eq!(plan.report.in_force("RNDV_SCHEME"), Some("new_scheme"));
}

#[test]
fn devices_that_are_not_there_are_warned_of() {
    let tree = Tree::infiniband();
    let plan = plan_of(&tree, &config(&[("NET_DEVICES", "mlx5_7:1,eth0")]), &[]);
    assert_eq!(codes(&plan), [WarningCode::NetDevices]);
    let text = "NET_DEVICES=mlx5_7:1,eth0 names no usable RDMA port; there are mlx5_0:1";
    assert_eq!(plan.report.warnings[0].text, text);
    for there in ["mlx5_0:1", "eth0,mlx5_0:1", "all"] {
        let plan = plan_of(&tree, &config(&[("NET_DEVICES", there)]), &[]);
        assert_eq!(codes(&plan), [], "{there}");
    }
}

#[test]
fn gpu_memory_needs_a_transport_that_knows_it() {
    let tree = Tree::infiniband();
    tree.nvidia(true, "550.54.14").module("nvidia_peermem");
    for (tls, warned) in [
        ("rc", true),
        ("^cuda", true),
        ("^cuda_copy,cuda_ipc", true),
        ("^cuda_ipc", false),
        ("rc,cuda_copy", false),
        ("rc,cuda", false),
        ("all", false),
    ] {
        let codes = codes(&plan_of(&tree, &config(&[("TLS", tls)]), &[]));
        assert_eq!(
            codes.contains(&WarningCode::TlsWithoutCuda),
            warned,
            "{tls}"
        );
    }
}
