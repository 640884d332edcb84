//! The `Future` view of a request.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::Request;
use crate::{ErrorKind, Result, error::fail, inflight::Phase};

/// Resolves when the request's present post ends. Needs nothing of an executor but a waker;
/// under `Progress::Caller` somebody has to call `Agent::progress`.
#[derive(Debug)]
pub struct Done<'a> {
    request: &'a Request,
    ticket: u64,
}

impl<'a> Done<'a> {
    pub(super) fn new(request: &'a Request) -> Self {
        Self { request, ticket: 0 }
    }
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.request.0.state.unregister(self.ticket);
    }
}

impl Future for Done<'_> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let inner = &self.request.0;
        if inner.state.phase() == Phase::Prepared {
            let e = fail(ErrorKind::NotPosted, "the request was never posted");
            return Poll::Ready(Err(e));
        }
        match inner.state.register(&mut self.ticket, cx.waker()) {
            None => Poll::Pending,
            Some(Phase::Done) => Poll::Ready(Ok(())),
            Some(_) => Poll::Ready(Err(inner.failure())),
        }
    }
}
