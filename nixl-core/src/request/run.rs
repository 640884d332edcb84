//! One post of a request, from path to path until it ends.

use std::{
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Inner, Receipt};
use crate::{
    BackendName, Error, ErrorKind, Op, PathName, Result,
    backend::{Refused, Transfer},
    error::fail,
    flip::FlipTransfer,
    inflight::{Completion, OpOwner},
    peer::{Link, PathRecord, Route, Way},
};

/// How long a cancelled transfer may take to let go before its connection is closed.
pub(super) const GRACE: Duration = Duration::from_millis(100);

/// A transfer readied on one path of one connection.
#[derive(Clone)]
pub(super) struct Prepared {
    pub(super) path: PathName,
    pub(super) link: Arc<Link>,
    pub(super) transfer: Arc<dyn Transfer>,
    lanes: Arc<str>,
    record: Arc<PathRecord>,
}

/// State of the present (or last) post.
#[derive(Default)]
pub(crate) struct Run {
    /// Number of the last attempt handed to a backend; never reused.
    attempt: u32,
    /// Kept over posts: the path that worked last.
    pub(super) prepared: Option<Prepared>,
    /// The backend has the token.
    pub(super) in_backend: bool,
    pub(super) posted: Option<Instant>,
    /// When the present attempt was handed to its backend.
    handed: Option<Instant>,
    /// `None`: further off than a clock can tell.
    pub(super) deadline: Option<Instant>,
    post_time: Duration,
    notification: Option<Bytes>,
    /// Why it should end early, and since when.
    pub(super) stopping: Option<(Error, Instant)>,
    failures: Vec<(PathName, Error)>,
    /// Backends that were reconnected for this post although they failed a moment ago.
    insisted: Vec<BackendName>,
    attempts: u32,
    receipt: Option<Receipt>,
    pub(super) moved: (u64, Option<Instant>),
    pinned: bool,
}

/// Whether a path is out of question for this post. One lost connection may be made anew, and one
/// cancel may have been meant for the post before.
pub(crate) fn has_failed(failures: &[(PathName, Error)], path: PathName) -> bool {
    let mut of_path = failures.iter().filter(|f| f.0 == path);
    match of_path.next() {
        None => false,
        Some((_, first)) => {
            let pardoned = matches!(first.kind(), ErrorKind::PeerGone | ErrorKind::Cancelled);
            !pardoned || of_path.next().is_some()
        }
    }
}

impl Inner {
    /// Readies the request on a path if one is known already, and starts to find one if not.
    pub(super) fn ready(self: &Arc<Self>) {
        if let Route::Ready(way) = self.peer.route(self, &[], None) {
            // A failure here is met again, and reported, by the post.
            if let Ok(prepared) = self.prepare_on(way) {
                self.run.lock().prepared = Some(prepared);
            }
        }
    }

    fn prepare_on(&self, way: Way) -> Result<Prepared> {
        let endpoint = way.link.endpoint();
        let (transfer, lanes): (Arc<dyn Transfer>, String) = if way.flipped {
            let transfer = FlipTransfer::new(&self.shared, &way.link, way.path, &self.plan)?;
            (transfer, format!("{} flipped", endpoint.describe(way.path)))
        } else {
            (
                endpoint.prepare(way.path, &self.plan)?,
                endpoint.describe(way.path),
            )
        };
        Ok(Prepared {
            path: way.path,
            lanes: lanes.into(),
            link: way.link,
            transfer,
            record: way.record,
        })
    }

    pub(super) fn post(
        self: &Arc<Self>,
        notification: Option<Bytes>,
        deadline: Duration,
    ) -> Result<()> {
        let posted = Instant::now();
        self.check_remote()?;
        if !self.state.begin() {
            return Err(fail(
                ErrorKind::RepostActive,
                "the request is active; wait for its end or prepare another one",
            )
            .with_peer(&self.peer.name));
        }
        let deadline = posted.checked_add(deadline);
        self.shared.activated(deadline);
        if let Err(e) = self.begin(posted, notification, deadline) {
            self.shared.deactivated();
            self.state.publish(Err(e.clone()));
            return Err(e);
        }
        self.go();
        self.run.lock().post_time = posted.elapsed();
        Ok(())
    }

    fn begin(
        &self,
        posted: Instant,
        notification: Option<Bytes>,
        deadline: Option<Instant>,
    ) -> Result<()> {
        self.peer.check_alive()?;
        if let Some(data) = &notification {
            self.peer.reserve_notification(data.len())?;
        }
        if let Err(e) = self.pin() {
            if let Some(data) = &notification {
                self.peer.release_notification(data.len());
            }
            return Err(e);
        }
        let mut run = self.run.lock();
        run.posted = Some(posted);
        run.deadline = deadline;
        run.notification = notification;
        run.stopping = None;
        run.failures.clear();
        run.insisted.clear();
        run.attempts = 0;
        run.moved = (0, None);
        run.pinned = true;
        self.stalled.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The peer may have withdrawn regions since the last post.
    fn check_remote(&self) -> Result<()> {
        let now = self.peer.withdrawn();
        if self.checked.load(Ordering::Relaxed) != now {
            self.peer.check_regions(self.plan.remote().regions())?;
            self.checked.store(now, Ordering::Relaxed);
        }
        Ok(())
    }

    fn pin(&self) -> Result<()> {
        let regions = self.plan.local().regions();
        for (i, region) in regions.iter().enumerate() {
            if !region.try_pin() {
                regions[..i].iter().for_each(|r| r.unpin());
                return Err(fail(
                    ErrorKind::NotRegistered,
                    format!("local region at {:#x} was deregistered", region.addr()),
                ));
            }
        }
        Ok(())
    }

    /// Takes the next step: post on a ready path, wait for one, or end. Posts and cancels without
    /// a lock; a transfer is prepared under the request's own.
    pub(crate) fn go(self: &Arc<Self>) {
        loop {
            let Some(next) = self.next_step() else { return };
            match next {
                Ok((prepared, attempt)) => {
                    let token = Completion::new(self.clone(), attempt);
                    if let Err(Refused { error, done }) = prepared.transfer.clone().post(token) {
                        done.complete(Err(error));
                    } else if self.is_stopping(attempt) {
                        // The backend heard of it before it had anything to cancel.
                        prepared.transfer.cancel();
                    }
                    return;
                }
                Err(e) if self.run.lock().failures.len() > 16 => return self.end(Err(e)),
                Err(e) if e.is_retryable() => continue,
                Err(e) => return self.end(Err(e)),
            }
        }
    }

    /// Whether `attempt` is in its backend and should end early.
    fn is_stopping(&self, attempt: u32) -> bool {
        let run = self.run.lock();
        run.in_backend && run.attempt == attempt && run.stopping.is_some()
    }

    /// `None`: parked until the peer has news, or over. An error that may be retried has been
    /// noted, so that the next look finds another path.
    fn next_step(self: &Arc<Self>) -> Option<Result<(Prepared, u32)>> {
        let mut run = self.run.lock();
        if !self.is_active() || run.in_backend {
            return None;
        }
        if let Some((why, _)) = run.stopping.clone() {
            drop(run);
            self.end(Err(why));
            return None;
        }
        let kept = run.prepared.take();
        let usable = |p: &Prepared| p.link.is_up() && !has_failed(&run.failures, p.path);
        let prepared = match kept.filter(usable) {
            Some(p) => p,
            None => match self.route(&mut run) {
                Route::Wait => return None,
                Route::Fail(e) => {
                    drop(run);
                    self.end(Err(e));
                    return None;
                }
                Route::Ready(way) => {
                    let path = way.path;
                    match self.prepare_on(way) {
                        Ok(p) => p,
                        Err(e) => {
                            run.failures.push((path, e.clone()));
                            return Some(Err(e));
                        }
                    }
                }
            },
        };
        run.attempt = run.attempt.wrapping_add(1);
        run.attempts += 1;
        run.in_backend = true;
        run.handed = Some(Instant::now());
        run.prepared = Some(prepared.clone());
        // Announce, then look: either a withdrawal is seen here, or `uses` sees this post.
        fence(Ordering::SeqCst);
        if let Err(e) = self.check_remote() {
            drop(run);
            self.end(Err(e));
            return None;
        }
        Some(Ok((prepared, run.attempt)))
    }

    fn route(self: &Arc<Self>, run: &mut Run) -> Route {
        let Run {
            failures, insisted, ..
        } = run;
        self.peer.route(self, failures, Some(insisted))
    }

    /// Whether the failed attempt may start over on another path (design §4, Retry and failover),
    /// or on the same one after a cancel that nobody wants any more: a backend may hear of it
    /// when the post it was meant for is over and the next one runs.
    fn may_retry(&self, prepared: &Prepared, error: &Error) -> bool {
        (error.is_retryable() || error.kind() == ErrorKind::Cancelled)
            && match self.plan.op() {
                Op::Read => true,
                Op::Write => prepared.transfer.fenced(),
            }
    }

    fn attempt_failed(self: Arc<Self>, error: Error) {
        let mut lost = None;
        let retry = {
            let mut run = self.run.lock();
            run.in_backend = false;
            let Some(prepared) = run.prepared.clone() else {
                return;
            };
            prepared.record.stats.failed();
            let error = error.with_path(prepared.path).with_peer(&self.peer.name);
            match &run.stopping {
                Some((why, _)) => Err(why.clone()),
                None if self.may_retry(&prepared, &error) => {
                    if error.kind() == ErrorKind::PeerGone {
                        lost = Some(prepared.link.clone());
                    }
                    prepared.record.stats.retried();
                    tracing::warn!(peer = %self.peer.name, path = prepared.path, %error, "trying the next path");
                    run.failures.push((prepared.path, error));
                    Ok(())
                }
                None => Err(error),
            }
        };
        // Outside of the lock: closing may complete other requests on this thread.
        if let Some(link) = lost {
            link.give_up();
        }
        match retry {
            Ok(()) => self.go(),
            Err(e) => self.end(Err(e)),
        }
    }

    /// Ends the present post. Called once per post, after the backend let go.
    pub(crate) fn end(self: &Arc<Self>, result: Result<()>) {
        let notification = {
            let mut run = self.run.lock();
            if !std::mem::take(&mut run.pinned) {
                return;
            }
            run.in_backend = false;
            if result.is_ok() {
                self.account(&mut run);
            }
            run.notification.take()
        };
        // Nobody knows whether an abandoned operation still runs: its memory stays pinned for good.
        let abandoned = matches!(&result, Err(e) if e.kind() == ErrorKind::Abandoned);
        if !abandoned {
            self.plan.local().regions().iter().for_each(|r| r.unpin());
        }
        if let Some(data) = notification {
            match &result {
                Ok(()) => self.peer.push_notification(&data),
                Err(_) => self.peer.release_notification(data.len()),
            }
        }
        let result = result.map_err(|e| e.with_peer(&self.peer.name));
        self.shared.deactivated();
        self.publish(result);
        self.peer.request_ended();
    }

    fn account(&self, run: &mut Run) {
        let Some((prepared, posted)) = run.prepared.as_ref().zip(run.posted) else {
            return;
        };
        let total = posted.elapsed();
        let nanos = u64::try_from(total.as_nanos()).unwrap_or(u64::MAX);
        let plan = &self.plan;
        prepared
            .record
            .stats
            .completed(plan.bytes(), plan.asked(), nanos);
        // Connecting, proving and failed attempts are no cost of this path.
        let moving = run.handed.map_or(total, |at| at.elapsed());
        let moving = u64::try_from(moving.as_nanos()).unwrap_or(u64::MAX);
        self.peer.measured(prepared.path, plan, moving);
        run.receipt = Some(Receipt {
            path: prepared.path,
            lanes: prepared.lanes.clone(),
            foreign: self.peer.is_foreign(),
            op: plan.op(),
            bytes: plan.bytes(),
            descriptors: plan.asked(),
            merged: plan.merged(),
            post_time: Duration::ZERO,
            total_time: total,
            attempts: run.attempts,
            failures: std::mem::take(&mut run.failures),
        });
    }

    pub(super) fn moved(&self) -> u64 {
        let run = self.run.lock();
        run.prepared.as_ref().map_or(0, |p| p.transfer.moved())
    }

    pub(super) fn receipt(&self) -> Option<Receipt> {
        let run = self.run.lock();
        run.receipt.clone().map(|receipt| Receipt {
            post_time: run.post_time,
            ..receipt
        })
    }

    /// Makes an active request end early with `why`.
    pub(crate) fn stop(self: &Arc<Self>, why: Error) {
        self.stop_post(None, why);
    }

    /// [`Inner::stop`], but only the post that began at `posted`, if that is said.
    pub(super) fn stop_post(self: &Arc<Self>, posted: Option<Instant>, why: Error) {
        let transfer = {
            let mut run = self.run.lock();
            let another = posted.is_some() && posted != run.posted;
            if another || !self.is_active() || run.stopping.is_some() {
                return;
            }
            run.stopping = Some((why.clone(), Instant::now()));
            match (&run.prepared, run.in_backend) {
                (Some(p), true) => Some(p.transfer.clone()),
                _ => None,
            }
        };
        match transfer {
            Some(transfer) => {
                transfer.cancel();
                self.shared.runtime.tick_by(Instant::now() + GRACE);
            }
            None => {
                self.peer.unpark(self);
                self.end(Err(why));
            }
        }
    }

    /// Whether the present post may touch the peer's region `id` over `link`.
    pub(crate) fn uses(&self, id: crate::RegionId, link: &Link) -> bool {
        let run = self.run.lock();
        run.in_backend
            && run
                .prepared
                .as_ref()
                .is_some_and(|p| std::ptr::eq(&*p.link, link))
            && self.plan.remote().regions().iter().any(|r| r.id == id)
    }
}

impl OpOwner for Inner {
    fn finished(self: Arc<Self>, attempt: u32, result: Result<()>) {
        if self.run.lock().attempt != attempt {
            tracing::error!(peer = %self.peer.name, "a backend completed an attempt that is over");
            return;
        }
        match result {
            Ok(()) => self.end(Ok(())),
            Err(e) => self.attempt_failed(e),
        }
    }
}
