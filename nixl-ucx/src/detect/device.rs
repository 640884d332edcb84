//! RDMA devices and their ports, from `/sys/class/infiniband`.

use std::fmt;

use super::{
    Fact,
    files::Root,
    gid::{self, Gid},
};

const CLASS: &str = "/sys/class/infiniband";
const VERBS: &str = "/sys/class/infiniband_verbs";

/// An RDMA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdmaDevice {
    /// Its name, as in `UCX_NET_DEVICES` before the colon.
    pub name: String,
    /// What drives it.
    pub driver: Driver,
    /// Its verbs device file, which this process needs: `/dev/infiniband/uverbs0`. A container
    /// may list a device in `/sys` that it was not given.
    pub verbs: Fact<String>,
    /// The NUMA node it is nearest to.
    pub numa_node: Fact<u32>,
    /// Its ports, by number.
    pub ports: Vec<Port>,
}

/// The kernel driver of an RDMA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// NVIDIA ConnectX from 4 on, BlueField: the only one with UCX's accelerated transports.
    Mlx5,
    /// AWS Elastic Fabric Adapter.
    Efa,
    /// Soft-RoCE: verbs over a network interface, done by the CPU.
    Rxe,
    /// Another, by name.
    Other(String),
    /// It could not be found out.
    Unknown,
}

/// A port of an RDMA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number, from 1.
    pub number: u32,
    /// What is below verbs.
    pub link_layer: LinkLayer,
    /// Whether it can be used.
    pub state: PortState,
    /// The kernel's words for its speed: `100 Gb/sec (4X EDR)`.
    pub rate: Fact<String>,
    /// The first entries of its GID table that are in use; read for RoCE only.
    pub gids: Vec<Gid>,
}

/// What carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// InfiniBand.
    InfiniBand,
    /// Ethernet: RoCE.
    Ethernet,
    /// Something else (EFA says `Unspecified`), or unreadable.
    Other,
}

/// State of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Up.
    Active,
    /// Not up: the kernel's word (`DOWN`, `INIT`), or why it could not be read.
    Inactive(String),
}

impl RdmaDevice {
    /// Whether this process can use it: a port is up and its verbs file is here.
    pub fn is_usable(&self) -> bool {
        self.is_active() && self.verbs.known().is_some()
    }

    /// Whether a port is up.
    pub fn is_active(&self) -> bool {
        self.active_ports().next().is_some()
    }

    /// The ports that are up.
    pub fn active_ports(&self) -> impl Iterator<Item = &Port> {
        let ports = self.ports.iter();
        ports.filter(|port| port.state == PortState::Active)
    }

    /// Whether a port that is up is RoCE.
    pub fn is_roce(&self) -> bool {
        self.driver != Driver::Efa
            && self
                .active_ports()
                .any(|port| port.link_layer == LinkLayer::Ethernet)
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mlx5 => "mlx5",
            Self::Efa => "efa",
            Self::Rxe => "rxe",
            Self::Other(name) => name,
            Self::Unknown => "unknown",
        })
    }
}

impl fmt::Display for LinkLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InfiniBand => "InfiniBand",
            Self::Ethernet => "Ethernet",
            Self::Other => "other",
        })
    }
}

impl fmt::Display for PortState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.write_str("active"),
            Self::Inactive(word) => f.write_str(word),
        }
    }
}

/// One line: `mlx5_0 (mlx5): port 1 InfiniBand active`.
impl fmt::Display for RdmaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.driver)?;
        for (at, port) in self.ports.iter().enumerate() {
            let sign = if at == 0 { ':' } else { ',' };
            let Port { number, state, .. } = port;
            write!(f, "{sign} port {number} {} {state}", port.link_layer)?;
        }
        if self.ports.is_empty() {
            f.write_str(": no ports")?;
        }
        match &self.verbs {
            Fact::Known(_) => Ok(()),
            Fact::Absent(why) => write!(f, "; {why}"),
        }
    }
}

pub(super) fn read_all(root: &Root) -> Result<Vec<RdmaDevice>, String> {
    let names = root.names(CLASS)?;
    if names.is_empty() {
        return Err(format!("{CLASS} is empty"));
    }
    Ok(names.into_iter().map(|name| read(root, name)).collect())
}

fn read(root: &Root, name: String) -> RdmaDevice {
    let dir = format!("{CLASS}/{name}");
    let driver = driver(root, &dir, &name);
    let mut ports: Vec<Port> = root
        .names(&format!("{dir}/ports"))
        .unwrap_or_default()
        .iter()
        .filter_map(|number| Some(port(root, &dir, number.parse().ok()?, &driver)))
        .collect();
    ports.sort_by_key(|port| port.number);
    RdmaDevice {
        verbs: verbs(root, &name).into(),
        numa_node: numa_node(root, &dir).into(),
        name,
        driver,
        ports,
    }
}

/// The PCI device's driver. Soft-RoCE has no PCI device but names its network interface.
fn driver(root: &Root, dir: &str, name: &str) -> Driver {
    match root.link_name(&format!("{dir}/device/driver")).as_deref() {
        // Sub-functions have auxiliary drivers: mlx5_core.sf.
        Some(name) if name.starts_with("mlx5") => Driver::Mlx5,
        Some("efa") => Driver::Efa,
        Some(other) => Driver::Other(other.to_owned()),
        None if root.exists(&format!("{dir}/parent")) => Driver::Rxe,
        // Containers may hide the device link; the kernel's own names remain.
        None if name.starts_with("mlx5_") => Driver::Mlx5,
        None if name.starts_with("rxe") => Driver::Rxe,
        None => Driver::Unknown,
    }
}

fn verbs(root: &Root, name: &str) -> Result<String, String> {
    let all = root.names(VERBS)?;
    let ours = |uverbs: &&String| {
        let device = root.text(&format!("{VERBS}/{uverbs}/ibdev"));
        device.is_ok_and(|device| device == name)
    };
    let Some(uverbs) = all.iter().find(ours) else {
        return Err(format!("no entry of {VERBS} names {name}"));
    };
    let file = format!("/dev/infiniband/{uverbs}");
    match root.exists(&file) {
        true => Ok(file),
        false => Err(format!(
            "{file} is not there: this container was not given the device (resource rdma/ib)"
        )),
    }
}

fn port(root: &Root, dir: &str, number: u32, driver: &Driver) -> Port {
    let dir = format!("{dir}/ports/{number}");
    let link_layer = match root.text(&format!("{dir}/link_layer")).as_deref() {
        Ok("InfiniBand") => LinkLayer::InfiniBand,
        Ok("Ethernet") => LinkLayer::Ethernet,
        _ => LinkLayer::Other,
    };
    // "4: ACTIVE"
    let state = match root.text(&format!("{dir}/state")) {
        Ok(text) => match text.split_once(": ") {
            Some(("4", _)) => PortState::Active,
            Some((_, word)) => PortState::Inactive(word.to_owned()),
            None => PortState::Inactive(format!("state {text:?}")),
        },
        Err(why) => PortState::Inactive(why),
    };
    let roce = link_layer == LinkLayer::Ethernet && *driver != Driver::Efa;
    Port {
        number,
        link_layer,
        state,
        rate: root.text(&format!("{dir}/rate")).into(),
        gids: if roce {
            gid::table(root, &dir)
        } else {
            Vec::new()
        },
    }
}

fn numa_node(root: &Root, dir: &str) -> Result<u32, String> {
    let text = root.text(&format!("{dir}/device/numa_node"))?;
    // -1: the firmware does not say.
    text.parse()
        .map_err(|_| format!("the kernel says node {text:?}"))
}
