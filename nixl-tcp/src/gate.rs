//! Who may run a half of a stream, and who is inside a system call on a request's memory.

use std::sync::atomic::{
    AtomicU8, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

/// One runner at a time; a call that comes meanwhile makes the runner go round once more.
#[derive(Default)]
pub(crate) struct Turn(AtomicU8);

const IDLE: u8 = 0;
const RUNNING: u8 = 1;
const RERUN: u8 = 2;

impl Turn {
    /// True: the caller runs, and ends with [`Turn::done`].
    pub(crate) fn take(&self) -> bool {
        let swap = |now| match now {
            IDLE => Some(RUNNING),
            RUNNING => Some(RERUN),
            _ => None,
        };
        self.0.fetch_update(AcqRel, Acquire, swap) == Ok(IDLE)
    }

    /// The runner found nothing more to do. False: something came meanwhile, look again.
    pub(crate) fn done(&self) -> bool {
        if self
            .0
            .compare_exchange(RUNNING, IDLE, AcqRel, Acquire)
            .is_ok()
        {
            return true;
        }
        self.0.store(RUNNING, Release);
        false
    }
}

/// Counts the threads that are inside a system call on a request's memory (INV-1).
///
/// Closed, it lets nobody in; once the last one is out the memory is quiet. Each post opens it
/// with a new generation, so that whoever still works for an earlier post stays out.
pub(crate) struct AccessGate(AtomicU64);

const CLOSED: u64 = 1 << 63;
const COUNT: u64 = 0xffff_ffff;

impl AccessGate {
    /// A closed gate.
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(CLOSED))
    }

    fn generation(v: u64) -> u32 {
        ((v & !CLOSED) >> 32) as u32
    }

    /// Opens a quiet gate for a new post and returns its generation.
    pub(crate) fn open(&self) -> u32 {
        let next = Self::generation(self.0.load(Relaxed)).wrapping_add(1) & 0x7fff_ffff;
        self.0.store(u64::from(next) << 32, Release);
        next
    }

    /// Whether post `generation` may still touch its memory.
    pub(crate) fn is_open(&self, generation: u32) -> bool {
        let v = self.0.load(Acquire);
        v & CLOSED == 0 && Self::generation(v) == generation
    }

    /// Lets a thread in; false if that post is over. Who is in calls [`AccessGate::leave`].
    pub(crate) fn enter(&self, generation: u32) -> bool {
        let admit = |v: u64| {
            (v & CLOSED == 0 && Self::generation(v) == generation && v & COUNT < COUNT)
                .then_some(v + 1)
        };
        self.0.fetch_update(AcqRel, Acquire, admit).is_ok()
    }

    /// A thread is out. True: it was the last one and the gate is closed.
    pub(crate) fn leave(&self) -> bool {
        let v = self.0.fetch_sub(1, AcqRel) - 1;
        v & CLOSED != 0 && v & COUNT == 0
    }

    /// Lets nobody in any more.
    pub(crate) fn close(&self) {
        self.0.fetch_or(CLOSED, AcqRel);
    }

    /// Closed, and nobody is inside.
    pub(crate) fn is_quiet(&self) -> bool {
        let v = self.0.load(Acquire);
        v & CLOSED != 0 && v & COUNT == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_reruns_when_somebody_knocked() {
        let turn = Turn::default();
        assert!(turn.take());
        assert!(!turn.take());
        assert!(!turn.take());
        assert!(!turn.done(), "a knock was lost");
        assert!(turn.done());
        assert!(turn.take());
    }

    #[test]
    fn a_gate_is_quiet_only_when_the_last_one_left() {
        let gate = AccessGate::new();
        assert!(gate.is_quiet());
        let g = gate.open();
        assert!(gate.enter(g) && gate.enter(g));
        assert!(!gate.leave());
        gate.close();
        assert!(!gate.is_quiet() && !gate.enter(g));
        assert!(gate.leave());
        assert!(gate.is_quiet());
        let next = gate.open();
        assert!(!gate.enter(g), "a thread of an earlier post came in");
        assert!(gate.enter(next));
    }
}
