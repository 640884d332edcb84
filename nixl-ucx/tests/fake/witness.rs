//! Whoever reaches memory by CMA needs no connection for it (INV-1).

use std::time::Duration;

use nixl_conformance::rig::Rig;
use nixl_core::Op;

use super::{
    fake,
    faults::{Move, THREADS, finish, peer_of_first},
    world::with,
};

#[test]
fn a_broken_connection_is_over_once_the_peer_has_let_go() {
    for op in [Op::Read, Op::Write] {
        with(|world| world.cma = true);
        let rig = Rig::new(Box::new(|| std::sync::Arc::new(fake())), "ucx_cma", THREADS);
        let link = rig.pair();
        let moved = Move::new(&rig, &link, op);
        rig.run(&moved.op).expect("the peer lends its memory");
        moved.check();
        let target = peer_of_first();
        with(|world| {
            world.faults.stopped = true;
            world.break_endpoints(|endpoint| endpoint.worker == target);
        });
        let told = rig.wait_for(Duration::from_millis(500), || link.far.closed().is_some());
        assert!(!told, "over, and the peer may still {op:?}");
        with(|world| {
            world.faults.stopped = false;
            world.break_endpoints(|endpoint| endpoint.worker != target);
        });
        rig.wait("both ends", || {
            link.near.closed().is_some() && link.far.closed().is_some()
        });
        finish(rig, (moved, link));
    }
}
