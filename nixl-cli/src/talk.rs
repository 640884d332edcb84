//! How the two sides of a job talk: the initiator gives orders, the target answers.
//!
//! Both are notifications of the library itself, so one host and two hosts work the same way.

use std::time::{Duration, Instant};

use nixl::{Agent, Error, ErrorKind, Notification, Result};
use serde::{Deserialize, Serialize};

use crate::{
    job::{Job, Role, Side},
    out::to_json,
};

/// Patience with an order: filling and checking gigabytes takes a while.
const PATIENCE: Duration = Duration::from_secs(120);

/// Patience with a target that is told to end.
const GOODBYE: Duration = Duration::from_secs(2);

/// After so long without a word, look whether the other side still lives.
const SILENCE: Duration = Duration::from_millis(500);

/// Longest time for the other side to take a new connection.
const ANSWERS: Duration = Duration::from_secs(5);

/// What the initiator wants of the target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Allocate memory for a job.
    Prepare(Job),
    /// Write every block's pattern under this seed.
    Fill(u64),
    /// Overwrite every block.
    Poison,
    /// Compare every byte with the pattern under this seed.
    Check(u64),
    /// Send this many notifications back.
    Echo(u32),
    /// End.
    Stop,
}

/// What the target says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Done, and for a check: all bytes are right.
    Good,
    /// The job's memory begins at this address; the metadata (in hexadecimal) names it.
    Ready {
        /// First address.
        base: u64,
        /// The target's new metadata.
        metadata: String,
    },
    /// The first block with a wrong byte.
    WrongBlock(u64),
    /// An error.
    Failed(String),
}

/// Serves the first initiator that gives an order, until it says stop.
///
/// Errors: `PeerGone` when the initiator ends without a word. Without any order it waits for ever.
pub(crate) fn serve(agent: &Agent, mut initiator: Option<String>) -> Result<()> {
    let mut side = None;
    loop {
        let Some(order) = agent.wait_notification(SILENCE) else {
            if let Some(name) = &initiator {
                agent.connect(name, ANSWERS)?;
            }
            continue;
        };
        let stranger = initiator.as_ref().is_some_and(|name| **name != *order.from);
        if !order.verified || stranger {
            eprintln!("ignored an order of {:?}, who is not in charge", order.from);
            continue;
        }
        let from = initiator.get_or_insert_with(|| order.from.to_string());
        let answer = match serde_json::from_slice(&order.data) {
            Ok(Order::Stop) => {
                agent.notify(from, to_json(&Answer::Good)?.as_bytes())?;
                return Ok(());
            }
            Ok(Order::Echo(rounds)) => echo(agent, rounds)
                .map_or_else(|e| Answer::Failed(e.to_string()), |()| Answer::Good),
            Ok(order) => {
                obey(agent, &order, &mut side).unwrap_or_else(|e| Answer::Failed(e.to_string()))
            }
            Err(e) => Answer::Failed(format!("not an order: {e}")),
        };
        agent.notify(from, to_json(&answer)?.as_bytes())?;
    }
}

fn obey(agent: &Agent, order: &Order, side: &mut Option<Side>) -> Result<Answer> {
    if let Order::Prepare(job) = order {
        job.check(1)?;
        let new = side.insert(Side::new(agent, job, Role::Target)?);
        return Ok(Answer::Ready {
            base: new.base(),
            metadata: hex(&agent.metadata()?),
        });
    }
    let side = side
        .as_ref()
        .ok_or_else(|| Error::new(ErrorKind::ApiMisuse, "no job was prepared"))?;
    let wrong = match order {
        Order::Fill(seed) => side.blocks().fill(*seed).map(|()| None),
        Order::Poison => side.blocks().poison().map(|()| None),
        Order::Check(seed) => side.blocks().check(*seed),
        Order::Prepare(_) | Order::Echo(_) | Order::Stop => Ok(None),
    }?;
    Ok(wrong.map_or(Answer::Good, Answer::WrongBlock))
}

fn echo(agent: &Agent, rounds: u32) -> Result<()> {
    for _ in 0..rounds {
        let ping = next_of(agent)?;
        agent.notify(&ping.from, &ping.data)?;
    }
    Ok(())
}

/// The next notification of an exchange that is going on.
fn next_of(agent: &Agent) -> Result<Notification> {
    let lost = || Error::new(ErrorKind::Timeout, "the other side of the echo fell silent");
    agent.wait_notification(ANSWERS).ok_or_else(lost)
}

/// The initiator's view of its target.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    /// This side.
    pub(crate) agent: &'a Agent,
    /// The target's name.
    pub(crate) name: &'a str,
}

impl Target<'_> {
    /// Makes it allocate memory for `job` and learns about it; returns its first address.
    pub(crate) fn prepare(self, job: &Job) -> Result<u64> {
        match self.ask(&Order::Prepare(job.clone()), PATIENCE)? {
            Answer::Ready { base, metadata } => {
                self.agent.load_metadata(&unhex(&metadata)?)?;
                Ok(base)
            }
            other => Err(self.unexpected(&other)),
        }
    }

    /// Gives an order that has no result.
    pub(crate) fn order(self, order: &Order) -> Result<()> {
        match self.ask(order, PATIENCE)? {
            Answer::Good => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Makes it compare every byte with the pattern under `seed`; the first wrong block.
    pub(crate) fn check(self, seed: u64) -> Result<Option<u64>> {
        match self.ask(&Order::Check(seed), PATIENCE)? {
            Answer::Good => Ok(None),
            Answer::WrongBlock(block) => Ok(Some(block)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// How long `rounds` notifications of `len` bytes take to the target and back, each.
    pub(crate) fn echo(self, rounds: u32, len: usize) -> Result<Vec<Duration>> {
        let order = to_json(&Order::Echo(rounds))?;
        self.agent.notify(self.name, order.as_bytes())?;
        let mut ping = vec![0; len];
        let mut times = Vec::with_capacity(rounds as usize);
        for round in 0..rounds {
            ping.fill(round as u8);
            let begun = Instant::now();
            self.agent.notify(self.name, &ping)?;
            let pong = next_of(self.agent)?;
            times.push(begun.elapsed());
            if pong.data != ping {
                return Err(self.misbehaved("an echo came back with other bytes".to_owned()));
            }
        }
        match serde_json::from_slice(&next_of(self.agent)?.data) {
            Ok(Answer::Good) => Ok(times),
            other => Err(self.misbehaved(format!("no end of the echo but {other:?}"))),
        }
    }

    /// Tells it to end; it may be gone already.
    pub(crate) fn stop(self) {
        let _ = self.ask(&Order::Stop, GOODBYE);
    }

    /// Gives an order and waits for the answer, for as long as the target lives.
    fn ask(self, order: &Order, patience: Duration) -> Result<Answer> {
        self.agent.notify(self.name, to_json(order)?.as_bytes())?;
        let asked = Instant::now();
        loop {
            match self.agent.wait_notification(SILENCE.min(patience)) {
                Some(n) if n.verified && *n.from == *self.name => {
                    return serde_json::from_slice(&n.data).map_err(|e| {
                        self.misbehaved(format!("the target's answer does not parse: {e}"))
                    });
                }
                Some(_) => {}
                None if asked.elapsed() >= patience => {
                    let text = format!("the target did not answer within {patience:?}");
                    return Err(Error::new(ErrorKind::Timeout, text).with_peer(self.name));
                }
                None => self.agent.connect(self.name, ANSWERS)?,
            }
        }
    }

    fn unexpected(self, answer: &Answer) -> Error {
        self.misbehaved(match answer {
            Answer::Failed(why) => format!("the target cannot do its part: {why}"),
            other => format!("the target's answer makes no sense: {other:?}"),
        })
    }

    fn misbehaved(self, text: String) -> Error {
        Error::new(ErrorKind::PeerMisbehaved, text).with_peer(self.name)
    }
}

/// Bytes as text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Text from [`hex`] as bytes.
pub(crate) fn unhex(text: &str) -> Result<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8);
    let pair = |p: &[u8]| Some((digit(*p.first()?)? << 4) | digit(*p.get(1)?)?);
    text.as_bytes()
        .chunks(2)
        .map(pair)
        .collect::<Option<_>>()
        .ok_or_else(|| Error::new(ErrorKind::Malformed, "metadata is not hexadecimal"))
}

#[cfg(test)]
mod tests {
    use super::{hex, unhex};

    #[test]
    fn hexadecimal_comes_back_and_other_text_does_not() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&all)).unwrap(), all);
        for text in ["0", "0g", "012", "é1"] {
            assert!(unhex(text).is_err(), "{text}");
        }
    }
}
