//! Looks after an active request's deadline and progress.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{
    Inner,
    run::{GRACE, Run},
};
use crate::{Error, ErrorKind, error::fail};

/// What a look at an active request found.
pub(crate) enum Ending {
    /// It goes on; look again by then.
    Later(Instant),
    /// Nothing to look at.
    Idle,
}

impl Inner {
    /// Looks after deadline and progress. Called by the agent's tick.
    pub(crate) fn look(self: &Arc<Self>, now: Instant) -> Ending {
        if !self.is_active() {
            return Ending::Idle;
        }
        let (posted, over, close, next) = {
            let mut run = self.run.lock();
            let deadline = run.deadline.unwrap_or(now + GRACE);
            let posted = run.posted.unwrap_or(now);
            // Begin early enough for the end to be known by the deadline.
            let margin = GRACE.min(deadline.saturating_duration_since(posted) / 10);
            let stop_at = deadline.checked_sub(margin).unwrap_or(deadline);
            self.watch_progress(&mut run, now);
            match &run.stopping {
                Some((_, since)) => {
                    let close_at = *since + margin.max(GRACE / 2);
                    let link = run.prepared.as_ref().map(|p| p.link.clone());
                    (
                        run.posted,
                        false,
                        link.filter(|_| now >= close_at),
                        close_at,
                    )
                }
                None => (run.posted, now >= stop_at, None, stop_at),
            }
        };
        if over {
            self.stop_post(posted, self.timeout());
            return Ending::Later(now + GRACE / 2);
        }
        if let Some(link) = close {
            link.give_up();
            return Ending::Later(now + GRACE);
        }
        Ending::Later(next.max(now + Duration::from_millis(1)))
    }

    fn watch_progress(&self, run: &mut Run, now: Instant) {
        let moved = match (&run.prepared, run.in_backend) {
            (Some(p), true) => p.transfer.moved(),
            _ => 0,
        };
        let (last, since) = run.moved;
        if moved != last || since.is_none() {
            run.moved = (moved, Some(now));
            self.stalled.store(false, Ordering::Relaxed);
        } else if since.is_some_and(|s| now - s >= self.shared.config.stall_after) {
            self.stalled.store(true, Ordering::Relaxed);
        }
    }

    fn timeout(&self) -> Error {
        let run = self.run.lock();
        let asked = run
            .deadline
            .zip(run.posted)
            .map_or(Duration::ZERO, |(d, p)| d - p);
        let text = match (&run.prepared, run.in_backend) {
            (Some(p), true) => format!(
                "not done within {asked:?}: {} of {} bytes moved over {}; the peer is stopped or too \
                 slow",
                p.transfer.moved(),
                self.plan.bytes(),
                p.path
            ),
            _ => format!("no path to the peer was ready within {asked:?}"),
        };
        fail(ErrorKind::Timeout, text)
    }
}
