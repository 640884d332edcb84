//! Arbitrary bytes on every kind of stream: an error or an event, never a panic, never more memory than arrived.

use nixl_tcp_proto::*;

struct Lcg(u64);

impl Lcg {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }

    /// Mostly plausible bytes: small numbers and frame types.
    fn fill(&mut self, out: &mut [u8]) {
        for x in out {
            *x = match self.below(5) {
                0 => self.below(256) as u8,
                1 => [16, 17, 18, 1, 2, 3, 4, 5, 6][self.below(9)],
                2 => self.below(4) as u8,
                _ => 0,
            };
        }
    }
}

const SEEDS: u64 = if cfg!(miri) { 20 } else { 100_000 };

#[test]
fn data_streams_survive_garbage() {
    for seed in 0..SEEDS {
        let mut rng = Lcg(seed);
        let mut rx = DataRx::new(1 << 16);
        for _ in 0..64 {
            let n = match rx.step() {
                Err(_) => break,
                Ok(DataStep::Fill(buf)) => {
                    let n = rng.below(buf.len()) + 1;
                    let n = n.min(64);
                    rng.fill(&mut buf[..n]);
                    n
                }
                Ok(DataStep::Copy(bytes)) => rng.below(bytes.len()) + 1,
                Ok(DataStep::Payload { left, tail }) => {
                    rng.fill(tail);
                    if rng.below(2) == 0 {
                        left as usize + rng.below(tail.len() + 1)
                    } else {
                        rng.below(left as usize)
                    }
                }
                Ok(DataStep::Skip(left)) => rng.below(left as usize) + 1,
                Ok(DataStep::Open { .. }) => {
                    let body = std::mem::take(rx.body());
                    if let Ok(layout) = OpenLayout::parse(&body) {
                        let _ = layout.index(&body, |_| Some(1 << 20), &mut Vec::new());
                    }
                    0
                }
                Ok(DataStep::Chunk(_)) => {
                    if rng.below(2) == 0 {
                        rx.accept()
                    } else {
                        rx.discard()
                    }
                    0
                }
                Ok(DataStep::Done { .. }) => 0,
            };
            if n > 0 {
                rx.received(n).unwrap();
            }
        }
    }
}

#[test]
fn control_streams_survive_garbage() {
    let settings = Settings {
        slots: 4,
        list_bytes: 1 << 16,
        streams: 2,
    };
    for seed in 0..SEEDS {
        let mut rng = Lcg(seed);
        let mut wire = Vec::new();
        put_settings(&mut wire, settings);
        wire.resize(200, 0);
        rng.fill(&mut wire[24..]);
        let (mut rx, mut at) = (ControlRx::new(), 0);
        let (mut ours, mut theirs) = (
            InitiatorSlots::new(settings),
            TargetSlots::<()>::new(settings),
        );
        let xfer = ours.acquire(1, ()).unwrap();
        loop {
            let n = match rx.step() {
                Err(_) => break,
                Ok(ControlStep::Fill(buf)) => {
                    let n = buf.len().min(wire.len() - at).min(rng.below(40) + 1);
                    buf[..n].copy_from_slice(&wire[at..at + n]);
                    at += n;
                    if n == 0 {
                        break;
                    }
                    n
                }
                Ok(ControlStep::Ack { xfer, .. }) => {
                    let _ = ours.find(xfer).map(|_| ());
                    ours.release(xfer);
                    continue;
                }
                Ok(ControlStep::Cancel(x)) => {
                    let _ = theirs.cancel(x).map(|_| ());
                    continue;
                }
                Ok(_) => continue,
            };
            rx.received(n).unwrap();
        }
        assert!(
            ours.find(xfer).is_ok(),
            "a number that was handed out is never unknown"
        );
    }
}

#[test]
fn a_message_is_bounded_and_memory_grows_with_what_arrives() {
    let mut wire = Vec::new();
    put_settings(
        &mut wire,
        Settings {
            slots: 1,
            list_bytes: 4096,
            streams: 1,
        },
    );
    put_message(&mut wire, b"hello").unwrap();
    wire.extend([2, 0, 0, 0, 0, 0, 0, 0]);
    wire.extend(MAX_MESSAGE.to_le_bytes());
    wire.extend([0; 4]);
    let mut rx = ControlRx::new();
    let mut at = 0;
    let mut messages = Vec::new();
    loop {
        match rx.step().unwrap() {
            ControlStep::Fill(buf) => {
                assert!(
                    buf.len() <= 256 << 10,
                    "{} bytes offered for a message of which nothing came",
                    buf.len()
                );
                let n = buf.len().min(wire.len() - at);
                if n == 0 {
                    break;
                }
                buf[..n].copy_from_slice(&wire[at..at + n]);
                at += n;
                rx.received(n).unwrap();
            }
            ControlStep::Message(m) => messages.push(m.to_vec()),
            _ => {}
        }
    }
    assert_eq!(messages, [b"hello".to_vec()]);
    assert!(put_message(&mut Vec::new(), &vec![0; MAX_MESSAGE as usize + 1]).is_err());
}

#[test]
fn frames_before_the_settings_and_second_settings_are_refused() {
    let settings = Settings {
        slots: 1,
        list_bytes: 4096,
        streams: 1,
    };
    let feed = |wire: &[u8]| {
        let mut rx = ControlRx::new();
        match rx.step().unwrap() {
            ControlStep::Fill(buf) => buf[..wire.len()].copy_from_slice(wire),
            other => panic!("{other:?}"),
        }
        rx.received(wire.len()).unwrap();
        let mut last = Ok(());
        for _ in 0..3 {
            last = match rx.step() {
                Ok(ControlStep::Fill(_)) => break,
                Ok(_) => Ok(()),
                Err(e) => Err(e),
            };
        }
        last
    };
    let mut wire = Vec::new();
    put_ping(&mut wire);
    assert_eq!(feed(&wire), Err(ProtocolError::BadType(5)));
    wire.clear();
    put_settings(&mut wire, settings);
    assert_eq!(feed(&wire), Ok(()));
    put_settings(&mut wire, settings);
    assert_eq!(feed(&wire), Err(ProtocolError::BadType(1)));
    wire.clear();
    put_settings(
        &mut wire,
        Settings {
            slots: 0,
            ..settings
        },
    );
    assert_eq!(feed(&wire), Err(ProtocolError::BadField("slots")));
}

#[test]
fn slot_numbers_are_checked() {
    let settings = Settings {
        slots: 2,
        list_bytes: 4096,
        streams: 1,
    };
    let mut ours = InitiatorSlots::new(settings);
    assert_eq!(ours.acquire(4097, 'x'), Err('x'), "above the credit");
    let (a, b) = (
        ours.acquire(4000, 'a').unwrap(),
        ours.acquire(96, 'b').unwrap(),
    );
    assert_eq!(ours.acquire(0, 'c'), Err('c'), "no slot left");
    assert_eq!(ours.release(a), Some('a'));
    assert_eq!(ours.release(a), None);
    assert_eq!(ours.find(a), Ok(Lookup::Over));
    assert_eq!(ours.find(b), Ok(Lookup::Active(&'b')));
    assert_eq!(
        ours.find(Xfer {
            seq: a.seq + 1,
            ..a
        }),
        Err(ProtocolError::UnknownXfer)
    );
    assert_eq!(
        ours.find(Xfer { slot: 2, seq: 0 }),
        Err(ProtocolError::UnknownXfer)
    );
    assert_eq!(
        ours.acquire(4000, 'd').unwrap(),
        Xfer {
            seq: a.seq + 1,
            ..a
        }
    );

    let mut theirs = TargetSlots::new(settings);
    let x = |seq| Xfer { slot: 0, seq };
    assert_eq!(theirs.find(x(1)), Ok(Lookup::NotYet));
    assert_eq!(theirs.find(x(2)), Err(ProtocolError::UnknownXfer));
    assert_eq!(theirs.open(x(2), 1, 'a'), Err(ProtocolError::UnknownXfer));
    assert_eq!(theirs.open(x(1), 1, 'a'), Ok(Opened::Active(None)));
    assert_eq!(theirs.cancel(x(1)), Ok(CancelAction::Stop(&'a')));
    assert_eq!(theirs.finish(x(1), true), Some('a'));
    assert_eq!(theirs.finish(x(1), true), None);
    assert_eq!(
        theirs.cancel(x(1)),
        Ok(CancelAction::Nothing),
        "the ack is out"
    );
    assert_eq!(
        theirs.cancel(x(2)),
        Ok(CancelAction::Nothing),
        "overtook its open frame"
    );
    assert_eq!(theirs.open(x(2), 1, 'b'), Ok(Opened::Cancelled));
    assert_eq!(theirs.find(x(2)), Ok(Lookup::Over));
    assert_eq!(theirs.open(x(3), 1, 'c'), Ok(Opened::Active(None)));
    assert_eq!(theirs.finish(x(3), false), Some('c'));
    assert_eq!(
        theirs.cancel(x(3)),
        Ok(CancelAction::Ack),
        "a READ that was pushed whole"
    );
    assert_eq!(theirs.cancel(x(3)), Ok(CancelAction::Nothing));
    assert_eq!(
        theirs.open(x(4), 9000, 'd'),
        Err(ProtocolError::CreditExceeded)
    );
}
