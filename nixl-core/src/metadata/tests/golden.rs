//! Fixed bytes in `tests/data`: a blob written by any release must stay readable.

use std::path::PathBuf;

use super::*;

fn file(name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("../tests/data").join(name)
}

/// The golden file, which must equal `bytes`. `BLESS_GOLDEN=1` writes one that is missing.
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = file(name);
    if !path.exists() && std::env::var_os("BLESS_GOLDEN").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    let golden = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(
        golden == bytes,
        "{name} differs from what this build writes: the wire format changed, so it needs a new \
         version and a new golden file"
    );
    golden
}

fn goldens() -> [(&'static str, Metadata); 4] {
    [
        ("metadata-full.bin", full()),
        ("metadata-partial.bin", partial()),
        ("metadata-withdraw.bin", withdraw()),
        ("metadata-ucx.bin", with_ucx()),
    ]
}

/// The blob of a NIXL 1.5.1 agent with one 1 MiB DRAM region, written down piece by piece at
/// the offsets that its bytes had. The 213 bytes of connection info are stand-ins.
fn nixl_blob() -> Vec<u8> {
    let mut conn = vec![0x20];
    conn.extend(1..213u8);
    let rows: [(usize, &[u8]); 30] = [
        (0x000, b"nixlSerDes|"),
        (0x00b, b"Agent"),
        (0x010, b"\x06\0\0\0\0\0\0\0"),
        (0x018, b"agentA|"),
        (0x01f, b"Conns"),
        (0x024, b"\x08\0\0\0\0\0\0\0"),
        (0x02c, b"\x01\0\0\0\0\0\0\0|"),
        (0x035, b"t"),
        (0x036, b"\x03\0\0\0\0\0\0\0UCX|"),
        (0x042, b"c"),
        (0x043, b"\xd5\0\0\0\0\0\0\0"),
        (0x04b, &conn),
        (0x120, b"|"),
        (0x121, b"\x0a\0\0\0\0\0\0\0"),
        (0x129, b"MemSection|"),
        (0x134, b"nixlSecElms"),
        (0x13f, b"\x08\0\0\0\0\0\0\0"),
        (0x147, b"\x01\0\0\0\0\0\0\0|"),
        (0x150, b"bknd"),
        (0x154, b"\x03\0\0\0\0\0\0\0UCX|"),
        (0x160, b"nixlDList"),
        (0x169, b"\x0a\0\0\0\0\0\0\0nixlSDList|"),
        (0x17c, b"t"),
        (0x17d, b"\x04\0\0\0\0\0\0\0\0\0\0\0|"),
        (0x18a, b"n"),
        (0x18b, b"\x08\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0|"),
        (0x19c, b"\x23\0\0\0\0\0\0\0"),
        (0x1a4, b"\x10\xf0\x4f\x24\x47\x7f\0\0"),
        (0x1ac, b"\0\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        (0x1bc, b"\x01\0\0\0\0\0\0\0\0\0\xff|"),
    ];
    let mut blob = Vec::new();
    for (offset, bytes) in rows {
        assert_eq!(blob.len(), offset, "row at {offset:#x}");
        blob.extend_from_slice(bytes);
    }
    blob
}

#[test]
fn our_blobs_keep_their_bytes() {
    for (name, metadata) in goldens() {
        let blob = golden(name, &encode(&metadata));
        assert_eq!(ours(&blob), metadata, "{name}");
    }
}

#[test]
fn a_nixl_blob_reads_and_writes_byte_for_byte() {
    let blob = golden("nixl-1.5.1.bin", &nixl_blob());
    assert_eq!(blob.len(), 456);
    let Decoded::Foreign(foreign) = decode(&blob, &Limits::default()).unwrap() else {
        panic!("taken for ours");
    };
    assert_eq!(foreign.name, "agentA");
    assert_eq!(foreign.nixl.conns[0].0, "UCX");
    assert_eq!(foreign.nixl.conns[0].1.len(), 213);
    let section = &foreign.nixl.sections[0];
    assert_eq!(
        (section.backend.as_str(), section.kind),
        ("UCX", MemKind::Dram)
    );
    let (addr, len, dev, rkey) = &section.descs[0];
    assert_eq!((*addr, *len, *dev), (0x7f47_244f_f010, 0x10_0000, 0));
    assert_eq!(&rkey[..], b"\x01\0\0\0\0\0\0\0\0\0\xff");

    let mut written = Vec::new();
    container::put(&mut written, &foreign.name, &foreign.nixl);
    assert_eq!(written, blob);
}

#[test]
fn every_flipped_bit_of_ours_is_an_error() {
    for (name, metadata) in goldens() {
        let blob = encode(&metadata);
        for bit in 0..blob.len() * 8 {
            let mut bent = blob.to_vec();
            bent[bit / 8] ^= 1 << (bit % 8);
            let error = decode(&bent, &Limits::default()).expect_err(name);
            assert_eq!(
                error.kind(),
                ErrorKind::Malformed,
                "{name} bit {bit}: {error}"
            );
        }
    }
}

/// NIXL's format has no checksum: a flip inside a value reads as another value, any other flip
/// is an error. What reads at all is canonical.
#[test]
fn every_flipped_bit_of_nixls_is_an_error_or_a_value() {
    let blob = nixl_blob();
    let values = [0x018..0x01e, 0x04b..0x120, 0x1a4..0x1c7];
    for bit in 0..blob.len() * 8 {
        let mut bent = blob.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        match decode(&bent, &Limits::default()) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Malformed),
            Ok(Decoded::Ours(_)) => panic!("bit {bit}: taken for ours"),
            Ok(Decoded::Foreign(foreign)) => {
                // The memory type's number is the one framing value with more than one meaning.
                let kind = 0x185..0x186;
                let inside = values.iter().chain([&kind]).any(|v| v.contains(&(bit / 8)));
                assert!(inside, "bit {bit} read as {foreign:?}");
                let mut written = Vec::new();
                container::put(&mut written, &foreign.name, &foreign.nixl);
                assert_eq!(written, bent, "bit {bit}");
            }
        }
    }
}

/// A blob of ours cut right behind the container is, byte for byte, what NIXL would write.
#[test]
fn every_truncation_is_an_error_or_the_bare_container() {
    for (name, metadata) in goldens() {
        let blob = encode(&metadata);
        let mut container = Vec::new();
        container::put(&mut container, &metadata.name, &metadata.nixl);
        for len in 0..blob.len() {
            match decode(&blob[..len], &Limits::default()) {
                Err(error) => assert_eq!(error.kind(), ErrorKind::Malformed, "{name} at {len}"),
                Ok(Decoded::Foreign(f)) if len == container.len() => {
                    assert_eq!(f.nixl, metadata.nixl);
                }
                Ok(_) => panic!("{name} read at {len} of {} bytes", blob.len()),
            }
        }
    }
    let blob = nixl_blob();
    for len in 0..blob.len() {
        refused(&blob[..len]);
    }
}

#[test]
fn bytes_behind_the_end_are_an_error() {
    for blob in goldens().map(|(_, metadata)| encode(&metadata).to_vec()) {
        refused(&[&blob[..], b"\0"].concat());
        refused(&[&blob[..], &blob[..]].concat());
        refused(&seal(blob));
    }
    refused(&[&nixl_blob()[..], b"|"].concat());
    refused(&seal(nixl_blob()));
}
