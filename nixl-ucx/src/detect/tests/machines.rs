//! What is read from the other machines, and from damaged ones.

use std::{fs, os::unix::fs::symlink};

use super::*;

/// The best GID of port 1 of the first device.
fn best(machine: &Machine) -> Option<String> {
    best_gid(&machine.devices()[0].ports[0].gids).map(Gid::to_string)
}

#[test]
fn roce_prefers_version_2_over_ipv4() {
    let tree = Tree::roce();
    let machine = tree.read();
    assert_eq!(machine.devices()[0].ports[0].gids.len(), 4);
    assert!(machine.devices()[0].is_roce());
    assert_eq!(best(&machine).unwrap(), "3: RoCE v2 ::ffff:10.0.1.0");

    let port = "/sys/class/infiniband/mlx5_0/ports/1";
    tree.remove(&format!("{port}/gids/3"));
    let link_local = "1: RoCE v2 fe80::ac0:ebff:fe00:0";
    assert_eq!(best(&tree.read()).unwrap(), link_local);
    tree.gid("mlx5_0", 9, "RoCE v2", "2001:0db8::1");
    assert_eq!(best(&tree.read()).unwrap(), "9: RoCE v2 2001:db8::1");
}

#[test]
fn a_gid_table_without_version_2_has_no_best() {
    let tree = Tree::roce();
    for index in [1, 3] {
        tree.gid("mlx5_0", index, "IB/RoCE v1", "fe80::1");
    }
    assert_eq!(best(&tree.read()), None);
}

#[test]
fn soft_roce_is_known_and_its_long_table_is_not_read() {
    let machine = Tree::rxe().read();
    let device = &machine.devices()[0];
    assert_eq!(device.driver, Driver::Rxe);
    assert_eq!(device.ports[0].gids.len(), 2);
    assert_eq!(best(&machine).unwrap(), "1: RoCE v2 ::ffff:10.99.0.1");
    assert!(device.numa_node.why_absent().is_some());
}

#[test]
fn a_gap_in_the_gid_table_is_crossed() {
    let tree = Tree::rxe();
    tree.gid("rxe0", 15, "RoCE v2", "2001:db8::2");
    assert_eq!(tree.read().devices()[0].ports[0].gids.len(), 3);
}

#[test]
fn efa_is_neither_infiniband_nor_roce() {
    let machine = Tree::efa("5.15.0-1072-aws", "22.04").read();
    let device = &machine.devices()[0];
    assert_eq!(device.to_string(), "rdmap0s6 (efa): port 1 other active");
    assert!(device.is_usable() && !device.is_roce());
    assert!(!machine.kernel.known().unwrap().at_least(6, 8));
    let newer = Tree::efa("6.8.0-1021-aws", "24.04").read();
    assert!(newer.kernel.known().unwrap().at_least(6, 8));
    assert!(newer.distribution.known().unwrap().is("ubuntu", "24.04"));
}

#[test]
fn nothing_is_a_reason() {
    let tree = Tree::none();
    let machine = tree.read();
    assert!(machine.devices().is_empty());
    let why = machine.devices.why_absent().unwrap();
    assert_eq!(why, "/sys/class/infiniband: not there");
    assert_eq!(machine.memlock.to_string(), "8192 KiB");
    tree.write("/sys/class/infiniband/x", "");
    tree.remove("/sys/class/infiniband/x");
    let why = tree.read().devices.why_absent().unwrap().to_owned();
    assert_eq!(why, "/sys/class/infiniband is empty");

    let empty = tempfile::tempdir().unwrap();
    let machine = Machine::read(empty.path());
    for why in [
        machine.devices.why_absent(),
        machine.kernel.why_absent(),
        machine.distribution.why_absent(),
        machine.nvidia.why_absent(),
        machine.peer_memory.why_absent(),
        machine.memlock.why_absent(),
    ] {
        assert!(why.unwrap().contains("not there"), "{why:?}");
    }
}

#[test]
fn a_device_that_the_container_was_not_given() {
    let tree = Tree::infiniband();
    tree.remove("/dev/infiniband/uverbs0");
    let machine = tree.read();
    assert_eq!(machine.usable_devices().count(), 0);
    let text = machine.devices()[0].to_string();
    assert!(
        text.contains("/dev/infiniband/uverbs0 is not there"),
        "{text}"
    );
}

#[test]
fn gpu_direct_by_module_or_dmabuf() {
    let verdict = |tree: &Tree| {
        let machine = tree.read();
        let device = machine.devices()[0].clone();
        machine.gpu_direct(&device)
    };
    let says = |tree: &Tree, word: &str| {
        let why = verdict(tree).unwrap_err();
        assert!(why.contains(word), "{why}");
    };
    let tree = Tree::infiniband();
    says(&tree, "no NVIDIA driver");
    tree.nvidia(false, "550.54.14");
    says(&tree, "proprietary");
    tree.nvidia(true, "510.47.03");
    says(&tree, "from 515 on");
    tree.nvidia(true, "550.54.14");
    assert_eq!(verdict(&tree).unwrap(), "dma-buf");
    tree.kernel("5.4.0-26-generic");
    says(&tree, "older than 5.12");
    tree.module("nvidia_peermem");
    assert_eq!(verdict(&tree).unwrap(), "module nvidia_peermem");
    tree.module("overlay")
        .write("/sys/module/nv_peer_mem/refcnt", "0");
    assert_eq!(verdict(&tree).unwrap(), "module nv_peer_mem");

    let soft = Tree::rxe();
    soft.nvidia(true, "550.54.14").module("nvidia_peermem");
    says(&soft, "Soft-RoCE");
}

#[test]
fn the_capability_lifts_the_limit() {
    let tree = Tree::none();
    let status = |bits: &str| format!("Name:\tx\nCapEff:\t{bits}\n");
    tree.write("/proc/self/status", status("0000000000004000"));
    assert_eq!(tree.read().memlock, Fact::Known(Memlock::Unlimited));
    tree.write("/proc/self/status", status("000000000000bfff"));
    assert_eq!(tree.read().memlock, Fact::Known(Memlock::Bytes(8 << 20)));
}

#[test]
fn damaged_files_are_reasons() {
    let tree = Tree::roce();
    let port = "/sys/class/infiniband/mlx5_0/ports/1";
    tree.kernel("")
        .limit("much")
        .write("/etc/os-release", b"\xff\xfe\0ID");
    tree.write("/proc/driver/nvidia/version", "NVRM version: unknown\n");
    tree.write(&format!("{port}/state"), "ACTIVE\n");
    tree.write(&format!("{port}/gids/3"), "not:an:address\n");
    tree.write(&format!("{port}/gids/1"), vec![b'f'; 3 << 20]);
    tree.write("/sys/class/infiniband/mlx5_0/ports/one/state", "4: ACTIVE");
    tree.remove(&format!("{port}/rate"));
    // A directory where a file belongs, and a device that is a file.
    tree.remove(&format!("{port}/link_layer"));
    tree.write(&format!("{port}/link_layer/x"), "");
    tree.write("/sys/class/infiniband/mlx5_9", "");
    let machine = tree.read();
    for (why, word) in [
        (machine.kernel.why_absent(), "osrelease says \"\""),
        (machine.memlock.why_absent(), "\"much\""),
        (machine.distribution.why_absent(), "has no ID"),
        (machine.nvidia.why_absent(), "unknown"),
    ] {
        assert!(why.unwrap().contains(word), "{why:?}");
    }
    let [first, _, file] = machine.devices() else {
        panic!("{:?}", machine.devices)
    };
    let broken = &first.ports[0];
    assert_eq!(first.ports.len(), 1, "port \"one\" is none");
    assert_eq!(broken.link_layer, LinkLayer::Other);
    assert_eq!(broken.state.to_string(), "state \"ACTIVE\"");
    assert_eq!(
        broken.rate.why_absent().unwrap(),
        format!("{port}/rate: not there")
    );
    assert!(file.ports.is_empty() && file.to_string().contains("no ports"));
}

#[test]
fn links_in_circles_and_odd_names_are_survived() {
    let tree = Tree::infiniband();
    let class = tree.path().join("sys/class/infiniband");
    symlink("loop", class.join("loop")).unwrap();
    fs::create_dir(class.join("name with spaces\n")).unwrap();
    let machine = tree.read();
    assert_eq!(machine.devices().len(), 4);
    assert_eq!(machine.usable_devices().count(), 1);
}

/// Whatever this machine has, reading it ends.
#[test]
fn this_machine_can_be_read() {
    assert!(Machine::read("/").kernel.known().is_some());
}
