//! Recorded machines, rebuilt in temporary directories.

mod machines;
pub(crate) mod tree;

use super::*;
use tree::Tree;

#[test]
fn infiniband() {
    let tree = Tree::infiniband();
    let machine = tree.read();
    let device = &machine.devices()[0];
    assert_eq!(
        device.to_string(),
        "mlx5_0 (mlx5): port 1 InfiniBand active"
    );
    assert!(device.is_usable() && !device.is_roce());
    assert_eq!(device.numa_node, Fact::Known(1));
    assert_eq!(device.verbs, Fact::Known("/dev/infiniband/uverbs0".into()));
    let rate = Fact::Known("200 Gb/sec (4X HDR)".to_owned());
    assert_eq!(device.ports[0].rate, rate);
    assert!(device.ports[0].gids.is_empty(), "not read for InfiniBand");
    assert_eq!(machine.kernel.to_string(), "5.15.0-1050-generic");
    assert_eq!(machine.distribution.to_string(), "ubuntu 22.04");
    assert_eq!(machine.memlock, Fact::Known(Memlock::Unlimited));
}
