mod golden;
mod hostile;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{BackendCard, HostId, MemKind, PathCard, ProbeCard, RegionKey, Secret};

fn ours(blob: &[u8]) -> Metadata {
    match decode(blob, &Limits::default()).unwrap() {
        Decoded::Ours(metadata) => metadata,
        Decoded::Foreign(foreign) => panic!("taken for a NIXL blob: {foreign:?}"),
    }
}

fn refused(blob: &[u8]) -> crate::Error {
    decode(blob, &Limits::default()).unwrap_err()
}

/// `body` with the checksum item that makes it a blob of ours.
fn seal(mut body: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&body);
    container::put_item(&mut body, CRC, &crc.to_le_bytes());
    body
}

/// A well-framed blob around any trailer.
fn with_trailer(trailer: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    container::put(&mut body, "agentA", &NixlEntries::default());
    container::put_item(&mut body, TRAILER, trailer);
    seal(body)
}

fn region(n: u64) -> RegionCard {
    RegionCard {
        id: RegionId(n),
        addr: 0x7f00_0000_0000 + (n << 30),
        len: 1 << 30,
        kind: MemKind::Dram,
        dev: 0,
        key: RegionKey([0xa0 | n as u8; 16]),
        shareable: n.is_multiple_of(2),
        writable: true,
        extras: Vec::new(),
    }
}

fn card() -> AgentCard {
    AgentCard {
        name: "agentA".into(),
        generation: Generation(0x0123_4567_89ab_cdef),
        secret: Secret([0x5a; 32]),
        host: HostId {
            boot: *b"boot id 16 bytes",
            pid_ns: 4_026_531_836,
            net_ns: 4_026_531_840,
            pid: 4242,
            uid: 1000,
            name: "prefill-0".into(),
        },
        progresses: true,
        backends: vec![
            BackendCard {
                backend: "ipc".into(),
                address: Bytes::from_static(b"agentA.sock"),
                paths: vec![path("shm", 1, 1), path("cma", 1, 2)],
            },
            BackendCard {
                backend: "tcp".into(),
                address: Bytes::from_static(b"127.0.0.1:4000"),
                paths: vec![path("tcp", 1, 3)],
            },
        ],
        probes: vec![ProbeCard {
            region: RegionId(1),
            nonce: [0x33; 32],
        }],
        foreign: false,
    }
}

fn path(name: &str, wire_min: u16, wire_max: u16) -> PathCard {
    PathCard {
        path: name.into(),
        wire_min,
        wire_max,
    }
}

fn full() -> Metadata {
    Metadata {
        kind: Kind::Full,
        sequence: 7,
        name: "agentA".into(),
        generation: card().generation,
        card: Some(card()),
        regions: vec![region(1), region(2)],
        withdrawn: Vec::new(),
        nixl: NixlEntries::default(),
    }
}

fn partial() -> Metadata {
    Metadata {
        kind: Kind::Partial,
        sequence: 8,
        card: None,
        regions: vec![RegionCard {
            kind: MemKind::Vram,
            dev: 3,
            writable: false,
            extras: vec![("ucx".into(), Bytes::from_static(b"packed rkey"))],
            ..region(3)
        }],
        ..full()
    }
}

fn withdraw() -> Metadata {
    Metadata {
        kind: Kind::Withdraw,
        sequence: 9,
        card: None,
        regions: Vec::new(),
        withdrawn: vec![RegionId(1), RegionId(u64::MAX)],
        ..full()
    }
}

fn with_ucx() -> Metadata {
    let rkey = Bytes::from_static(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff]);
    Metadata {
        nixl: NixlEntries {
            conns: vec![("UCX".into(), Bytes::from_static(&[0x20; 40]))],
            sections: vec![NixlSection {
                backend: "UCX".into(),
                kind: MemKind::Dram,
                descs: vec![(0x7f47_244f_f010, 1 << 20, 0, rkey)],
            }],
        },
        ..full()
    }
}

fn any_region() -> impl Strategy<Value = RegionCard> {
    let span = (0..u64::MAX / 2, 1..u64::MAX / 2);
    let extra = ("[a-z]{1,9}", vec(any::<u8>(), 0..200));
    (
        span,
        0..5u32,
        any::<(u64, [u8; 8], bool, bool)>(),
        proptest::option::of(extra),
    )
        .prop_map(
            |((addr, len), kind, (dev, key, shareable, writable), extra)| RegionCard {
                id: RegionId(0),
                addr,
                len,
                kind: MemKind::from_number(kind).unwrap(),
                dev,
                key: RegionKey([key, key].concat().try_into().unwrap()),
                shareable,
                writable,
                extras: extra
                    .map(|(b, v)| (b, Bytes::from(v)))
                    .into_iter()
                    .collect(),
            },
        )
}

fn any_metadata() -> impl Strategy<Value = Metadata> {
    let head = (0..3u8, "\\PC{1,40}", any::<u64>(), any::<u64>());
    let lists = (vec(any_region(), 0..20), vec(any::<u64>(), 0..20));
    let card = (
        any::<[u8; 32]>(),
        "\\PC{0,40}",
        any::<bool>(),
        vec(any::<u8>(), 0..300),
    );
    (head, lists, card).prop_map(
        |(head, (mut regions, ids), (secret, host, progresses, address))| {
            let (kind, name, generation, sequence) = head;
            for (n, region) in (0u64..).zip(&mut regions) {
                region.id = RegionId(n << 40);
                region.key.0[..8].copy_from_slice(&n.to_le_bytes());
            }
            let mut card = card_named(&name, Generation(generation));
            card.secret = Secret(secret);
            card.host.name = host;
            card.progresses = progresses;
            card.backends[0].address = address.into();
            let base = Metadata {
                sequence,
                name,
                generation: Generation(generation),
                ..with_ucx()
            };
            match kind {
                0 => Metadata {
                    card: Some(card),
                    regions,
                    ..base
                },
                1 => Metadata {
                    kind: Kind::Partial,
                    card: progresses.then_some(card),
                    regions,
                    ..base
                },
                _ => Metadata {
                    sequence,
                    name: base.name,
                    generation: base.generation,
                    withdrawn: (0..)
                        .zip(ids)
                        .map(|(n, id)| RegionId(id << 8 | n))
                        .collect(),
                    ..withdraw()
                },
            }
        },
    )
}

fn card_named(name: &str, generation: Generation) -> AgentCard {
    AgentCard {
        name: name.into(),
        generation,
        ..card()
    }
}

proptest! {
    #[test]
    fn every_metadata_round_trips(metadata in any_metadata()) {
        prop_assert_eq!(ours(&encode(&metadata)), metadata);
    }
}

#[test]
fn spans_may_repeat_under_different_ids() {
    let mut metadata = full();
    metadata.regions[1].addr = metadata.regions[0].addr;
    assert_eq!(ours(&encode(&metadata)), metadata);
}

#[test]
fn an_empty_withdrawal_names_the_whole_agent() {
    let metadata = Metadata {
        withdrawn: Vec::new(),
        ..withdraw()
    };
    assert_eq!(ours(&encode(&metadata)), metadata);
}

#[test]
fn a_region_takes_at_most_60_bytes() {
    let size = |n| {
        let regions = (0..n).map(|i| RegionCard {
            key: RegionKey(u128::from(i).to_le_bytes()),
            ..region(i)
        });
        let metadata = Metadata {
            regions: regions.collect(),
            ..full()
        };
        assert_eq!(ours(&encode(&metadata)), metadata);
        encode(&metadata).len()
    };
    assert!(size(5000) - size(0) <= 5000 * 60);
}

#[test]
fn unknown_fields_are_skipped_at_every_level() {
    let unknown = |out: &mut Writer| out.field(4000, |out| out.bytes(b"from a later release"));
    let mut out = Writer::default();
    out.bytes(&encode_trailer(&Metadata {
        card: None,
        regions: Vec::new(),
        ..full()
    }));
    unknown(&mut out);
    out.field(CARD, |out| {
        unknown(out);
        let plain = AgentCard {
            backends: Vec::new(),
            ..card()
        };
        card::put(out, &plain);
        out.field(4, |out| {
            unknown(out);
            out.field(1, |out| out.bytes(b"warp"));
            out.field(2, |out| out.bytes(b"address"));
        });
    });
    out.field(REGION, |out| {
        region::put(out, &region(1));
        unknown(out);
    });
    let metadata = ours(&with_trailer(&out.finish()));
    assert_eq!(metadata.regions, [region(1)]);
    let card = metadata.card.unwrap();
    assert_eq!(card.probes, super::tests::card().probes);
    assert_eq!(card.backends.len(), 1);
    assert_eq!(card.backend("warp").unwrap().address, "address");
}

#[test]
fn debug_output_holds_no_secret() {
    for metadata in [full(), partial(), with_ucx()] {
        let text = format!("{:?} {:#?}", Decoded::Ours(metadata.clone()), metadata);
        for secret in [
            "90, 90", "5a5a", "ZZ", "160", "161", "\\xa1", "packed", "\\xff", "51, 51",
        ] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}
