//! A directory that looks like another machine's root.

use std::{fs, os::unix::fs::symlink, path::Path};

use tempfile::TempDir;

use crate::detect::Machine;

/// A machine's files. What is written replaces what was there.
pub(crate) struct Tree(TempDir);

impl Tree {
    /// Debian 12 without any RDMA device: only what every Linux has.
    pub(crate) fn none() -> Self {
        let tree = Self(TempDir::new().unwrap());
        tree.kernel("6.1.0-41-amd64")
            .write(
                "/etc/os-release",
                "NAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\n",
            )
            .write("/proc/modules", "overlay 163840 0 - Live 0x0\n")
            .write("/proc/self/status", "Name:\tx\nCapEff:\t0000000000000000\n")
            .limit("8388608");
        tree
    }

    /// Ubuntu 22.04 with a ConnectX-6 on InfiniBand and an idle second one.
    pub(crate) fn infiniband() -> Self {
        let tree = Self::none();
        tree.kernel("5.15.0-1050-generic")
            .ubuntu("22.04")
            .limit("unlimited");
        tree.device("mlx5_0", Some("mlx5_core"), 0)
            .port("mlx5_0", "InfiniBand", "4: ACTIVE", "200 Gb/sec (4X HDR)")
            .gid(
                "mlx5_0",
                0,
                "IB/RoCE v1",
                "fe80:0000:0000:0000:b859:9f03:00d4:1f2e",
            )
            .device("mlx5_1", Some("mlx5_core"), 1)
            .port("mlx5_1", "InfiniBand", "1: DOWN", "10 Gb/sec (4X SDR)");
        tree
    }

    /// Two ports of RoCE, as a ConnectX-5 lists them: each address once for version 1, once for 2.
    pub(crate) fn roce() -> Self {
        let tree = Self::none();
        tree.kernel("6.8.0-45-generic").ubuntu("24.04");
        for (at, name) in ["mlx5_0", "mlx5_1"].into_iter().enumerate() {
            tree.device(name, Some("mlx5_core"), at).port(
                name,
                "Ethernet",
                "4: ACTIVE",
                "100 Gb/sec (4X EDR)",
            );
            for (index, kind) in [(0, "IB/RoCE v1"), (1, "RoCE v2")] {
                let address = format!("fe80:0000:0000:0000:0ac0:ebff:fe00:000{at}");
                tree.gid(name, index, kind, &address);
            }
            for (index, kind) in [(2, "IB/RoCE v1"), (3, "RoCE v2")] {
                let address = format!("0000:0000:0000:0000:0000:ffff:0a00:010{at}");
                tree.gid(name, index, kind, &address);
            }
        }
        tree
    }

    /// An AWS machine with an Elastic Fabric Adapter.
    pub(crate) fn efa(kernel: &str, ubuntu: &str) -> Self {
        let tree = Self::none();
        tree.kernel(kernel).ubuntu(ubuntu).limit("unlimited");
        tree.device("rdmap0s6", Some("efa"), 0).port(
            "rdmap0s6",
            "Unspecified",
            "4: ACTIVE",
            "100 Gb/sec (4X EDR)",
        );
        tree
    }

    /// Soft-RoCE as in the test machine: no PCI device, two GIDs, a table of 1024.
    pub(crate) fn rxe() -> Self {
        let tree = Self::none();
        tree.device("rxe0", None, 0)
            .port("rxe0", "Ethernet", "4: ACTIVE", "2.5 Gb/sec (1X SDR)")
            .write("/sys/class/infiniband/rxe0/parent", "veth0\n")
            .gid(
                "rxe0",
                0,
                "RoCE v2",
                "fe80:0000:0000:0000:5054:00ff:fe12:3456",
            )
            .gid(
                "rxe0",
                1,
                "RoCE v2",
                "0000:0000:0000:0000:0000:ffff:0a63:0001",
            )
            // What must not be reached.
            .gid(
                "rxe0",
                1023,
                "RoCE v2",
                "0000:0000:0000:0000:0000:ffff:0a63:0002",
            );
        tree
    }

    pub(crate) fn read(&self) -> Machine {
        Machine::read(self.0.path())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let full = self.0.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(full, text).unwrap();
        self
    }

    pub(crate) fn remove(&self, path: &str) -> &Self {
        let full = self.0.path().join(path.trim_start_matches('/'));
        if full.is_dir() {
            fs::remove_dir_all(full).unwrap();
        } else {
            fs::remove_file(full).unwrap();
        }
        self
    }

    pub(crate) fn kernel(&self, release: &str) -> &Self {
        self.write("/proc/sys/kernel/osrelease", format!("{release}\n"))
    }

    pub(crate) fn ubuntu(&self, version: &str) -> &Self {
        let text = format!("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"{version}\"\n");
        self.write("/etc/os-release", text)
    }

    /// The soft limit of locked memory.
    pub(crate) fn limit(&self, soft: &str) -> &Self {
        let text = format!(
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max processes             95690                95690                processes \n\
             Max locked memory         {soft:<20} {soft:<20} bytes     \n"
        );
        self.write("/proc/self/limits", text)
    }

    /// The NVIDIA driver, as its version file begins.
    pub(crate) fn nvidia(&self, open: bool, version: &str) -> &Self {
        let kind = match open {
            true => "NVIDIA UNIX Open Kernel Module for x86_64",
            false => "NVIDIA UNIX x86_64 Kernel Module",
        };
        let text =
            format!("NVRM version: {kind}  {version}  Release Build\nGCC version:  gcc 12\n");
        self.write("/proc/driver/nvidia/version", text)
    }

    pub(crate) fn module(&self, name: &str) -> &Self {
        let text = format!("overlay 163840 0 - Live 0x0\n{name} 16384 0 - Live 0x0\n");
        self.write("/proc/modules", text)
    }

    /// A device whose PCI device has `driver`, and its verbs file.
    pub(crate) fn device(&self, name: &str, driver: Option<&str>, number: usize) -> &Self {
        let class = "/sys/class/infiniband";
        self.write(&format!("{class}/{name}/node_type"), "1: CA\n");
        if let Some(driver) = driver {
            self.write(&format!("{class}/{name}/device/numa_node"), "1\n");
            let link = format!("sys/class/infiniband/{name}/device/driver");
            let target = format!("../../../../bus/pci/drivers/{driver}");
            symlink(target, self.0.path().join(link)).unwrap();
        }
        let uverbs = format!("uverbs{number}");
        let ibdev = format!("/sys/class/infiniband_verbs/{uverbs}/ibdev");
        self.write(&ibdev, format!("{name}\n"))
            .write(&format!("/dev/infiniband/{uverbs}"), "")
    }

    /// Port 1 of a device.
    pub(crate) fn port(&self, device: &str, link: &str, state: &str, rate: &str) -> &Self {
        let port = format!("/sys/class/infiniband/{device}/ports/1");
        self.write(&format!("{port}/link_layer"), format!("{link}\n"))
            .write(&format!("{port}/state"), format!("{state}\n"))
            .write(&format!("{port}/rate"), format!("{rate}\n"))
    }

    /// An entry of port 1's GID table.
    pub(crate) fn gid(&self, device: &str, index: u32, kind: &str, address: &str) -> &Self {
        let port = format!("/sys/class/infiniband/{device}/ports/1");
        self.write(
            &format!("{port}/gid_attrs/types/{index}"),
            format!("{kind}\n"),
        )
        .write(&format!("{port}/gids/{index}"), format!("{address}\n"))
    }
}
