//! Peers that break the protocol, before and after they proved who they are.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use nixl_conformance::rig::{Memory, Node, Rig, Side};
use nixl_core::{
    ErrorKind, Generation, Secret,
    auth::{ClientHandshake, Identity},
};
use nixl_ipc::SHM;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        SocketAddrUnix, SocketType, connect, recv, send, sendmsg, socket,
    },
};

use crate::{second::rig, setup::config};

const DIR: &str = "ipc-garbage";

/// A peer that speaks the protocol by hand.
struct Raw(OwnedFd);

impl Raw {
    fn connect(node: &Node) -> Self {
        let name = String::from_utf8(node.card().backends[0].address.to_vec()).unwrap();
        let fd = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        let here = std::env::current_dir().unwrap();
        // Long paths do not fit a socket address.
        std::env::set_current_dir(config(DIR, false).dir.unwrap()).unwrap();
        connect(&fd, &SocketAddrUnix::new(name).unwrap()).unwrap();
        std::env::set_current_dir(here).unwrap();
        Self(fd)
    }

    fn send(&self, packet: &[u8]) {
        // The other side may have closed already: that is the outcome, seen by `ended`.
        let _ = send(&self.0, packet, SendFlags::NOSIGNAL);
    }

    /// The next packet; empty at the end.
    fn recv(&self) -> Vec<u8> {
        let patience = Timespec {
            tv_sec: 20,
            tv_nsec: 0,
        };
        let n = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&patience)).unwrap();
        assert_eq!(n, 1, "no answer");
        let mut buf = vec![0; 70_000];
        let n = recv(&self.0, &mut buf[..], RecvFlags::empty()).map_or(0, |(n, _)| n);
        buf.truncate(n);
        buf
    }

    /// Waits for the end; true if the other side said why (type 5).
    fn ended(&self) -> bool {
        let mut said = false;
        loop {
            let packet = self.recv();
            match packet.first() {
                None => return said,
                Some(tag) => said |= *tag == 5,
            }
        }
    }

    /// Goes through the handshake as an agent that is not loaded there.
    fn shake(node: &Node) -> Self {
        let raw = Self::connect(node);
        let card = node.card();
        let me = Identity {
            name: "raw".to_owned(),
            generation: Generation(1),
            secret: Secret([1; 32]),
        };
        let server = Identity {
            name: card.name,
            generation: card.generation,
            secret: card.secret,
        };
        let (shake, hello) = ClientHandshake::new("ipc", me, server).unwrap();
        raw.send(&[&[1], &hello[..]].concat());
        let reply = raw.recv();
        assert_eq!(reply[0], 2);
        let (finish, _) = shake.finish(&reply[1..]).unwrap();
        raw.send(&[&[3], &finish[..]].concat());
        raw
    }

    /// Introduces itself with a proof that is not there.
    fn introduce(self) -> Self {
        self.send(&[&[4][..], &[0; 20]].concat());
        assert_eq!(self.recv()[0], 4);
        self
    }
}

/// A raw peer, open, and how the agent sees it.
fn open(rig: &Rig, node: &Arc<Node>) -> (Raw, Arc<Side>) {
    let before = node.accepted().len();
    let raw = Raw::shake(node).introduce();
    rig.wait("the raw peer to be accepted", || {
        node.accepted().len() > before
    });
    (raw, node.accepted().swap_remove(before))
}

fn still_works(rig: &Rig, node: &Arc<Node>) {
    let other = rig.node("other");
    let link = rig.connect(&other, node);
    rig.settle(&link);
}

#[test]
fn garbage_instead_of_a_handshake_is_refused() {
    let rig = rig(SHM, DIR);
    let node = rig.node("a");
    let packets: [&[u8]; 10] = [
        &[0],
        &[1],
        &[255; 3000],
        &[1, b'N', b'X', b'H', b'1'],
        &[3; 65],
        &[4; 21],
        &[6; 42],
        &[7; 18],
        &[9, 1, 2, 3],
        &[1; 65_536],
    ];
    for packet in packets {
        let raw = Raw::connect(&node);
        raw.send(packet);
        assert!(raw.ended(), "{packet:?}");
    }
    // Proven, but not introduced: nothing else is due.
    for packet in packets {
        let raw = Raw::shake(&node);
        if packet[0] != 4 {
            raw.send(packet);
            assert!(raw.ended(), "{packet:?}");
        }
    }
    let raw = Raw::shake(&node);
    raw.send(&[3; 65]);
    assert!(raw.ended(), "a second Finish");
    assert!(node.accepted().is_empty());
    still_works(&rig, &node);
    rig.finish();
}

#[test]
fn garbage_after_the_handshake_ends_the_connection() {
    let rig = rig(SHM, DIR);
    let node = rig.node("a");
    let grant = [&[7][..], &[0; 17]].concat();
    let packets: [&[u8]; 8] = [
        &[0],
        &[9],
        &[9, 2],
        &[200; 20],
        &[6; 41],
        &grant,
        &[1; 100],
        &[4; 21],
    ];
    for packet in packets {
        let (raw, side) = open(&rig, &node);
        raw.send(packet);
        assert!(raw.ended(), "{packet:?}");
        rig.wait("the end", || side.closed().is_some());
        let why = side.closed().unwrap();
        assert_eq!(why.kind(), ErrorKind::PeerMisbehaved, "{packet:?}: {why}");
    }
    still_works(&rig, &node);
    rig.finish();
}

#[test]
fn a_message_without_end_ends_the_connection() {
    let rig = rig(SHM, DIR);
    let node = rig.node("a");
    let (raw, side) = open(&rig, &node);
    let part = [&[9, 0][..], &vec![0; 65_534]].concat();
    for _ in 0..258 {
        raw.send(&part);
    }
    rig.wait("the end", || side.closed().is_some());
    assert_eq!(side.closed().unwrap().kind(), ErrorKind::PeerMisbehaved);
    assert_eq!(side.received(), 0);
    rig.finish();
}

#[test]
fn descriptors_that_nobody_asked_for_are_closed() {
    let rig = rig(SHM, DIR);
    let node = rig.node("a");
    let (raw, side) = open(&rig, &node);
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [writer.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let parts = [std::io::IoSlice::new(&[9, 1, 7])];
    sendmsg(&raw.0, &parts, &mut control, SendFlags::empty()).unwrap();
    drop(writer);
    rig.wait("the end", || side.closed().is_some());
    assert_eq!(side.closed().unwrap().kind(), ErrorKind::PeerMisbehaved);
    // No writer is left anywhere: the pipe ends.
    assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0));
    rig.finish();
}

/// A peer that asks without end and takes no answer is cut off, not served from our memory.
#[test]
fn questions_without_taking_the_answers_end_the_connection() {
    let rig = rig(SHM, DIR);
    let node = rig.node("a");
    let region = node.region(Memory::Agent, 4096);
    let (raw, side) = open(&rig, &node);
    let mut question = vec![6; 1];
    question.extend(0u64.to_le_bytes());
    question.push(0);
    question.extend(region.key().0);
    question.extend(region.addr().to_le_bytes());
    question.extend(4096u64.to_le_bytes());
    while side.closed().is_none() {
        if send(&raw.0, &question, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_err() {
            std::thread::yield_now();
        }
    }
    assert_eq!(side.closed().unwrap().kind(), ErrorKind::PeerMisbehaved);
    rig.finish();
}

/// What waits for a peer that never reads is bounded; then it is cut off, and others are served.
#[test]
fn a_peer_that_never_reads_is_cut_off() {
    let rig = rig(SHM, DIR);
    let node = rig.node("a");
    let (raw, side) = open(&rig, &node);
    let message = bytes::Bytes::from(vec![7; 1 << 20]);
    let took = (0..300)
        .take_while(|_| side.endpoint().send(message.clone()).is_ok())
        .count();
    assert!((64..=130).contains(&took), "{took} MiB were queued");
    rig.wait("the end", || side.closed().is_some());
    let why = side.closed().unwrap();
    assert_eq!(why.kind(), ErrorKind::PeerMisbehaved, "{why}");
    assert!(why.to_string().contains("does not read"), "{why}");
    still_works(&rig, &node);
    drop(raw);
    rig.finish();
}
