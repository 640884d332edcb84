//! What a faulty or hostile sender may put behind a right checksum.

use super::*;

/// Decoding the blob of `metadata` fails as malformed, and the message holds every word.
fn refuses(metadata: &Metadata, words: &[&str]) {
    refuses_blob(&encode(metadata), words);
}

fn refuses_blob(blob: &[u8], words: &[&str]) {
    let error = refused(blob);
    assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} not in {text:?}");
    }
}

fn changed(change: impl FnOnce(&mut Metadata)) -> Metadata {
    let mut metadata = with_ucx();
    change(&mut metadata);
    metadata
}

fn region_changed(change: impl FnOnce(&mut RegionCard)) -> Metadata {
    changed(|m| change(&mut m.regions[1]))
}

fn card_changed(change: impl FnOnce(&mut AgentCard)) -> Metadata {
    changed(|m| change(m.card.as_mut().unwrap()))
}

fn section_changed(change: impl FnOnce(&mut NixlSection)) -> Metadata {
    changed(|m| change(&mut m.nixl.sections[0]))
}

#[test]
fn names() {
    let long = "n".repeat(256);
    for (name, why) in [("", "empty"), (long.as_str(), "255"), ("a\nb", "control")] {
        refuses(
            &changed(|m| m.name = name.into()),
            &["Agent", "byte 24", why],
        );
        refuses(
            &card_changed(|c| c.backends[0].backend = name.into()),
            &["backend.name", why],
        );
        let path = card_changed(|c| c.backends[0].paths[0].path = name.into());
        refuses(&path, &["backend.path", why]);
        let extra = region_changed(|r| r.extras.push((name.into(), Bytes::new())));
        refuses(&extra, &["region.extra", why]);
        refuses(
            &changed(|m| m.nixl.conns[0].0 = name.into()),
            &["Conns.t", why],
        );
        refuses(
            &section_changed(|s| s.backend = name.into()),
            &["bknd", why],
        );
    }
    let most = "n".repeat(255);
    let metadata = Metadata {
        card: Some(card_named(&most, full().generation)),
        name: most,
        ..full()
    };
    assert_eq!(ours(&encode(&metadata)), metadata);

    let mut latin1 = encode(&full()).to_vec();
    latin1.truncate(latin1.len() - 16);
    latin1[24] = 0xe9;
    refuses_blob(&seal(latin1), &["Agent", "UTF-8"]);
}

#[test]
fn spans() {
    refuses(
        &region_changed(|r| r.len = 0),
        &["region.len", "zero length"],
    );
    refuses(&region_changed(|r| r.len = u64::MAX), &["overflows"]);
    refuses(&region_changed(|r| r.addr = u64::MAX), &["overflows"]);
    refuses(
        &section_changed(|s| s.descs[0].1 = 0),
        &["descriptor", "zero length"],
    );
    refuses(
        &section_changed(|s| s.descs[0].0 = u64::MAX),
        &["descriptor", "overflows"],
    );
}

#[test]
fn duplicates() {
    refuses(
        &region_changed(|r| r.id = RegionId(1)),
        &["region 1 appears twice"],
    );
    refuses(
        &region_changed(|r| r.key = region(1).key),
        &["the same key"],
    );
    let twice = Metadata {
        withdrawn: vec![RegionId(5), RegionId(6), RegionId(5)],
        ..withdraw()
    };
    refuses(&twice, &["region 5 appears twice"]);
    refuses(
        &card_changed(|c| c.backends.push(c.backends[0].clone())),
        &["\"ipc\"", "twice"],
    );
    let path = card_changed(|c| c.backends[0].paths.push(path("shm", 9, 9)));
    refuses(&path, &["\"shm\"", "twice"]);
    refuses(
        &card_changed(|c| c.probes.push(c.probes[0].clone())),
        &["probed twice"],
    );
    let extra = ("ucx".to_owned(), Bytes::new());
    refuses(
        &region_changed(|r| r.extras = vec![extra.clone(), extra]),
        &["\"ucx\"", "twice"],
    );
    refuses(
        &changed(|m| m.nixl.conns.push(m.nixl.conns[0].clone())),
        &["\"UCX\"", "twice"],
    );
    let section = changed(|m| m.nixl.sections.push(m.nixl.sections[0].clone()));
    refuses(&section, &["\"UCX\"", "two sections of Dram"]);
}

#[test]
fn kinds_carry_what_belongs_to_them() {
    refuses(
        &changed(|m| m.card = None),
        &["kind", "without an agent card"],
    );
    refuses(
        &changed(|m| m.withdrawn = vec![RegionId(9)]),
        &["only a withdrawal"],
    );
    for extra in [
        Metadata {
            card: Some(card()),
            ..withdraw()
        },
        Metadata {
            regions: vec![region(1)],
            ..withdraw()
        },
        Metadata {
            nixl: with_ucx().nixl,
            ..withdraw()
        },
    ] {
        refuses(&extra, &["kind", "may only take"]);
    }
}

#[test]
fn empty_and_impossible_values() {
    refuses(
        &changed(|m| m.nixl.conns[0].1 = Bytes::new()),
        &["Conns.c", "empty"],
    );
    refuses(&section_changed(|s| s.descs.clear()), &["section.n"]);
    refuses(
        &section_changed(|s| s.descs[0].3 = Bytes::new()),
        &["without a remote key"],
    );
    refuses(
        &card_changed(|c| c.backends[0].paths[0].wire_min = 7),
        &["\"shm\"", "7 to 1"],
    );
    refuses_blob(&[], &["magic", "0 left"]);
    refuses_blob(b"nixlSerDes/", &["magic"]);
}

#[test]
fn another_wire_version_is_unsupported_and_named() {
    for version in [0u16, 2, u16::MAX] {
        let mut trailer = encode_trailer(&full());
        trailer[..2].copy_from_slice(&version.to_le_bytes());
        let error = refused(&with_trailer(&trailer));
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(text.contains(&format!("version {version},")), "{text}");
        assert!(text.contains("reads 1"), "{text}");
    }
}

#[test]
fn unknown_memory_types_are_named() {
    let head = encode_trailer(&Metadata {
        regions: Vec::new(),
        ..full()
    });
    for kind in [5u8, 0xff] {
        let mut out = Writer::default();
        out.bytes(&head);
        let mut bytes = Writer::default();
        region::put(&mut bytes, &region(1));
        let mut bytes = bytes.finish();
        bytes[48] = kind;
        out.field(REGION, |out| out.bytes(&bytes));
        let want = format!("unknown memory type {kind} ");
        refuses_blob(&with_trailer(&out.finish()), &["region.kind", &want]);
    }
    // NIXL takes 5 for the end of its array and crashes on more.
    for kind in [5u32, 100_000, 0xff00_0000] {
        let mut blob = std::fs::read(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/data/nixl-1.5.1.bin"
        ))
        .unwrap();
        blob[0x185..0x189].copy_from_slice(&kind.to_le_bytes());
        let want = format!("unknown memory type {kind} ");
        refuses_blob(&blob, &["section.t", &want]);
    }
}

#[test]
fn fields_that_are_missing_doubled_or_of_the_wrong_size() {
    let head = encode_trailer(&Metadata {
        card: None,
        regions: Vec::new(),
        ..full()
    });
    let with = |write: &dyn Fn(&mut Writer)| {
        let mut out = Writer::default();
        out.bytes(&head);
        write(&mut out);
        with_trailer(&out.finish())
    };
    let whole = |out: &mut Writer| out.field(CARD, |out| card::put(out, &card()));
    refuses_blob(
        &with(&|out| (0..2).for_each(|_| whole(out))),
        &["card", "twice"],
    );
    refuses_blob(
        &with(&|out| out.field(CARD, |_| ())),
        &["card.flags", "missing"],
    );
    let doubled = |out: &mut Writer| {
        card::put(out, &card());
        out.field(1, |out| out.bytes(&[0; 32]));
    };
    refuses_blob(
        &with(&|out| out.field(CARD, doubled)),
        &["card.secret", "twice"],
    );
    let short = |out: &mut Writer| out.field(1, |out| out.bytes(&[0; 31]));
    refuses_blob(
        &with(&|out| out.field(CARD, short)),
        &["card.secret", "31 left"],
    );
    let long = |out: &mut Writer| out.field(1, |out| out.bytes(&[0; 33]));
    refuses_blob(
        &with(&|out| out.field(CARD, long)),
        &["card.secret", "too many"],
    );
    refuses_blob(
        &with(&|out| out.field(REGION, |out| out.bytes(&[1; 49]))),
        &["region.flags"],
    );
    refuses_blob(
        &with(&|out| out.field(WITHDRAWN, |out| out.bytes(&[1; 9]))),
        &["withdrawn"],
    );
    refuses_blob(
        &with(&|out| out.bytes(&[REGION as u8, 0xff, 0xff, 0x7f])),
        &["value"],
    );
    for len in 0..19 {
        refuses_blob(&with_trailer(&head[..len]), &["bytes needed"]);
    }
}

/// Counts and lengths far beyond the blob: refused at once, without the memory they ask for.
#[test]
fn counts_and_lengths_beyond_the_blob() {
    let blob = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/data/nixl-1.5.1.bin"
    ))
    .unwrap();
    let lengths = [
        0x10, 0x24, 0x36, 0x43, 0x121, 0x13f, 0x154, 0x169, 0x17d, 0x18b, 0x19c,
    ];
    let counts = [0x2c, 0x147, 0x193];
    for offset in lengths.into_iter().chain(counts) {
        for n in [
            2,
            0xffff,
            1 << 31,
            1 << 32,
            1 << 62,
            1 << 63,
            u64::MAX - 8,
            u64::MAX,
        ] {
            let mut bent = blob.clone();
            bent[offset..offset + 8].copy_from_slice(&u64::to_le_bytes(n));
            refuses_blob(&bent, &[]);
            refuses_blob(&seal(bent), &[]);
        }
    }
}

#[test]
fn limits_hold() {
    let limits = Limits {
        max_bytes: 1 << 20,
        max_regions: 2,
        max_backends: 2,
    };
    let check = |metadata: &Metadata, fits: bool| {
        let result = decode(&encode(metadata), &limits);
        assert_eq!(result.is_ok(), fits, "{result:?}");
    };
    check(&with_ucx(), true);
    check(&changed(|m| m.regions.push(region(3))), false);
    check(
        &card_changed(|c| c.backends[0].paths.push(path("third", 1, 1))),
        false,
    );
    check(
        &section_changed(|s| s.descs = vec![s.descs[0].clone(); 3]),
        false,
    );
    let withdrawn = (0..3).map(RegionId).collect();
    check(
        &Metadata {
            withdrawn,
            ..withdraw()
        },
        false,
    );
    let address = Bytes::from(vec![0; 1 << 20]);
    check(&card_changed(|c| c.backends[0].address = address), false);
}

#[test]
fn foreign_blobs_name_only_nixls_backends() {
    let mut entries = with_ucx().nixl;
    entries.conns[0].0 = "WARP".into();
    let mut blob = Vec::new();
    container::put(&mut blob, "agentA", &entries);
    refuses_blob(&blob, &["\"WARP\"", "no backend of NIXL"]);
}

/// What decodes is what a blob of ours or NIXL's own bytes would say.
fn check(blob: &[u8]) {
    match decode(blob, &Limits::default()) {
        Err(_) => {}
        Ok(Decoded::Ours(metadata)) => assert_eq!(ours(&encode(&metadata)), metadata),
        Ok(Decoded::Foreign(foreign)) => {
            let mut written = Vec::new();
            container::put(&mut written, &foreign.name, &foreign.nixl);
            assert_eq!(written, blob);
        }
    }
}

/// One edit of a valid body, sealed again so that it gets past the checksum.
fn edited(mut body: Vec<u8>, edits: &[(usize, u8, bool)]) -> Vec<u8> {
    for &(at, byte, insert) in edits {
        let at = at % body.len();
        if insert {
            body.insert(at, byte);
        } else {
            body[at] = byte;
        }
    }
    body
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..600)) {
        check(&bytes);
        check(&seal(bytes.clone()));
        check(&with_trailer(&bytes));
        check(&[b"nixlSerDes|", &bytes[..]].concat());
    }

    #[test]
    fn garbage_behind_a_right_head_never_panics(bytes in vec(0..60u8, 0..600), kind in 0..3u8) {
        let mut trailer = encode_trailer(&full())[..19].to_vec();
        trailer[2] = kind;
        trailer.extend(bytes);
        check(&with_trailer(&trailer));
    }

    #[test]
    fn edited_blobs_never_panic(
        metadata in any_metadata(),
        edits in vec((any::<usize>(), any::<u8>(), any::<bool>()), 1..4),
    ) {
        let blob = encode(&metadata);
        let body = edited(blob[..blob.len() - 16].to_vec(), &edits);
        check(&seal(body));
        check(&with_trailer(&edited(encode_trailer(&metadata), &edits)));
    }
}
