//! One thread at a time, without anybody waiting.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Lets one thread at a time do some work; calls meanwhile make it do another round.
#[derive(Default)]
pub struct Turn(AtomicUsize);

impl Turn {
    /// Runs `work` on this thread, or has the thread that is at it do another round. True: it was
    /// this one.
    pub fn take(&self, work: impl FnMut()) -> bool {
        if self.0.fetch_add(1, Ordering::AcqRel) > 0 {
            return false;
        }
        self.go_round(work);
        true
    }

    /// Runs `work` on this thread if no other one is at it; calls meanwhile make it do another
    /// round. True: it ran.
    pub fn try_take(&self, work: impl FnMut()) -> bool {
        let free = self
            .0
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
        if free.is_ok() {
            self.go_round(work);
        }
        free.is_ok()
    }

    fn go_round(&self, mut work: impl FnMut()) {
        let mut answered = 1;
        loop {
            work();
            let calls = self.0.fetch_sub(answered, Ordering::AcqRel);
            if calls == answered {
                return;
            }
            answered = calls - answered;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_never_overlap_and_no_call_is_lost() {
        let turn = Turn::default();
        let (inside, rounds) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let wanted = AtomicUsize::new(0);
        let served = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        wanted.fetch_add(1, Ordering::SeqCst);
                        turn.take(|| {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            served.store(wanted.load(Ordering::SeqCst), Ordering::SeqCst);
                            rounds.fetch_add(1, Ordering::SeqCst);
                            inside.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                });
            }
        });
        assert_eq!(served.load(Ordering::SeqCst), 40_000);
        assert!(rounds.load(Ordering::SeqCst) <= 40_000);
    }

    #[test]
    fn whoever_only_tries_leaves_no_call_behind() {
        let turn = Turn::default();
        let mut rounds = 0;
        let ran = turn.try_take(|| {
            rounds += 1;
            assert!(!turn.try_take(|| unreachable!("nested")));
            if rounds == 1 {
                turn.take(|| unreachable!("nested"));
            }
        });
        assert!(ran);
        assert_eq!(rounds, 2);
        assert!(turn.try_take(|| rounds += 1));
        assert_eq!(rounds, 3);
    }

    #[test]
    fn a_call_from_inside_makes_another_round() {
        let turn = Turn::default();
        let mut rounds = 0;
        turn.take(|| {
            rounds += 1;
            if rounds < 3 {
                turn.take(|| unreachable!("nested"));
            }
        });
        assert_eq!(rounds, 3);
    }
}
