//! Profiles, and the choice among them.

use std::fmt;

use nixl_core::{Error, ErrorKind};
use serde::Serialize;

use super::report::{GpuMemory, Warning, WarningCode};
use crate::detect::{Driver, Fact, Machine, RdmaDevice};

/// Transports over RDMA devices, and those by which UCX recognises GPU memory.
const RDMA: [&str; 6] = ["rc_x", "rc", "dc_x", "dc", "cuda_copy", "cuda_ipc"];

/// A set of settings for a kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// InfiniBand or RoCE, with GPUDirect or for host memory only.
    Rdma,
    /// AWS Elastic Fabric Adapter: GPU data goes through host memory.
    Efa,
    /// InfiniBand or RoCE without GPUDirect: GPU data goes through host memory.
    Staged,
    /// No RDMA device: same-host transports only.
    Local,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Rdma, Self::Efa, Self::Staged, Self::Local];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rdma => "rdma",
            Self::Efa => "efa",
            Self::Staged => "staged",
            Self::Local => "local",
        }
    }

    /// The transports that it wants and this machine may have: UCX prints a line to standard
    /// output for each list that names others.
    pub(super) fn transports(self, machine: &Machine) -> (String, &'static str) {
        let (names, why): (&[&str], _) = match self {
            Self::Rdma | Self::Staged => (&RDMA, "RDMA, and GPU memory"),
            Self::Efa => (&["srd", "cuda_copy", "tcp"], "srd is EFA's transport"),
            Self::Local => (
                &["cma", "tcp", "self"],
                "no RDMA device; of these only tcp reports failures of messages",
            ),
        };
        let mut usable = machine.usable_devices();
        let accelerated = usable.any(|device| device.driver == Driver::Mlx5);
        let gpus = machine.nvidia.known().is_some();
        let is_there = |name: &&&str| match **name {
            "rc_x" | "dc_x" | "dc" => accelerated,
            "cuda_copy" | "cuda_ipc" => gpus,
            _ => true,
        };
        let names: Vec<&str> = names.iter().filter(is_there).copied().collect();
        (names.join(","), why)
    }

    /// Its other settings, with the reason for each.
    pub(super) fn settings(self) -> &'static [(&'static str, &'static str, &'static str)] {
        const ZCOPY: (&str, &str, &str) = (
            "ZCOPY_THRESH",
            "8192",
            "without a cache UCX counts a registration for each block, though ours are registered",
        );
        const PULL: &str = "the receiver pulls large messages, without copies";
        match self {
            Self::Rdma => &[
                ("RNDV_SCHEME", "get_zcopy", PULL),
                ("RNDV_THRESH", "0", "data is always large"),
                ZCOPY,
            ],
            Self::Staged => &[
                ("RNDV_SCHEME", "get_zcopy", PULL),
                (
                    "RNDV_THRESH",
                    "inf",
                    "no GPU memory is registered for messages",
                ),
                ZCOPY,
            ],
            Self::Efa => &[
                (
                    "RNDV_SCHEME",
                    "auto",
                    "a forced zero-copy scheme crashes on GPU memory",
                ),
                (
                    "RNDV_THRESH",
                    "8192",
                    "GPU memory is not registered for small messages",
                ),
            ],
            Self::Local => &[],
        }
    }

    /// Whether it uses an RDMA device.
    pub fn uses_rdma(self) -> bool {
        self != Self::Local
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Profile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|profile| profile.name() == text);
        found.ok_or_else(|| {
            let text = format!("UCX profile {text:?}: expected rdma, efa, staged or local");
            Error::new(ErrorKind::ApiMisuse, text)
        })
    }
}

/// What was chosen, and why.
pub(super) struct Choice {
    pub(super) profile: Profile,
    pub(super) why: String,
    pub(super) gpu: GpuMemory,
    pub(super) warnings: Vec<Warning>,
}

/// The profile for `machine`: the wanted one, except that EFA on a newer kernel forces its own.
pub(super) fn choose(machine: &Machine, wanted: Option<Profile>) -> Choice {
    let is_efa = |device: &&RdmaDevice| device.driver == Driver::Efa;
    let (efa, rdma): (Vec<_>, Vec<_>) = machine.usable_devices().partition(is_efa);
    let mut warnings = Vec::new();
    let forced = match efa.as_slice() {
        [] => None,
        _ if !rdma.is_empty() => None,
        [..] => efa_rule(machine),
    };
    let (profile, why) = match (wanted, forced) {
        (Some(wanted @ (Profile::Rdma | Profile::Staged)), Some(rule)) => {
            let text = format!("profile {wanted} is configured, but {rule}: profile efa is used");
            warnings.push(Warning::new(WarningCode::EfaKernel, text));
            (Profile::Efa, format!("forced: {rule}"))
        }
        (Some(wanted), _) => (wanted, "configured".to_owned()),
        (None, _) => automatic(machine, &efa, &rdma),
    };
    let there = match profile {
        Profile::Efa => !efa.is_empty(),
        Profile::Rdma | Profile::Staged => !rdma.is_empty(),
        // Whoever configured it wants no RDMA.
        Profile::Local => wanted.is_some(),
    };
    if !there {
        let text = format!("no RDMA transports available: {}", why_none(machine));
        warnings.push(Warning::new(WarningCode::NoRdma, text));
    }
    Choice {
        gpu: gpu_memory(machine, profile, &rdma, &mut warnings),
        profile,
        why,
        warnings,
    }
}

fn automatic(machine: &Machine, efa: &[&RdmaDevice], rdma: &[&RdmaDevice]) -> (Profile, String) {
    let (Some(first), more) = (rdma.first(), rdma.len().saturating_sub(1)) else {
        return match efa.first() {
            Some(device) => (Profile::Efa, device.to_string()),
            None => (Profile::Local, why_none(machine)),
        };
    };
    let more = match more {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let device = format!("{first}{more}");
    match gpu_direct(machine, rdma) {
        Ok(how) => (Profile::Rdma, format!("{device}; GPUDirect by {how}")),
        Err(_) if machine.nvidia.known().is_none() => (
            Profile::Rdma,
            format!("{device}; host memory only, as there is no NVIDIA driver"),
        ),
        Err(why) => (Profile::Staged, format!("{device}; no GPUDirect: {why}")),
    }
}

/// The rule about EFA that is in force on this machine. A container's distribution is its image's,
/// the kernel is the host's: the kernel decides.
fn efa_rule(machine: &Machine) -> Option<String> {
    match &machine.kernel {
        Fact::Known(kernel) if !kernel.at_least(6, 8) => None,
        Fact::Known(kernel) => Some(format!(
            "EFA on Linux {kernel}, which is 6.8 or newer, cannot register GPU memory ({})",
            machine.distribution
        )),
        Fact::Absent(why) => Some(format!(
            "EFA cannot register GPU memory from Linux 6.8 on, and this kernel is not known: {why}"
        )),
    }
}

fn gpu_direct(machine: &Machine, devices: &[&RdmaDevice]) -> Result<String, String> {
    let mut why = "no RDMA device".to_owned();
    for device in devices {
        match machine.gpu_direct(device) {
            Ok(how) => return Ok(how),
            Err(text) => why = text,
        }
    }
    Err(why)
}

fn gpu_memory(
    machine: &Machine,
    profile: Profile,
    rdma: &[&RdmaDevice],
    warnings: &mut Vec<Warning>,
) -> GpuMemory {
    if let Fact::Absent(why) = &machine.nvidia {
        return GpuMemory::None(format!("no NVIDIA driver: {why}"));
    }
    match profile {
        Profile::Local => GpuMemory::None("UCX is for this host's memory only".to_owned()),
        Profile::Efa => GpuMemory::Staged("EFA takes no GPU memory".to_owned()),
        Profile::Staged => GpuMemory::Staged(match gpu_direct(machine, rdma) {
            Ok(_) => "configured, though GPUDirect is there".to_owned(),
            Err(why) => why,
        }),
        Profile::Rdma => match gpu_direct(machine, rdma) {
            Err(why) => GpuMemory::Staged(why),
            Ok(how) => {
                for device in rdma {
                    if let Err(why) = machine.gpu_direct(device) {
                        let text = format!("{} has no GPUDirect: {why}", device.name);
                        warnings.push(Warning::new(WarningCode::GpuDirect, text));
                    }
                }
                GpuMemory::Direct(how)
            }
        },
    }
}

/// Why there is no usable device.
fn why_none(machine: &Machine) -> String {
    match &machine.devices {
        Fact::Absent(why) => why.clone(),
        Fact::Known(devices) => {
            let devices: Vec<String> = devices.iter().map(RdmaDevice::to_string).collect();
            devices.join("; ")
        }
    }
}
