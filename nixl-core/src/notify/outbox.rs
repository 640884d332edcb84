//! The sending side: numbers, credit, and what to send again on another connection.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Ack, MAX_NOTIFICATION, Message, wire::NOTIFY_HEAD};
use crate::{ErrorKind, Result, error::fail};

/// Notifications of this agent to one peer generation.
#[derive(Debug)]
pub(crate) struct Outbox {
    window: u64,
    next_seq: u64,
    /// Numbered, not yet known to have arrived, oldest first.
    unacked: VecDeque<(u64, Bytes)>,
    /// How many of `unacked`, from the front, were handed to the present connection.
    handed: usize,
    /// Bytes numbered so far, bytes promised to posted requests, bytes the peer has taken.
    numbered: u64,
    reserved: u64,
    consumed: u64,
    /// Bytes of those numbered that the peer has received.
    received: u64,
}

impl Outbox {
    /// `window`: bytes that may wait undelivered at the peer.
    pub(crate) fn new(window: u64) -> Self {
        Self {
            window,
            next_seq: 0,
            unacked: VecDeque::new(),
            handed: 0,
            numbered: 0,
            reserved: 0,
            consumed: 0,
            received: 0,
        }
    }

    /// Sets room aside for a notification of `len` bytes that becomes deliverable later. `unsent`:
    /// bytes that a connection has not got rid of yet, though they count as arrived here.
    ///
    /// Errors: `ApiMisuse` above 16 MiB, `Exhausted` when the peer has not taken what it has.
    pub(crate) fn reserve(&mut self, len: usize, unsent: u64) -> Result<()> {
        if len > MAX_NOTIFICATION {
            return Err(fail(
                ErrorKind::ApiMisuse,
                format!("a notification of {len} bytes; at most {MAX_NOTIFICATION} are allowed"),
            ));
        }
        let cost = cost(len);
        let used = (self.numbered - self.consumed + self.reserved).saturating_add(unsent);
        if used.saturating_add(cost) > self.window {
            return Err(fail(
                ErrorKind::Exhausted,
                format!(
                    "{used} bytes of notifications wait untaken at the peer (limit {}); it must take \
                     some first",
                    self.window
                ),
            ));
        }
        self.reserved += cost;
        Ok(())
    }

    /// Gives back room of a notification that will not be sent.
    pub(crate) fn release(&mut self, len: usize) {
        self.reserved -= cost(len);
    }

    /// The notification with reserved room is deliverable now: numbers it.
    pub(crate) fn push(&mut self, data: &[u8]) {
        let cost = cost(data.len());
        self.reserved -= cost;
        self.numbered += cost;
        let seq = self.next_seq;
        self.next_seq += 1;
        self.unacked
            .push_back((seq, Message::Notify { seq, data }.encode()));
    }

    /// The next message for the present connection.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let (_, message) = self.unacked.get(self.handed)?;
        self.handed += 1;
        Some(message.clone())
    }

    /// The next notification's bytes, for a peer that acknowledges nothing: counts as taken.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        let (_, message) = self.unacked.pop_front()?;
        let data = message.slice(NOTIFY_HEAD..);
        self.received += cost(data.len());
        self.consumed = self.received;
        Some(data)
    }

    /// Whether anything waits to be handed to a connection.
    pub(crate) fn is_waiting(&self) -> bool {
        self.handed < self.unacked.len()
    }

    /// The connection is another one now: what was not acknowledged goes again.
    pub(crate) fn rewind(&mut self) {
        self.handed = 0;
    }

    /// Takes the peer's word on what arrived. Nonsense is an error of the peer.
    pub(crate) fn acked(&mut self, ack: Ack) -> Result<()> {
        let nonsense = || {
            let what = "the peer acknowledged notifications that it cannot have";
            fail(ErrorKind::PeerMisbehaved, what)
        };
        if ack.received > self.next_seq {
            return Err(nonsense());
        }
        while let Some((seq, message)) = self.unacked.front()
            && *seq < ack.received
        {
            self.received += cost(message.len() - NOTIFY_HEAD);
            self.unacked.pop_front();
            self.handed = self.handed.saturating_sub(1);
        }
        // What was taken was received before: else the window would open while we still hold it.
        if ack.consumed > self.received {
            return Err(nonsense());
        }
        self.consumed = self.consumed.max(ack.consumed);
        Ok(())
    }
}

/// What one notification counts against the window: empty ones are not free.
pub(super) fn cost(len: usize) -> u64 {
    len as u64 + 64
}
