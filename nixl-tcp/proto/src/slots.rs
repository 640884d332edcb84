//! Tables of open requests: numbers and credit at the initiator, life of a request at the target.

use alloc::vec::Vec;

use crate::{MAX_OPEN, ProtocolError, Settings, Xfer};

/// Requests that this side initiated.
#[derive(Debug)]
pub struct InitiatorSlots<T> {
    slots: Vec<Initiated<T>>,
    free: Vec<u16>,
    credit: u32,
    limit: u32,
}

#[derive(Debug)]
struct Initiated<T> {
    seq: u32,
    entry: Option<(T, u32)>,
}

/// What a request number names at the moment.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<T> {
    /// A request in progress.
    Active(T),
    /// A request that is over; what still arrives for it is dropped.
    Over,
    /// A request whose open frame has not arrived (never at its initiator).
    NotYet,
}

impl<T> InitiatorSlots<T> {
    /// A table with the credit that the peer's settings give.
    pub fn new(peer: Settings) -> Self {
        let slots = (0..peer.slots)
            .map(|_| Initiated {
                seq: 0,
                entry: None,
            })
            .collect();
        Self {
            slots,
            free: (0..peer.slots).rev().collect(),
            credit: peer.list_bytes,
            limit: peer.list_bytes,
        }
    }

    /// List bytes that one request may take at most.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// A number for a request of this `cost` (as [`crate::encode_open`] returned it), or `entry` back where the credit
    /// is used up: try again after [`release`](Self::release).
    pub fn acquire(&mut self, cost: u32, entry: T) -> Result<Xfer, T> {
        if cost > self.credit {
            return Err(entry);
        }
        let Some(slot) = self.free.pop() else {
            return Err(entry);
        };
        self.credit -= cost;
        let s = &mut self.slots[usize::from(slot)];
        s.seq = s.seq.wrapping_add(1);
        s.entry = Some((entry, cost));
        Ok(Xfer { slot, seq: s.seq })
    }

    /// The request with this number.
    ///
    /// # Errors
    /// `UnknownXfer` for a number that was never handed out.
    pub fn find(&self, xfer: Xfer) -> Result<Lookup<&T>, ProtocolError> {
        let s = self
            .slots
            .get(usize::from(xfer.slot))
            .ok_or(ProtocolError::UnknownXfer)?;
        match (xfer.seq.wrapping_sub(s.seq) as i32, &s.entry) {
            (0, Some((entry, _))) => Ok(Lookup::Active(entry)),
            (..=0, _) => Ok(Lookup::Over),
            _ => Err(ProtocolError::UnknownXfer),
        }
    }

    /// Ends a request that the target is known to have seen the end of; its credit is free again.
    pub fn release(&mut self, xfer: Xfer) -> Option<T> {
        let s = self
            .slots
            .get_mut(usize::from(xfer.slot))
            .filter(|s| s.seq == xfer.seq)?;
        let (entry, cost) = s.entry.take()?;
        self.credit += cost;
        self.free.push(xfer.slot);
        Some(entry)
    }

    /// The requests in progress.
    pub fn iter(&self) -> impl Iterator<Item = (Xfer, &T)> {
        self.slots.iter().enumerate().filter_map(|(i, s)| {
            let (entry, _) = s.entry.as_ref()?;
            Some((
                Xfer {
                    slot: i as u16,
                    seq: s.seq,
                },
                entry,
            ))
        })
    }
}

/// Requests that the peer initiated.
#[derive(Debug)]
pub struct TargetSlots<T> {
    slots: Vec<Target<T>>,
    used: u64,
    limit: u64,
}

#[derive(Debug)]
struct Target<T> {
    seq: u32,
    entry: Option<(T, u32)>,
    /// The current request's end was said.
    acked: bool,
    /// The next request was cancelled before its open frame arrived.
    cancelled: bool,
}

/// What became of an open frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<T> {
    /// The request is in progress. The slot's last request, if its end had not been noted yet, comes back.
    Active(Option<T>),
    /// It had been cancelled: answer with an ack that says so.
    Cancelled,
}

/// What to do about a cancel.
#[derive(Debug, PartialEq, Eq)]
pub enum CancelAction<T> {
    /// Stop the request, then [`TargetSlots::finish`] it and send the ack.
    Stop(T),
    /// All its chunks were sent: send the ack now.
    Ack,
    /// The ack is on its way, or will be sent when the open frame arrives.
    Nothing,
}

impl<T> TargetSlots<T> {
    /// A table that gives the credit of these settings, which is ours.
    pub fn new(ours: Settings) -> Self {
        let slots = (0..ours.slots)
            .map(|_| Target {
                seq: 0,
                entry: None,
                acked: true,
                cancelled: false,
            })
            .collect();
        // A READ is over for its initiator when the last byte arrives, a little before it is over here.
        Self {
            slots,
            used: 0,
            limit: u64::from(ours.list_bytes.min(MAX_OPEN)) * 2,
        }
    }

    /// An open frame arrived.
    ///
    /// # Errors
    /// The number is not the slot's next, or the credit is exceeded.
    pub fn open(&mut self, xfer: Xfer, cost: u32, entry: T) -> Result<Opened<T>, ProtocolError> {
        let s = self
            .slots
            .get_mut(usize::from(xfer.slot))
            .ok_or(ProtocolError::UnknownXfer)?;
        if xfer.seq != s.seq.wrapping_add(1) {
            return Err(ProtocolError::UnknownXfer);
        }
        let last = s.entry.take();
        self.used -= last.as_ref().map_or(0, |(_, c)| u64::from(*c));
        s.seq = xfer.seq;
        s.acked = core::mem::take(&mut s.cancelled);
        if s.acked {
            return Ok(Opened::Cancelled);
        }
        self.used += u64::from(cost);
        s.entry = Some((entry, cost));
        if self.used > self.limit {
            return Err(ProtocolError::CreditExceeded);
        }
        Ok(Opened::Active(last.map(|(t, _)| t)))
    }

    /// The request that a chunk belongs to.
    ///
    /// # Errors
    /// `UnknownXfer` for a number that is neither current, past, nor next in its slot.
    pub fn find(&self, xfer: Xfer) -> Result<Lookup<&T>, ProtocolError> {
        let s = self
            .slots
            .get(usize::from(xfer.slot))
            .ok_or(ProtocolError::UnknownXfer)?;
        match (xfer.seq.wrapping_sub(s.seq) as i32, &s.entry) {
            (0, Some((entry, _))) => Ok(Lookup::Active(entry)),
            (..=0, _) => Ok(Lookup::Over),
            (1, _) => Ok(Lookup::NotYet),
            _ => Err(ProtocolError::UnknownXfer),
        }
    }

    /// A cancel arrived.
    ///
    /// # Errors
    /// `UnknownXfer` as [`find`](Self::find).
    pub fn cancel(&mut self, xfer: Xfer) -> Result<CancelAction<&T>, ProtocolError> {
        let s = self
            .slots
            .get_mut(usize::from(xfer.slot))
            .ok_or(ProtocolError::UnknownXfer)?;
        match xfer.seq.wrapping_sub(s.seq) as i32 {
            0 => Ok(match &s.entry {
                Some((entry, _)) => CancelAction::Stop(entry),
                None if core::mem::replace(&mut s.acked, true) => CancelAction::Nothing,
                None => CancelAction::Ack,
            }),
            ..0 => Ok(CancelAction::Nothing),
            1 => {
                s.cancelled = true;
                Ok(CancelAction::Nothing)
            }
            _ => Err(ProtocolError::UnknownXfer),
        }
    }

    /// Ends a request; `acked` says that an ack is sent for it. `None` if it had ended before: then send no ack.
    pub fn finish(&mut self, xfer: Xfer, acked: bool) -> Option<T> {
        let s = self
            .slots
            .get_mut(usize::from(xfer.slot))
            .filter(|s| s.seq == xfer.seq)?;
        let (entry, cost) = s.entry.take()?;
        self.used -= u64::from(cost);
        s.acked = acked;
        Some(entry)
    }

    /// The requests in progress.
    pub fn iter(&self) -> impl Iterator<Item = (Xfer, &T)> {
        self.slots.iter().enumerate().filter_map(|(i, s)| {
            let (entry, _) = s.entry.as_ref()?;
            Some((
                Xfer {
                    slot: i as u16,
                    seq: s.seq,
                },
                entry,
            ))
        })
    }
}
