//! What is in force, and why: for `doctor`, for logs and for errors.

use std::fmt;

use serde::Serialize;

use super::{profile::Profile, text};
use crate::detect::{Machine, RdmaDevice};

/// Where a value comes from, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A `UCX_*` variable of the user. UCX reads it itself.
    Environment,
    /// The policy `strict`.
    Strict,
    /// Our configuration: the file, `NIXL_RS_UCX_*`, or the program.
    Configuration,
    /// The profile, or what was detected for it.
    Profile,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "environment",
            Self::Strict => "strict",
            Self::Configuration => "configuration",
            Self::Profile => "profile",
        })
    }
}

/// One setting of UCX.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its name without `UCX_`: `RNDV_SCHEME`.
    pub key: String,
    /// Its value, as UCX takes it.
    pub value: String,
    /// Where the value comes from.
    pub origin: Origin,
    /// Why it has this value; empty: because somebody said so.
    pub why: String,
    /// Why it is not in force; `None`: it is.
    pub ignored: Option<String>,
}

/// What becomes of GPU memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "why")]
pub enum GpuMemory {
    /// The RDMA device reaches it: how.
    Direct(String),
    /// It goes through pinned host memory of ours and is never given to UCX: why.
    Staged(String),
    /// UCX does not carry it: why.
    None(String),
}

/// Something that the operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// What it is about.
    pub code: WarningCode,
    /// What was found, and what to do.
    pub text: String,
}

/// Kinds of warnings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningCode {
    /// The profile finds no device that it is for.
    NoRdma,
    /// This UCX lacks a module that the machine has use for.
    NoModule,
    /// EFA on a kernel from 6.8 on.
    EfaKernel,
    /// This UCX has no transport for EFA.
    EfaVersion,
    /// A RoCE port has no address of version 2.
    NoRoceV2,
    /// `NET_DEVICES` names no device that is there.
    NetDevices,
    /// Little memory may be pinned.
    Memlock,
    /// GPUDirect on some devices only.
    GpuDirect,
    /// The transports do not let UCX recognise GPU memory.
    TlsWithoutCuda,
    /// A transport that we do not know.
    UnknownTransport,
    /// A variable of the user replaces what would be in force.
    EnvironmentWins,
    /// A variable has a value that we do not know.
    EnvironmentValue,
    /// A setting that was asked for has no effect.
    NotInForce,
}

impl Warning {
    pub(crate) fn new(code: WarningCode, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { code, text }
    }
}

/// The facts that were decided on, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// RDMA devices with their ports; empty where there are none.
    pub devices: Vec<String>,
    /// The kernel's release.
    pub kernel: String,
    /// The distribution, in a container its image's.
    pub distribution: String,
    /// The NVIDIA driver.
    pub nvidia: String,
    /// The module that lets RDMA devices pin GPU memory.
    pub peer_memory: String,
    /// How much memory may be pinned.
    pub memlock: String,
}

impl Facts {
    pub(super) fn of(machine: &Machine) -> Self {
        let devices = machine.devices().iter().map(RdmaDevice::to_string);
        Self {
            devices: devices.collect(),
            kernel: machine.kernel.to_string(),
            distribution: machine.distribution.to_string(),
            nvidia: machine.nvidia.to_string(),
            peer_memory: machine.peer_memory.to_string(),
            memlock: machine.memlock.to_string(),
        }
    }
}

/// How UCX is set up, and why. [`fmt::Display`] writes lines of at most 80 columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The profile in use.
    pub profile: Profile,
    /// Why it is this one.
    pub why: String,
    /// Whether the policy `strict` is on.
    pub strict: bool,
    /// What becomes of GPU memory.
    pub gpu: GpuMemory,
    /// Whether UCX keeps registrations after they are given up. It then may let peers reach memory
    /// that was withdrawn, so that withdrawal depends on their co-operation.
    pub registration_cache: bool,
    /// Every setting that somebody chose, each once.
    pub settings: Vec<Setting>,
    /// What the operator should know.
    pub warnings: Vec<Warning>,
    /// What the machine has.
    pub facts: Facts,
}

impl Report {
    /// The setting `key`, if somebody chose it.
    pub fn setting(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.key == key)
    }

    /// Records that libucp did not take the setting `key`, and `why`. A key that is not in the
    /// report changes nothing.
    pub fn ignore(&mut self, key: &str, why: &str) {
        let Some(setting) = self.settings.iter_mut().find(|s| s.key == key) else {
            return;
        };
        setting.ignored = Some(why.to_owned());
        let text = format!("{key}={} is not in force: {why}", setting.value);
        self.warnings
            .push(Warning::new(WarningCode::NotInForce, text));
    }

    /// The value of `key` if it is in force.
    pub(super) fn in_force(&self, key: &str) -> Option<&str> {
        let setting = self.setting(key)?;
        setting.ignored.is_none().then_some(&setting.value)
    }

    fn write_settings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Setting {
            key,
            value,
            origin,
            why,
            ignored,
        } in &self.settings
        {
            text::write(f, "", 2, &format!("{key}={value}"))?;
            let why = match (ignored, why.as_str()) {
                (Some(ignored), _) => format!("{origin}; NOT in force: {ignored}"),
                (None, "") => origin.to_string(),
                (None, why) => format!("{origin}: {why}"),
            };
            text::write(f, "", 6, &why)?;
        }
        Ok(())
    }

    fn write_facts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Facts {
            devices,
            kernel,
            distribution,
            nvidia,
            peer_memory,
            memlock,
        } = &self.facts;
        for device in devices {
            text::write(f, "device", INDENT, device)?;
        }
        for (label, fact) in [
            ("kernel", kernel),
            ("distribution", distribution),
            ("NVIDIA", nvidia),
            ("peer memory", peer_memory),
            ("memlock", memlock),
        ] {
            text::write(f, label, INDENT, fact)?;
        }
        Ok(())
    }
}

const INDENT: usize = 14;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let profile = format!("{} ({})", self.profile, self.why);
        text::write(f, "profile", INDENT, &profile)?;
        let strict = match self.strict {
            true => "on: no tcp, no sysv, no emulation",
            false => "off",
        };
        text::write(f, "strict", INDENT, strict)?;
        let gpu = match &self.gpu {
            GpuMemory::Direct(how) => format!("direct: {how}"),
            GpuMemory::Staged(why) => format!("through host memory: {why}"),
            GpuMemory::None(why) => format!("none: {why}"),
        };
        text::write(f, "GPU memory", INDENT, &gpu)?;
        let cache = match self.registration_cache {
            true => "on: withdrawing memory depends on the peers' co-operation",
            false => "off: withdrawn memory is out of the peers' reach",
        };
        text::write(f, "cache", INDENT, cache)?;
        self.write_facts(f)?;
        writeln!(f, "settings")?;
        self.write_settings(f)?;
        for warning in &self.warnings {
            text::write(f, "warning:", 9, &warning.text)?;
        }
        Ok(())
    }
}
