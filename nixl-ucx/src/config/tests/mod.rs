//! Plans for recorded machines.

mod merging;
mod properties;
mod reports;
mod values;

use super::*;
use crate::detect::tests::tree::Tree;

const NEW: Option<UcxVersion> = Some((1, 22));
const DEBIAN: Option<UcxVersion> = Some((1, 13));

fn env(vars: &[(&str, &str)]) -> UserEnv {
    UserEnv::new(vars.iter().map(|(k, v)| ((*k).into(), (*v).into())))
}

fn config(settings: &[(&str, &str)]) -> UcxConfig {
    let mut config = UcxConfig::default();
    for (key, value) in settings {
        config.set(key, value).unwrap();
    }
    config
}

fn with_profile(profile: Profile) -> UcxConfig {
    UcxConfig {
        profile: Some(profile),
        ..UcxConfig::default()
    }
}

fn strict() -> UcxConfig {
    UcxConfig {
        strict: true,
        ..UcxConfig::default()
    }
}

fn plan_of(tree: &Tree, config: &UcxConfig, vars: &[(&str, &str)]) -> Plan {
    plan(&tree.read(), config, &env(vars), NEW).unwrap()
}

/// The plan without any wishes.
fn default_plan(tree: &Tree) -> Plan {
    plan_of(tree, &UcxConfig::default(), &[])
}

/// What UCX is told, as lines.
fn told(plan: &Plan) -> Vec<String> {
    let settings = plan.settings.iter();
    settings.map(|(k, v)| format!("{k}={v}")).collect()
}

fn codes(plan: &Plan) -> Vec<WarningCode> {
    plan.report.warnings.iter().map(|w| w.code).collect()
}

/// Without an NVIDIA driver.
const RDMA: [&str; 4] = [
    "TLS=rc_x,rc,dc_x,dc",
    "RNDV_SCHEME=get_zcopy",
    "RNDV_THRESH=0",
    "ZCOPY_THRESH=8192",
];

#[test]
fn infiniband_for_host_memory() {
    let plan = default_plan(&Tree::infiniband());
    assert_eq!(plan.report.profile, Profile::Rdma);
    assert_eq!(
        plan.report.why,
        "mlx5_0 (mlx5): port 1 InfiniBand active; host memory only, as there is no NVIDIA driver"
    );
    assert_eq!(told(&plan), [&RDMA[..], &["RCACHE_ENABLE=n"]].concat());
    assert_eq!(codes(&plan), []);
    assert!(matches!(plan.report.gpu, GpuMemory::None(_)));
    assert!(!plan.report.registration_cache);
}

#[test]
fn infiniband_with_gpu_direct() {
    let tree = Tree::infiniband();
    tree.nvidia(false, "550.54.14").module("nvidia_peermem");
    let plan = default_plan(&tree);
    assert_eq!(plan.report.profile, Profile::Rdma);
    let how = "module nvidia_peermem".to_owned();
    assert!(
        plan.report
            .why
            .ends_with("GPUDirect by module nvidia_peermem")
    );
    assert_eq!(plan.report.gpu, GpuMemory::Direct(how));
}

#[test]
fn infiniband_without_gpu_direct_stages() {
    let tree = Tree::infiniband();
    tree.nvidia(false, "550.54.14");
    let plan = default_plan(&tree);
    assert_eq!(plan.report.profile, Profile::Staged);
    let tls = "TLS=rc_x,rc,dc_x,dc,cuda_copy,cuda_ipc";
    let expected = [tls, RDMA[1], "RNDV_THRESH=inf", RDMA[3], "RCACHE_ENABLE=n"];
    assert_eq!(told(&plan), expected);
    let GpuMemory::Staged(why) = &plan.report.gpu else {
        panic!("{:?}", plan.report.gpu)
    };
    assert!(why.contains("no module nvidia_peermem"), "{why}");

    // Whoever insists on `rdma` still does not get GPU memory on the wire.
    let plan = plan_of(&tree, &with_profile(Profile::Rdma), &[]);
    assert_eq!(plan.report.profile, Profile::Rdma);
    assert!(matches!(plan.report.gpu, GpuMemory::Staged(_)));
}

#[test]
fn roce_gets_its_gid_index() {
    let tree = Tree::roce();
    let plan = default_plan(&tree);
    let expected = [&RDMA[..], &["RCACHE_ENABLE=n", "IB_GID_INDEX=3"]].concat();
    assert_eq!(told(&plan), expected);
    let why = &plan.report.setting("IB_GID_INDEX").unwrap().why;
    assert_eq!(why, "GID 3: RoCE v2 ::ffff:10.0.1.0 of mlx5_0:1");
    // The tree's limit is 8 MiB.
    assert_eq!(codes(&plan), [WarningCode::Memlock]);
    let text = &plan.report.warnings[0].text;
    assert!(
        text.contains("8192 KiB") && text.contains("IPC_LOCK"),
        "{text}"
    );
}

#[test]
fn roce_ports_that_differ_are_left_to_ucx() {
    let tree = Tree::roce();
    tree.gid("mlx5_1", 3, "IB/RoCE v1", "fe80::1")
        .gid("mlx5_1", 5, "RoCE v2", "::ffff:10.0.1.9");
    let plan = default_plan(&tree);
    assert!(told(&plan).contains(&"IB_GID_INDEX=auto".to_owned()));
    let why = &plan.report.setting("IB_GID_INDEX").unwrap().why;
    assert_eq!(
        why,
        "ports differ (mlx5_0:1 3, mlx5_1:1 5); UCX chooses for each"
    );
    // Unless only one of them is used.
    for (device, index) in [
        ("mlx5_1:1", "IB_GID_INDEX=5"),
        ("mlx5_0:1", "IB_GID_INDEX=3"),
    ] {
        let by_config = plan_of(&tree, &config(&[("NET_DEVICES", device)]), &[]);
        let vars = [("UCX_NET_DEVICES", device)];
        let by_env = plan_of(&tree, &UcxConfig::default(), &vars);
        for plan in [by_config, by_env] {
            assert!(told(&plan).contains(&index.to_owned()), "{:?}", told(&plan));
        }
    }
}

#[test]
fn infiniband_beside_roce_keeps_its_own_index() {
    let tree = Tree::infiniband();
    tree.port("mlx5_1", "Ethernet", "4: ACTIVE", "100 Gb/sec (4X EDR)")
        .gid("mlx5_1", 3, "RoCE v2", "::ffff:10.0.1.9");
    let plan = default_plan(&tree);
    let gid = plan.report.setting("IB_GID_INDEX").unwrap();
    assert_eq!(gid.value, "auto");
    assert!(gid.why.contains("InfiniBand ports too"), "{}", gid.why);
}

#[test]
fn roce_without_version_2_is_warned_of() {
    let tree = Tree::roce();
    tree.limit("unlimited");
    for index in [1, 3] {
        tree.gid("mlx5_1", index, "IB/RoCE v1", "fe80::1");
    }
    let plan = default_plan(&tree);
    assert_eq!(codes(&plan), [WarningCode::NoRoceV2]);
    let text = &plan.report.warnings[0].text;
    assert!(text.contains("mlx5_1:1"), "{text}");
    // The other port still has one.
    assert!(told(&plan).contains(&"IB_GID_INDEX=3".to_owned()));
}

#[test]
fn soft_roce_is_rdma_without_gpu_direct() {
    let tree = Tree::rxe();
    let plan = default_plan(&tree);
    assert_eq!(plan.report.profile, Profile::Rdma);
    // Of mlx5's transports and CUDA's UCX would complain on standard output.
    let expected = [
        "TLS=rc",
        RDMA[1],
        RDMA[2],
        RDMA[3],
        "RCACHE_ENABLE=n",
        "IB_GID_INDEX=1",
        "RC_RETRY_COUNT=6",
    ];
    assert_eq!(told(&plan), expected);
    let old = super::plan(&tree.read(), &UcxConfig::default(), &env(&[]), DEBIAN).unwrap();
    let names = ["REG_METHODS=direct", "GID_INDEX=1", "RC_RETRY_COUNT=6"];
    assert!(
        names
            .iter()
            .all(|name| told(&old).contains(&(*name).to_owned())),
        "{:?}",
        told(&old)
    );
    tree.nvidia(true, "550.54.14").module("nvidia_peermem");
    assert_eq!(default_plan(&tree).report.profile, Profile::Staged);
}

#[test]
fn gpu_direct_on_some_devices_only_is_warned_of() {
    let tree = Tree::infiniband();
    tree.nvidia(true, "550.54.14").module("nvidia_peermem");
    tree.device("rxe0", None, 7)
        .port("rxe0", "Ethernet", "4: ACTIVE", "2.5 Gb/sec")
        .write("/sys/class/infiniband/rxe0/parent", "eth0\n")
        .gid("rxe0", 1, "RoCE v2", "::ffff:10.0.1.9");
    let plan = default_plan(&tree);
    assert_eq!(plan.report.profile, Profile::Rdma);
    assert!(
        plan.report.why.contains("and 1 more"),
        "{}",
        plan.report.why
    );
    assert_eq!(codes(&plan), [WarningCode::GpuDirect]);
    assert!(plan.report.warnings[0].text.starts_with("rxe0 "));
}

const EFA: [&str; 4] = [
    "TLS=srd,cuda_copy,tcp",
    "RNDV_SCHEME=auto",
    "RNDV_THRESH=8192",
    "RCACHE_ENABLE=n",
];

#[test]
fn efa_never_puts_gpu_memory_on_the_wire() {
    for (kernel, ubuntu) in [("5.15.0-1072-aws", "22.04"), ("6.8.0-1021-aws", "24.04")] {
        let tree = Tree::efa(kernel, ubuntu);
        tree.nvidia(true, "550.54.14").module("efa_nv_peermem");
        let plan = default_plan(&tree);
        assert_eq!(plan.report.profile, Profile::Efa);
        assert_eq!(told(&plan), EFA);
        assert!(matches!(plan.report.gpu, GpuMemory::Staged(_)));
        assert_eq!(codes(&plan), []);
    }
}

#[test]
fn efa_is_forced_from_linux_6_8_on() {
    let wanted = with_profile(Profile::Rdma);
    let old = plan_of(&Tree::efa("5.15.0-1072-aws", "22.04"), &wanted, &[]);
    assert_eq!(old.report.profile, Profile::Rdma);
    assert_eq!(codes(&old), [WarningCode::NoRdma], "rc is not on EFA");

    // The kernel decides: a container's distribution is its image's.
    for (kernel, ubuntu) in [("6.8.0-1021-aws", "24.04"), ("6.8.0-1021-aws", "22.04")] {
        let tree = Tree::efa(kernel, ubuntu);
        for wanted in [Profile::Rdma, Profile::Staged] {
            let plan = plan_of(&tree, &with_profile(wanted), &[]);
            assert_eq!(plan.report.profile, Profile::Efa);
            assert_eq!(told(&plan)[0], "TLS=srd,tcp");
            assert_eq!(told(&plan)[1..], EFA[1..]);
            assert_eq!(codes(&plan), [WarningCode::EfaKernel]);
            let text = &plan.report.warnings[0].text;
            let expected = format!("profile {wanted} is configured, but EFA on Linux {kernel}");
            assert!(text.starts_with(&expected), "{text}");
            assert!(text.contains(&format!("ubuntu {ubuntu}")), "{text}");
        }
        let local = plan_of(&tree, &with_profile(Profile::Local), &[]);
        assert_eq!(local.report.profile, Profile::Local);
    }

    // Where the kernel cannot be read, the safe settings.
    let tree = Tree::efa("6.8.0-1021-aws", "24.04");
    tree.remove("/proc/sys/kernel/osrelease");
    let plan = plan_of(&tree, &wanted, &[]);
    assert_eq!(plan.report.profile, Profile::Efa);
    assert!(plan.report.why.contains("not known"), "{}", plan.report.why);
}

#[test]
fn another_rdma_device_frees_from_the_rule_for_efa() {
    let tree = Tree::efa("6.8.0-1021-aws", "24.04");
    tree.device("mlx5_0", Some("mlx5_core"), 1).port(
        "mlx5_0",
        "InfiniBand",
        "4: ACTIVE",
        "200 Gb/sec",
    );
    for wanted in [UcxConfig::default(), with_profile(Profile::Rdma)] {
        let plan = plan_of(&tree, &wanted, &[]);
        assert_eq!(plan.report.profile, Profile::Rdma);
        assert_eq!(codes(&plan), []);
    }
    let plan = plan_of(&tree, &with_profile(Profile::Efa), &[]);
    assert_eq!(told(&plan)[1..], EFA[1..]);
}

#[test]
fn efa_needs_a_ucx_that_has_srd_and_no_zero_copy() {
    let tree = Tree::efa("6.8.0-1021-aws", "24.04");
    let machine = tree.read();
    let old = plan(&machine, &UcxConfig::default(), &env(&[]), DEBIAN).unwrap();
    assert_eq!(codes(&old), [WarningCode::EfaVersion]);
    for (config, vars) in [
        (config(&[("RNDV_SCHEME", "get_zcopy")]), &[][..]),
        (
            UcxConfig::default(),
            &[("UCX_RNDV_SCHEME", "PUT_ZCOPY")][..],
        ),
    ] {
        let plan = plan_of(&tree, &config, vars);
        assert!(codes(&plan).contains(&WarningCode::EfaKernel));
    }
}

#[test]
fn no_device_is_local_and_says_why() {
    let plan = default_plan(&Tree::none());
    assert_eq!(plan.report.profile, Profile::Local);
    assert_eq!(
        told(&plan),
        [
            "TLS=cma,tcp,self",
            "RCACHE_ENABLE=n",
            "CMA_MEMORY_INVALIDATE=y"
        ]
    );
    let text = "no RDMA transports available: /sys/class/infiniband: not there";
    assert_eq!(plan.report.warnings.len(), 1);
    assert_eq!(plan.report.warnings[0].text, text);
    // Not when it was asked for.
    let asked = plan_of(&Tree::none(), &with_profile(Profile::Local), &[]);
    assert_eq!(codes(&asked), []);
    // But when RDMA was.
    for wanted in [Profile::Rdma, Profile::Staged, Profile::Efa] {
        let plan = plan_of(&Tree::none(), &with_profile(wanted), &[]);
        assert_eq!(plan.report.profile, wanted);
        assert!(codes(&plan).contains(&WarningCode::NoRdma));
    }
}

#[test]
fn devices_that_cannot_be_used_are_named() {
    let tree = Tree::infiniband();
    tree.remove("/dev/infiniband/uverbs0");
    let plan = default_plan(&tree);
    assert_eq!(plan.report.profile, Profile::Local);
    let text = &plan.report.warnings[0].text;
    for word in ["mlx5_0", "uverbs0 is not there", "mlx5_1", "DOWN"] {
        assert!(text.contains(word), "{text}");
    }
}
