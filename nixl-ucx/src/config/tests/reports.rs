//! What an operator reads.

use super::*;

#[test]
fn a_report_reads_well() {
    let tree = Tree::roce();
    let plan = plan_of(
        &tree,
        &config(&[("LOG_FILE", "/tmp/x")]),
        &[("UCX_TLS", "rc")],
    );
    let expected = "\
profile       rdma (mlx5_0 (mlx5): port 1 Ethernet active and 1 more; host
              memory only, as there is no NVIDIA driver)
strict        off
GPU memory    none: no NVIDIA driver: /proc/driver/nvidia/version: not there
cache         off: withdrawn memory is out of the peers' reach
device        mlx5_0 (mlx5): port 1 Ethernet active
device        mlx5_1 (mlx5): port 1 Ethernet active
kernel        6.8.0-45-generic
distribution  ubuntu 24.04
NVIDIA        unknown: /proc/driver/nvidia/version: not there
peer memory   unknown: module nvidia_peermem is not loaded
memlock       8192 KiB
settings
  TLS=rc
      environment: wins over rc_x,rc,dc_x,dc (profile)
  RNDV_SCHEME=get_zcopy
      profile: the receiver pulls large messages, without copies
  RNDV_THRESH=0
      profile: data is always large
  ZCOPY_THRESH=8192
      profile: without a cache UCX counts a registration for each block, though
      ours are registered
  RCACHE_ENABLE=n
      profile: no registration cache: deregistering fences
  IB_GID_INDEX=3
      profile: GID 3: RoCE v2 ::ffff:10.0.1.0 of mlx5_0:1
  LOG_FILE=/tmp/x
      configuration; NOT in force: libucs reads it only before it is loaded;
      start the process with UCX_LOG_FILE=/tmp/x
warning: UCX_TLS=rc of the environment wins over rc_x,rc,dc_x,dc (profile)
warning: LOG_FILE=/tmp/x is not in force: libucs reads it only before it is
         loaded; start the process with UCX_LOG_FILE=/tmp/x
warning: only 8192 KiB may be pinned: raise the limit (ulimit -l unlimited), or
         add the capability IPC_LOCK
";
    assert_eq!(plan.report.to_string(), expected);
}

#[test]
fn a_report_can_be_serialised() {
    let tree = Tree::efa("6.8.0-1021-aws", "24.04");
    tree.nvidia(true, "550.54.14");
    let plan = plan_of(&tree, &with_profile(Profile::Rdma), &[]);
    let json = serde_json::to_value(&plan.report).unwrap();
    assert_eq!(json["profile"], "efa");
    assert_eq!(json["gpu"]["kind"], "staged");
    assert_eq!(json["gpu"]["why"], "EFA takes no GPU memory");
    assert_eq!(json["warnings"][0]["code"], "efa_kernel");
    assert_eq!(json["settings"][0]["key"], "TLS");
    assert_eq!(json["settings"][0]["origin"], "profile");
    assert!(json["settings"][0]["ignored"].is_null());
    assert_eq!(json["facts"]["distribution"], "ubuntu 24.04");
    assert_eq!(json["registration_cache"], false);
}

#[test]
fn long_words_are_cut_and_control_characters_shown() {
    let long = format!("{}\u{1b}[31m", "mlx5_0:1,".repeat(30));
    let vars = [
        ("UCX_NET_DEVICES", long.as_str()),
        ("UCX_X", "line\none\tü漢"),
    ];
    let text = plan_of(&Tree::none(), &UcxConfig::default(), &vars)
        .report
        .to_string();
    assert!(
        text.contains("\\u{1b}[31m") && text.contains("\\u{fc}\\u{6f22}"),
        "{text}"
    );
    assert!(
        text.is_ascii() && text.lines().all(|line| line.len() <= 80),
        "{text}"
    );
    assert!(
        text.lines().any(|line| line.ends_with("mlx5_0:1,")),
        "cut at a comma: {text}"
    );
}
