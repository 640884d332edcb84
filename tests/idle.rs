//! An idle agent takes less than 0.1 % of a core.

mod common;

use std::time::Duration;

use common::pair::LIMIT;
use nixl::{Config, Op};
use rustix::time::{ClockId, clock_gettime};

/// Most CPU time for each second of the clock.
const MOST: f64 = 0.001;
/// After so long without an event an agent is idle.
const QUIET: Duration = Duration::from_millis(1500);
/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(5);

/// CPU time of all threads of this process.
fn cpu_time() -> f64 {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// Two agents with all backends, connected over all of them, that have moved something.
#[test]
fn an_idle_agent_sleeps() {
    let agent = |name| Config::default().agent(name).unwrap().build().unwrap();
    let (here, there) = (agent("here"), agent("there"));
    let (ours, theirs) = (here.allocate(4096).unwrap(), there.allocate(4096).unwrap());
    theirs.write_at(0, &[0x5a; 4096]).unwrap();
    here.load_metadata(&there.metadata().unwrap()).unwrap();
    here.connect("there", LIMIT).unwrap();
    let blocks = |base| nixl::DescList::dram([(base, 4096)]);
    let request = here
        .create_request(
            Op::Read,
            &blocks(ours.addr()),
            "there",
            &blocks(theirs.addr()),
        )
        .unwrap();
    request.post().unwrap();
    request.wait(LIMIT).unwrap();
    let mut found = [0; 4096];
    ours.read_at(0, &mut found).unwrap();
    assert_eq!(found, [0x5a; 4096]);

    std::thread::sleep(QUIET);
    let before = cpu_time();
    std::thread::sleep(WATCHED);
    let share = (cpu_time() - before) / WATCHED.as_secs_f64() / 2.0;
    println!("an idle agent: {:.4} % of a core", share * 100.0);
    assert!(
        share < MOST,
        "an idle agent takes {:.3} % of a core",
        share * 100.0
    );
}
