//! How much of a core an agent uses that has nothing to do.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

/// What the last event may still cause.
const SETTLE: Duration = Duration::from_secs(1);

/// Share of one core, in percent, that the threads of this process use within `time` (user and
/// system, CLOCK_PROCESS_CPUTIME_ID of clock_gettime(2)) while the caller sleeps.
pub(crate) fn cpu_percent(time: Duration) -> f64 {
    sleep(SETTLE);
    let (begun, used) = (Instant::now(), cpu_seconds());
    sleep(time);
    100.0 * (cpu_seconds() - used) / begun.elapsed().as_secs_f64()
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
