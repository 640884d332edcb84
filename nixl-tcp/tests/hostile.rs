//! A peer that knows the secret and breaks the protocol: the connection closes, nothing else happens.

mod common;

use std::{
    io::{ErrorKind::WouldBlock, Read, Write},
    net::TcpStream,
};

use common::{proxy::port_of, *};
use nixl_core::{
    ErrorKind,
    auth::{ClientHandshake, SessionKey},
};
use nixl_tcp_proto::*;

/// A client made by hand: a control stream and data streams, all let in.
struct Raw {
    control: TcpStream,
    data: Vec<TcpStream>,
    far: Link,
}

fn hear(stream: &mut TcpStream) -> Vec<u8> {
    let mut rx = GreetingRx::new();
    loop {
        if let Some(g) = rx.greeting().unwrap() {
            assert_ne!(
                g.kind,
                GreetingKind::Reject,
                "{}",
                String::from_utf8_lossy(g.body)
            );
            return g.body.to_vec();
        }
        let n = stream.read(rx.space().unwrap()).unwrap();
        assert_ne!(n, 0, "the listener hung up");
        rx.received(n);
    }
}

fn say(stream: &mut TcpStream, kind: GreetingKind, body: &[u8]) {
    let mut out = Vec::new();
    put_greeting(&mut out, kind, body).unwrap();
    stream.write_all(&out).unwrap();
}

fn dial(to: &Node) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port_of(&to.card))).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

fn proof(key: &SessionKey, index: u8) -> [u8; 32] {
    key.derive(&[&b"join"[..], &[index]].concat())
}

impl Raw {
    fn connect(me: &Node, to: &Node) -> Self {
        let before = to.upper.accepted.lock().len();
        let mut control = dial(to);
        let (handshake, hello) =
            ClientHandshake::new("tcp", me.identity.clone(), to.identity.clone()).unwrap();
        say(&mut control, GreetingKind::Hello, &hello);
        let (mut finish, key) = handshake.finish(&hear(&mut control)).unwrap();
        finish.push(2);
        say(&mut control, GreetingKind::Finish, &finish);
        let session = hear(&mut control);
        let data = (0..2u8)
            .map(|i| {
                let mut stream = dial(to);
                let body = [&session[..], &[i], &proof(&key, i)].concat();
                say(&mut stream, GreetingKind::Join, &body);
                hear(&mut stream);
                stream
            })
            .collect();
        to.until("the connection", || to.upper.accepted.lock().len() > before);
        let far = to.upper.accepted.lock()[before].clone();
        Self { control, data, far }
    }

    fn settings(&mut self) {
        let mut out = Vec::new();
        let s = Settings {
            slots: 4,
            list_bytes: 4096,
            streams: 2,
        };
        put_settings(&mut out, s);
        self.control.write_all(&out).unwrap();
    }

    /// The other side closes, and says that it was our fault.
    #[track_caller]
    fn is_thrown_out(&mut self, node: &Node, what: &str) {
        node.until(what, || self.far.inbox.closed.lock().is_some());
        let why = self.far.inbox.closed.lock().clone().unwrap();
        assert_eq!(why.kind(), ErrorKind::PeerMisbehaved, "{what}: {why}");
        let mut rest = Vec::new();
        match self.control.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(e) => assert_ne!(e.kind(), WouldBlock, "{what}: the line stayed open"),
        }
    }
}

/// A frame header: type, status, slot, sequence, length, auxiliary.
fn header(ty: u8, status: u8, slot: u16, seq: u32, len: u32, aux: u32) -> Vec<u8> {
    let mut out = vec![ty, status];
    out.extend(slot.to_le_bytes());
    out.extend(seq.to_le_bytes());
    out.extend(len.to_le_bytes());
    out.extend(aux.to_le_bytes());
    out
}

/// An open frame for `len` bytes at the start of a region, in one chunk.
fn open(xfer: (u16, u32), op: OpenOp, region: &nixl_core::Region, len: u64) -> Vec<u8> {
    let named = RegionRef {
        key: region.key().0,
        addr: region.addr(),
    };
    let (chunks, runs) = ([len as u32], [Run::single(0, 0, len)]);
    let mut body = Vec::new();
    encode_open(
        &mut body,
        op,
        [named].into_iter(),
        chunks.into_iter(),
        runs.into_iter(),
    )
    .unwrap();
    let mut out = header(16, 0, xfer.0, xfer.1, body.len() as u32, 0);
    out.extend(body);
    out
}

#[test]
fn every_broken_frame_throws_its_sender_out() {
    let (a, b) = (Node::new("a", loopback()), Node::new("b", loopback()));
    let region = b.filled(4096, 7);
    let twice = [
        open((0, 1), OpenOp::Write, &region, 64),
        open((0, 1), OpenOp::Write, &region, 64),
    ]
    .concat();
    let again = [
        open((0, 1), OpenOp::Write, &region, 64),
        header(18, 0, 0, 1, 64, 1),
    ]
    .concat();
    let longer = [
        open((0, 1), OpenOp::Write, &region, 64),
        header(18, 0, 0, 1, 65, 0),
    ]
    .concat();
    let garbage_body = [header(16, 0, 0, 1, 64, 0), vec![0xff; 64]].concat();
    let on_data: [(&str, Vec<u8>); 12] = [
        ("unknown type", header(99, 0, 0, 0, 0, 0)),
        ("control frame", header(3, 0, 0, 0, 0, 0)),
        ("empty open", header(16, 0, 0, 1, 0, 0)),
        ("huge open", header(16, 0, 0, 1, u32::MAX, 0)),
        ("garbage open", garbage_body),
        (
            "slot out of range",
            open((9999, 1), OpenOp::Read, &region, 8),
        ),
        (
            "sequence out of turn",
            open((0, 5), OpenOp::Read, &region, 8),
        ),
        ("the same open twice", twice),
        ("no such chunk", again),
        ("another length", longer),
        ("huge chunk", header(18, 0, 0, 1, 5 << 20, 0)),
        ("answer to nothing", header(17, 0, 0, 1, 8, 0)),
    ];
    for (what, bytes) in &on_data {
        let mut raw = Raw::connect(&a, &b);
        raw.settings();
        raw.data[0].write_all(bytes).unwrap();
        raw.is_thrown_out(&b, what);
    }
    assert!(bytes(&region).iter().all(|x| *x == 7), "memory was touched");
    assert_eq!(region.pins(), 0);
    a.connect(&b);
}

#[test]
fn broken_control_frames_throw_their_sender_out() {
    let (a, b) = (Node::new("a", loopback()), Node::new("b", loopback()));
    let cases: [(&str, bool, Vec<u8>); 7] = [
        (
            "message before the settings",
            false,
            header(2, 0, 0, 0, 0, 0),
        ),
        ("settings twice", true, header(1, 0, 0, 0, 8, 0)),
        ("data frame", true, header(16, 0, 0, 1, 8, 0)),
        ("huge message", true, header(2, 0, 0, 0, u32::MAX, 0)),
        ("ack of nothing", true, header(3, 0, 0, 1, 0, 0)),
        ("unknown status", true, header(3, 77, 0, 0, 0, 0)),
        ("cancel out of turn", true, header(4, 0, 3, 9, 0, 0)),
    ];
    for (what, settled, bytes) in &cases {
        let mut raw = Raw::connect(&a, &b);
        if *settled {
            raw.settings();
        }
        let mut bytes = bytes.clone();
        if bytes[0] == 1 {
            bytes.extend([4, 0, 2, 0, 0, 16, 0, 0]);
        }
        raw.control.write_all(&bytes).unwrap();
        raw.is_thrown_out(&b, what);
    }
    a.connect(&b);
}

/// What waits for a peer that never reads is bounded; then it is cut off, and others are served.
#[test]
fn a_peer_that_never_reads_is_cut_off() {
    let (a, b) = (Node::new("a", loopback()), Node::new("b", loopback()));
    let mut raw = Raw::connect(&a, &b);
    raw.settings();
    let message = bytes::Bytes::from(vec![7; 1 << 20]);
    let took = (0..300)
        .take_while(|_| {
            let _ = raw.far.endpoint.send(message.clone());
            raw.far.inbox.closed.lock().is_none()
        })
        .count();
    assert!((64..=160).contains(&took), "{took} MiB were queued");
    raw.is_thrown_out(&b, "reads nothing");
    let why = raw.far.inbox.closed.lock().clone().unwrap();
    assert!(why.to_string().contains("does not read"), "{why}");
    a.connect(&b);
}

#[test]
fn a_chunk_that_overtakes_its_request_waits_for_it() {
    let (a, b) = (Node::new("a", loopback()), Node::new("b", loopback()));
    let region = b.filled(4096, 7);
    let mut raw = Raw::connect(&a, &b);
    raw.settings();
    let mut chunk = header(18, 0, 0, 1, 64, 0);
    chunk.extend([9; 64]);
    chunk.push(0);
    raw.data[1].write_all(&chunk).unwrap();
    let request = open((0, 1), OpenOp::Write, &region, 64);
    let (first, rest) = request.split_at(20);
    raw.data[0].write_all(first).unwrap();
    assert!(bytes(&region).iter().all(|x| *x == 7));
    raw.data[0].write_all(rest).unwrap();
    // Settings (24 bytes), then the ack.
    let mut answer = [0; 40];
    raw.control.read_exact(&mut answer).unwrap();
    assert_eq!(answer[24..], header(3, 0, 0, 1, 0, 0)[..]);
    let after = bytes(&region);
    assert!(after[..64].iter().all(|x| *x == 9) && after[64..].iter().all(|x| *x == 7));
}

#[test]
fn a_cancel_that_overtakes_its_request_stops_it() {
    let (a, b) = (Node::new("a", loopback()), Node::new("b", loopback()));
    let region = b.filled(4096, 7);
    let mut raw = Raw::connect(&a, &b);
    raw.settings();
    let mut cancel = Vec::new();
    put_cancel(&mut cancel, Xfer { slot: 0, seq: 1 });
    raw.control.write_all(&cancel).unwrap();
    // The control stream is in order: once this arrived, so did the cancel.
    let mut message = Vec::new();
    put_message(&mut message, b"now").unwrap();
    raw.control.write_all(&message).unwrap();
    b.until("the message", || !raw.far.inbox.messages.lock().is_empty());
    let mut bytes_of = open((0, 1), OpenOp::Write, &region, 64);
    bytes_of.extend(header(18, 0, 0, 1, 64, 0));
    bytes_of.extend([9; 64]);
    bytes_of.push(0);
    raw.data[0].write_all(&bytes_of).unwrap();
    let mut answer = [0; 40];
    raw.control.read_exact(&mut answer).unwrap();
    assert_eq!(answer[24..], header(3, 1, 0, 1, 0, 0)[..]);
    // The slot is free again and the stream still in step.
    raw.data[0]
        .write_all(&open((0, 2), OpenOp::Read, &region, 64))
        .unwrap();
    let mut chunk = [0; 16 + 64 + 1];
    raw.data[0].set_nonblocking(false).unwrap();
    let got = (0..2).find(|i| {
        raw.data[*i]
            .set_read_timeout(Some(std::time::Duration::from_millis(500)))
            .unwrap();
        raw.data[*i].read_exact(&mut chunk).is_ok()
    });
    assert!(got.is_some(), "the READ was not answered");
    assert!(
        chunk[16..80].iter().all(|x| *x == 7),
        "a cancelled WRITE landed"
    );
}
