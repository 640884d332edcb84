//! Which GID index RoCE needs, and which devices UCX is told to use.

use super::report::{Warning, WarningCode};
use crate::detect::{Driver, LinkLayer, Machine, Port, RdmaDevice, best_gid};

/// What `IB_GID_INDEX` should be.
pub(super) struct GidChoice {
    /// Its value and the reason; `None`: there is no RoCE port, and nothing to say.
    pub(super) index: Option<(String, String)>,
    pub(super) warnings: Vec<Warning>,
}

/// Chooses the index for RoCE version 2 for the ports that `net_devices` selects. UCX takes one
/// for all of them, so where they differ it is left to choose.
pub(super) fn choose(machine: &Machine, net_devices: Option<&str>) -> GidChoice {
    let selected = ports(machine).filter(|(name, _)| selects(net_devices, name));
    let (roce, others): (Vec<_>, Vec<_>) =
        selected.partition(|(_, port)| port.link_layer == LinkLayer::Ethernet);
    let mut found = Vec::new();
    let mut warnings = Vec::new();
    for (name, port) in &roce {
        match best_gid(&port.gids) {
            Some(gid) => found.push((name, gid)),
            None => {
                let text = format!(
                    "no RoCE v2 GID on {name}, and RoCE v1 is not routed: give its network \
                     interface an IP address"
                );
                warnings.push(Warning::new(WarningCode::NoRoceV2, text));
            }
        }
    }
    let auto = |why: &str| Some(("auto".to_owned(), why.to_owned()));
    let index = match found.first() {
        _ if roce.is_empty() => None,
        None => auto("no port has a GID of RoCE v2; UCX takes what there is"),
        Some(_) if !others.is_empty() => {
            auto("one index would be for the InfiniBand ports too; UCX chooses for each")
        }
        Some((name, gid)) if found.iter().all(|(_, other)| other.index == gid.index) => {
            Some((gid.index.to_string(), format!("GID {gid} of {name}")))
        }
        Some(_) => {
            let each: Vec<_> = found
                .iter()
                .map(|(n, g)| format!("{n} {}", g.index))
                .collect();
            auto(&format!(
                "ports differ ({}); UCX chooses for each",
                each.join(", ")
            ))
        }
    };
    GidChoice { index, warnings }
}

/// Warns where `net_devices` names none of the usable RDMA ports.
pub(super) fn check_devices(machine: &Machine, net_devices: &str) -> Option<Warning> {
    let all = machine.usable_devices().flat_map(names);
    let all: Vec<String> = all.map(|(name, _)| name).collect();
    if all.is_empty() || all.iter().any(|name| selects(Some(net_devices), name)) {
        return None;
    }
    let text = format!(
        "NET_DEVICES={net_devices} names no usable RDMA port; there are {}",
        all.join(", ")
    );
    Some(Warning::new(WarningCode::NetDevices, text))
}

/// The ports of InfiniBand and RoCE that can be used, by UCX's names for them.
fn ports(machine: &Machine) -> impl Iterator<Item = (String, &Port)> {
    let devices = machine.usable_devices();
    let ours = devices.filter(|device| device.driver != Driver::Efa);
    ours.flat_map(names)
}

fn names(device: &RdmaDevice) -> impl Iterator<Item = (String, &Port)> {
    let ports = device.active_ports();
    ports.map(|port| (format!("{}:{}", device.name, port.number), port))
}

/// Whether a list of devices selects the port `name` (`mlx5_0:1`).
fn selects(net_devices: Option<&str>, name: &str) -> bool {
    net_devices.is_none_or(|list| {
        list.split(',')
            .any(|device| device == "all" || device == name)
    })
}
