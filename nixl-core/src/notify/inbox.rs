//! The receiving side: drops duplicates, holds gaps, hands out in order.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;

use super::{Ack, outbox::cost};
use crate::{ErrorKind, Generation, Result, auth::PeerIdentity, error::fail};

/// Acknowledge at once after this many notifications or this part of the window.
const ACK_EVERY: u64 = 16;
const ACK_PART: u64 = 8;

/// Bytes that another agent sent along with a transfer or alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The sender's name.
    pub from: Arc<str>,
    /// The sender's incarnation.
    pub generation: Generation,
    /// The sender is loaded here and proved who it is; else name and generation are claims.
    pub verified: bool,
    /// The bytes.
    pub data: Bytes,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Notifications that can be taken now because of it.
    pub(crate) deliverable: usize,
    /// An acknowledgement should go out at once.
    pub(crate) ack_now: bool,
}

/// Notifications that arrived at this agent and were not taken yet.
#[derive(Debug)]
pub(crate) struct Inbox {
    window: u64,
    senders: HashMap<Account, Sender>,
    ready: VecDeque<(Notification, Account)>,
}

/// Whose window a notification counts against.
type Account = (Arc<str>, Generation);

#[derive(Debug, Default)]
struct Sender {
    next: u64,
    held: BTreeMap<u64, (bool, Bytes)>,
    /// Bytes that arrived (gaps included) and bytes that were taken, in all.
    arrived: u64,
    consumed: u64,
    last_ack: Ack,
}

impl Sender {
    fn ack(&self) -> Ack {
        Ack {
            received: self.next,
            consumed: self.consumed,
        }
    }
}

impl Inbox {
    pub(crate) fn new(window: u64) -> Self {
        Self {
            window,
            senders: HashMap::new(),
            ready: VecDeque::new(),
        }
    }

    /// Notification `seq` of `from` arrived.
    ///
    /// Errors: `PeerMisbehaved` when the sender ignores its credit.
    pub(crate) fn accept(
        &mut self,
        from: &Arc<str>,
        peer: &PeerIdentity,
        seq: u64,
        data: &[u8],
    ) -> Result<Accepted> {
        let account = (from.clone(), peer.generation);
        let sender = self.senders.entry(account.clone()).or_default();
        if seq < sender.next || sender.held.contains_key(&seq) {
            // It goes again because no acknowledgement came: the last one was lost.
            sender.last_ack = Ack::default();
            return Ok(Accepted {
                deliverable: 0,
                ack_now: true,
            });
        }
        if sender.arrived - sender.consumed + cost(data.len()) > self.window {
            return Err(fail(
                ErrorKind::PeerMisbehaved,
                "the peer sends notifications beyond its credit",
            ));
        }
        sender.arrived += cost(data.len());
        sender
            .held
            .insert(seq, (peer.verified, Bytes::copy_from_slice(data)));
        let before = self.ready.len();
        while let Some((verified, data)) = sender.held.remove(&sender.next) {
            sender.next += 1;
            let notification = Notification {
                from: from.clone(),
                generation: peer.generation,
                verified,
                data,
            };
            self.ready.push_back((notification, account.clone()));
        }
        Ok(Accepted {
            deliverable: self.ready.len() - before,
            ack_now: sender.next - sender.last_ack.received >= ACK_EVERY,
        })
    }

    /// A notification of a NIXL agent arrived, which has neither number nor credit. It counts
    /// against the window of `account`.
    ///
    /// Errors: `Exhausted` where that is full: there is no way to stop the sender.
    pub(crate) fn accept_foreign(
        &mut self,
        from: &Arc<str>,
        account: &Arc<str>,
        peer: &PeerIdentity,
        data: &[u8],
    ) -> Result<()> {
        let account = (account.clone(), peer.generation);
        let sender = self.senders.entry(account.clone()).or_default();
        if sender.arrived - sender.consumed + cost(data.len()) > self.window {
            let why = "the bytes that wait untaken fill its window; take notifications sooner";
            return Err(fail(ErrorKind::Exhausted, why).with_peer(from));
        }
        sender.arrived += cost(data.len());
        let notification = Notification {
            from: from.clone(),
            generation: peer.generation,
            verified: peer.verified,
            data: Bytes::copy_from_slice(data),
        };
        self.ready.push_back((notification, account));
        Ok(())
    }

    /// Takes the oldest notification.
    pub(crate) fn take(&mut self) -> Option<Notification> {
        let (n, account) = self.ready.pop_front()?;
        if let Some(sender) = self.senders.get_mut(&account) {
            sender.consumed += cost(n.data.len());
        }
        Some(n)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// The acknowledgement that `from` is owed, if any; counts as sent.
    pub(crate) fn owed(&mut self, from: &Arc<str>, generation: Generation) -> Option<Ack> {
        let sender = self.senders.get_mut(&(from.clone(), generation))?;
        let ack = sender.ack();
        (ack != sender.last_ack).then(|| {
            sender.last_ack = ack;
            ack
        })
    }

    /// Whether `from` should hear now that much of its window is free again.
    pub(crate) fn much_consumed(&self, from: &Arc<str>, generation: Generation) -> bool {
        self.senders
            .get(&(from.clone(), generation))
            .is_some_and(|s| s.consumed - s.last_ack.consumed >= self.window / ACK_PART)
    }

    /// A peer proved to be this incarnation of `from`: all others are over, and so is what they left
    /// incomplete.
    pub(crate) fn replaced(&mut self, from: &str, generation: Generation) {
        self.senders
            .retain(|(name, g), _| **name != *from || *g == generation);
    }

    /// A connection of `from` came or went: it needs an acknowledgement whatever was said before.
    pub(crate) fn reconnected(&mut self, from: &Arc<str>, generation: Generation) {
        if let Some(sender) = self.senders.get_mut(&(from.clone(), generation)) {
            sender.last_ack = Ack::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Outbox, *};
    use crate::notify::Message;

    fn sender() -> (Arc<str>, PeerIdentity) {
        let peer = PeerIdentity {
            name: "a".into(),
            generation: Generation(1),
            verified: true,
        };
        ("a".into(), peer)
    }

    fn taken(inbox: &mut Inbox) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| inbox.take())
            .map(|n| n.data.to_vec())
            .collect()
    }

    #[test]
    fn duplicates_drop_and_gaps_hold() {
        let (from, peer) = sender();
        let mut inbox = Inbox::new(1 << 20);
        for (seq, deliverable) in [(1u64, 0), (0, 2), (0, 0), (1, 0), (3, 0), (3, 0), (2, 2)] {
            let got = inbox.accept(&from, &peer, seq, &[seq as u8]).unwrap();
            assert_eq!(got.deliverable, deliverable, "number {seq}");
        }
        assert_eq!(taken(&mut inbox), [[0], [1], [2], [3]]);
    }

    #[test]
    fn another_generation_counts_anew() {
        let (from, peer) = sender();
        let mut inbox = Inbox::new(1 << 20);
        inbox.accept(&from, &peer, 0, b"old").unwrap();
        let reborn = PeerIdentity {
            generation: Generation(2),
            ..peer
        };
        inbox.accept(&from, &reborn, 0, b"new").unwrap();
        assert_eq!(inbox.senders.len(), 2);
        inbox.replaced("a", Generation(2));
        assert_eq!(inbox.senders.len(), 1, "the dead one is forgotten");
        assert_eq!(taken(&mut inbox), [b"old", b"new"], "what it sent is not");
    }

    #[test]
    fn a_lost_connection_loses_and_doubles_nothing() {
        let (from, peer) = sender();
        let (mut outbox, mut inbox) = (Outbox::new(1 << 20), Inbox::new(1 << 20));
        let deliver = |outbox: &mut Outbox, inbox: &mut Inbox| {
            let bytes = outbox.next().unwrap();
            let Message::Notify { seq, data } = Message::decode(&bytes).unwrap() else {
                panic!()
            };
            inbox.accept(&from, &peer, seq, data).unwrap();
        };
        for i in 0..5u8 {
            outbox.reserve(1, 0).unwrap();
            outbox.push(&[i]);
        }
        deliver(&mut outbox, &mut inbox);
        deliver(&mut outbox, &mut inbox);
        let _lost = outbox.next();
        outbox.rewind();
        while outbox.is_waiting() {
            deliver(&mut outbox, &mut inbox);
        }
        assert_eq!(taken(&mut inbox), [[0], [1], [2], [3], [4]]);
        let ack = inbox.owed(&from, Generation(1)).unwrap();
        outbox.acked(ack).unwrap();
        outbox.rewind();
        assert!(!outbox.is_waiting());
        assert_eq!(inbox.owed(&from, Generation(1)), None);
    }

    #[test]
    fn credit_bounds_what_waits_and_returns_when_taken() {
        let (from, peer) = sender();
        let (mut outbox, mut inbox) = (Outbox::new(1000), Inbox::new(1000));
        let mut sent = 0u64;
        while outbox.reserve(100, 0).is_ok() {
            outbox.push(&[9; 100]);
            outbox.next().unwrap();
            inbox.accept(&from, &peer, sent, &[9; 100]).unwrap();
            sent += 1;
        }
        assert_eq!(sent, 1000 / 164);
        let e = inbox.accept(&from, &peer, sent, &[0; 500]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PeerMisbehaved);
        inbox.take().unwrap();
        outbox
            .acked(inbox.owed(&from, Generation(1)).unwrap())
            .unwrap();
        outbox.reserve(100, 0).unwrap();
        assert_eq!(
            outbox.reserve(100, 0).unwrap_err().kind(),
            ErrorKind::Exhausted
        );
        outbox.release(100);
        outbox.reserve(100, 0).unwrap();
        let e = outbox.reserve(crate::notify::MAX_NOTIFICATION + 1, 0);
        assert_eq!(e.unwrap_err().kind(), ErrorKind::ApiMisuse);
    }

    #[test]
    fn foreign_senders_share_a_window_where_they_are_not_loaded() {
        let claim = PeerIdentity {
            name: "nixl".into(),
            generation: Generation(0),
            verified: false,
        };
        let (from, other, nobody) = ("nixl".into(), "other".into(), "".into());
        let mut inbox = Inbox::new(2 * 164);
        inbox
            .accept_foreign(&from, &nobody, &claim, &[1; 100])
            .unwrap();
        inbox
            .accept_foreign(&other, &nobody, &claim, &[2; 100])
            .unwrap();
        let e = inbox.accept_foreign(&other, &nobody, &claim, b"");
        assert_eq!(e.unwrap_err().kind(), ErrorKind::Exhausted);
        inbox
            .accept_foreign(&from, &from, &claim, &[3; 100])
            .unwrap();
        let first = inbox.take().unwrap();
        assert_eq!((&*first.from, first.verified), ("nixl", false));
        inbox
            .accept_foreign(&other, &nobody, &claim, &[4; 100])
            .unwrap();
        let all: Vec<_> = taken(&mut inbox).iter().map(|data| data[0]).collect();
        assert_eq!(all, [2, 3, 4]);
    }

    #[test]
    fn impossible_acknowledgements_are_refused() {
        let mut outbox = Outbox::new(1000);
        let refused = |outbox: &mut Outbox, received, consumed| {
            let e = outbox.acked(Ack { received, consumed }).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::PeerMisbehaved);
        };
        refused(&mut outbox, 1, 0);
        refused(&mut outbox, 0, 1);
        for _ in 0..2 {
            outbox.reserve(36, 0).unwrap();
            outbox.push(&[0; 36]);
        }
        refused(&mut outbox, 0, 100);
        refused(&mut outbox, 1, 101);
        let ack = |received, consumed| Ack { received, consumed };
        outbox.acked(ack(1, 100)).unwrap();
        outbox.acked(ack(2, 100)).unwrap();
        outbox.acked(ack(1, 0)).unwrap();
    }
}
