//! What the machine has for UCX, read from files below a root directory.
//!
//! `/sys/class/infiniband` (sysfs-class-infiniband of the kernel's ABI documentation), `/proc`
//! (proc(5)) and `os-release` (os-release(5)). Nothing here is required: what is not there, or
//! reads as nonsense, becomes an absent [`Fact`] with its reason. The root is a parameter, so that
//! recorded trees of other machines can be read.
#![forbid(unsafe_code)]

mod device;
mod files;
mod gid;
mod system;
#[cfg(test)]
pub(crate) mod tests;

use std::{fmt, path::Path};

pub use device::{Driver, LinkLayer, Port, PortState, RdmaDevice};
pub use gid::{Gid, GidKind};
pub use system::{Distribution, Kernel, Memlock, Nvidia};

pub(crate) use gid::best as best_gid;

use files::Root;

/// Something that is known, or the reason why it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact<T> {
    /// It is there.
    Known(T),
    /// It is not there, or cannot be read: why.
    Absent(String),
}

impl<T> Fact<T> {
    /// The value, if it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Absent(_) => None,
        }
    }

    /// Why it is not known.
    pub fn why_absent(&self) -> Option<&str> {
        match self {
            Self::Known(_) => None,
            Self::Absent(why) => Some(why),
        }
    }
}

impl<T> From<Result<T, String>> for Fact<T> {
    fn from(read: Result<T, String>) -> Self {
        match read {
            Ok(value) => Self::Known(value),
            Err(why) => Self::Absent(why),
        }
    }
}

impl<T: fmt::Display> fmt::Display for Fact<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(value) => value.fmt(f),
            Self::Absent(why) => write!(f, "unknown: {why}"),
        }
    }
}

/// Facts of one machine, as this process sees it (a container may see less than the host has).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// RDMA devices by name; absent where there are none, with the reason.
    pub devices: Fact<Vec<RdmaDevice>>,
    /// The running kernel. A container sees its host's.
    pub kernel: Fact<Kernel>,
    /// The distribution. A container sees its image's, not its host's.
    pub distribution: Fact<Distribution>,
    /// The NVIDIA kernel driver.
    pub nvidia: Fact<Nvidia>,
    /// The module that lets RDMA devices pin GPU memory (`nvidia_peermem` and its kin).
    pub peer_memory: Fact<String>,
    /// How much memory this process may pin.
    pub memlock: Fact<Memlock>,
}

impl Machine {
    /// Reads the facts below `root`: `/`, except for recorded trees.
    ///
    /// Never panics, and never reads more than a bounded number of files and bytes.
    pub fn read(root: impl AsRef<Path>) -> Self {
        let root = Root::new(root.as_ref());
        Self {
            devices: device::read_all(&root).into(),
            kernel: system::kernel(&root).into(),
            distribution: system::distribution(&root).into(),
            nvidia: system::nvidia(&root).into(),
            peer_memory: system::peer_memory(&root).into(),
            memlock: system::memlock(&root).into(),
        }
    }

    /// The RDMA devices; none where they are absent.
    pub fn devices(&self) -> &[RdmaDevice] {
        self.devices.known().map_or(&[], Vec::as_slice)
    }

    /// Devices that this process can use.
    pub fn usable_devices(&self) -> impl Iterator<Item = &RdmaDevice> {
        self.devices().iter().filter(|device| device.is_usable())
    }

    /// How `device` can reach GPU memory, or why it cannot.
    ///
    /// Either a peer-memory module pins it, or the GPU driver exports it as a dma-buf: that takes
    /// Linux 5.12 (`ibv_reg_dmabuf_mr`), NVIDIA's open kernel modules from 515 on, and an RDMA
    /// driver that imports them.
    pub fn gpu_direct(&self, device: &RdmaDevice) -> Result<String, String> {
        let nvidia = match &self.nvidia {
            Fact::Known(nvidia) => nvidia,
            Fact::Absent(why) => return Err(format!("no NVIDIA driver: {why}")),
        };
        if device.driver == Driver::Rxe {
            return Err(format!("{} is Soft-RoCE: the CPU copies", device.name));
        }
        if let Fact::Known(module) = &self.peer_memory {
            return Ok(format!("module {module}"));
        }
        self.dmabuf(nvidia, device)
            .map(|()| "dma-buf".to_owned())
            .map_err(|why| format!("no module nvidia_peermem, and no dma-buf: {why}"))
    }

    fn dmabuf(&self, nvidia: &Nvidia, device: &RdmaDevice) -> Result<(), String> {
        let kernel = match &self.kernel {
            Fact::Known(kernel) => kernel,
            Fact::Absent(why) => return Err(why.clone()),
        };
        if !kernel.at_least(5, 12) {
            return Err(format!("Linux {kernel} is older than 5.12"));
        }
        if !nvidia.open || nvidia.major < 515 {
            return Err(format!(
                "{nvidia} exports none; the open kernel modules from 515 on do"
            ));
        }
        match device.driver {
            Driver::Mlx5 | Driver::Efa => Ok(()),
            _ => Err(format!(
                "the driver of {} ({}) is not known to import any",
                device.name, device.driver
            )),
        }
    }
}
