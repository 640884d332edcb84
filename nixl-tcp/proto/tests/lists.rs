//! Scatter lists: round trip, size on the wire, and lists that a hostile peer might send.

use nixl_tcp_proto::{
    ChunkEntry, ListError, MAX_CHUNKS, OpenLayout, OpenOp, Piece, ProtocolError, RegionRef, Run,
    encode_open,
};
use proptest::prelude::*;

const REGION_LEN: u64 = 1 << 40;

fn cut(total: u64, chunk: u64) -> Vec<u32> {
    (0..total.div_ceil(chunk))
        .map(|i| chunk.min(total - i * chunk) as u32)
        .collect()
}

fn encode(runs: &[Run], regions: u32, chunk: u64) -> Vec<u8> {
    let total = runs.iter().map(|r| r.len * r.count).sum();
    let refs = (0..regions).map(|i| RegionRef {
        key: [i as u8; 16],
        addr: u64::from(i) << 40,
    });
    let mut body = Vec::new();
    encode_open(
        &mut body,
        OpenOp::Read,
        refs,
        cut(total, chunk).into_iter(),
        runs.iter().copied(),
    )
    .unwrap();
    body
}

fn decode(body: &[u8]) -> Result<(OpenLayout, Vec<ChunkEntry>), ListError> {
    let layout = OpenLayout::parse(body)?;
    let mut table = Vec::new();
    let regions = layout.regions(body).len() as u32;
    layout.index(body, |i| (i < regions).then_some(REGION_LEN), &mut table)?;
    Ok((layout, table))
}

/// The bytes that a list names, as maximal pieces of the same region.
fn merged(pieces: impl Iterator<Item = Piece>) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::new();
    for p in pieces {
        match out.last_mut() {
            Some(last) if last.region == p.region && last.offset + last.len == p.offset => {
                last.len += p.len
            }
            _ => out.push(p),
        }
    }
    out
}

fn expand(runs: &[Run]) -> Vec<Piece> {
    merged(runs.iter().flat_map(|r| {
        (0..r.count).map(|i| Piece {
            region: r.region,
            offset: r.offset + i * r.stride,
            len: r.len,
        })
    }))
}

/// Pieces of each chunk, chunks taken in the order `order`, put back in list order.
fn walk(body: &[u8], order: impl Fn(usize) -> usize, step: u64) -> Vec<Piece> {
    let (layout, table) = decode(body).unwrap();
    let mut chunks = vec![Vec::new(); table.len()];
    for i in (0..table.len()).map(&order) {
        let (mut cursor, mut left) = (table[i].start, u64::from(table[i].len));
        while left > 0 {
            let piece = cursor
                .take(layout.list(body), left.min(step))
                .unwrap()
                .unwrap();
            left -= piece.len;
            chunks[i].push(piece);
        }
    }
    merged(chunks.into_iter().flatten())
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    let run = (
        0..4u32,
        0..1u64 << 20,
        1..4096u64,
        0..1u64 << 16,
        1..40u64,
        0..14u32,
    )
        .prop_map(|(region, offset, len, stride, count, shift)| Run {
            region,
            offset: offset << shift,
            len: len << shift,
            stride: stride << shift,
            count,
        });
    prop::collection::vec(run, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_list_survives_the_wire(runs in runs(), chunk in 4096..1u64 << 20, step in 1..1u64 << 16) {
        let total: u64 = runs.iter().map(|r| r.len * r.count).sum();
        let chunk = chunk.max(total / 2000 + 1).min(4 << 20);
        prop_assume!(total.div_ceil(chunk) < 5000);
        let body = encode(&runs, 4, chunk);
        let n = cut(total, chunk).len();
        prop_assert_eq!(walk(&body, |i| n - 1 - i, step.max(chunk / 64)), expand(&runs));
    }

    #[test]
    fn random_bodies_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), regions in 1..4u32) {
        let _ = decode(&bytes);
        if bytes.len() > 120 {
            bytes[0] &= 1;
            bytes[1] %= 31;
            bytes[2..4].fill(0);
            bytes[4..8].copy_from_slice(&regions.to_le_bytes());
            bytes[8..12].copy_from_slice(&6u32.to_le_bytes());
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn one_flipped_bit_never_reaches_outside(runs in runs(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let total: u64 = runs.iter().map(|r| r.len * r.count).sum();
        prop_assume!(total < 1 << 32);
        let mut body = encode(&runs, 4, 4 << 20);
        let at = at.index(body.len());
        body[at] ^= 1 << bit;
        if let Ok((layout, table)) = decode(&body) {
            let mut sum = 0;
            for entry in &table {
                let (mut cursor, mut left) = (entry.start, u64::from(entry.len));
                while left > 0 {
                    let piece = cursor.take(layout.list(&body), left).unwrap().unwrap();
                    prop_assert!(piece.len > 0 && piece.region < 4 && piece.offset + piece.len <= REGION_LEN);
                    left -= piece.len;
                    sum += piece.len;
                }
            }
            prop_assert_eq!(sum, layout.bytes);
        }
    }
}

struct Lcg(u64);

impl Lcg {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// Random order over `n` blocks of `len` bytes with a gap behind each.
fn shuffled(n: u64, len: u64) -> Vec<Run> {
    let mut order: Vec<u64> = (0..n).collect();
    let mut rng = Lcg(7);
    for i in (1..n).rev() {
        order.swap(i as usize, rng.below(i + 1) as usize);
    }
    order
        .into_iter()
        .map(|i| Run::single(0, i * 2 * len, len))
        .collect()
}

#[test]
fn random_blocks_take_at_most_five_bytes_each() {
    for (n, len) in [(65_536, 2 << 10), (16_000, 32 << 10), (15_250, 18 << 10)] {
        let body = encode(&shuffled(n, len), 1, 1 << 20);
        assert!(
            body.len() as u64 <= 5 * n,
            "{n} blocks of {len} bytes take {} bytes",
            body.len()
        );
    }
}

#[test]
fn a_strided_run_takes_constant_space() {
    let runs: Vec<_> = (0..65_536)
        .map(|i| Run::single(0, i * 4096, 2048))
        .collect();
    let body = encode(&runs, 1, 1 << 20);
    assert!(body.len() < 80, "{} bytes", body.len());
    assert_eq!(walk(&body, |i| i, u64::MAX), expand(&runs));
}

fn raw(chunks: &[u64], bytes: u64, list: &[u64]) -> Vec<u8> {
    let put = |out: &mut Vec<u8>, mut v: u64| {
        while v >= 0x80 {
            out.push(v as u8 | 0x80);
            v >>= 7;
        }
        out.push(v as u8);
    };
    let (mut c, mut l) = (Vec::new(), Vec::new());
    chunks.iter().for_each(|v| put(&mut c, *v));
    list.iter().for_each(|v| put(&mut l, *v));
    let mut body = vec![0, 0, 0, 0];
    body.extend(1u32.to_le_bytes());
    body.extend((c.len() as u32).to_le_bytes());
    body.extend(bytes.to_le_bytes());
    body.extend([0; 24]);
    body.extend(c);
    body.extend(l);
    body
}

fn block(zigzag_half: u64) -> u64 {
    zigzag_half << 3
}

fn run(zigzag_half: u64) -> u64 {
    zigzag_half << 3 | 1
}

fn length(len: u64) -> u64 {
    len << 2 | 2
}

fn region(index: u64) -> u64 {
    index << 2 | 3
}

fn field(name: &'static str) -> ListError {
    ListError::Protocol(ProtocolError::BadField(name))
}

#[test]
fn hostile_lists_are_refused() {
    let outside = ListError::OutOfBounds(0);
    let cases: [(&str, &[u64], ListError); 12] = [
        ("over the end", &[length(8), block(REGION_LEN - 7)], outside),
        ("beyond 2^60", &[length(8), block(1 << 60)], field("block")),
        ("offset below 0", &[length(8), 1 << 2], field("block")),
        ("no length", &[block(0)], field("block")),
        ("length 0", &[length(0), block(0)], field("length")),
        (
            "no such region",
            &[length(8), region(1), block(0)],
            field("region"),
        ),
        (
            "huge region",
            &[length(8), region(1 << 40), block(0)],
            field("region"),
        ),
        (
            "run that wraps",
            &[length(8), run(0), u64::MAX, u64::MAX],
            field("block"),
        ),
        (
            "sum that wraps",
            &[length(1 << 40), run(0), 0, 1 << 40],
            field("block"),
        ),
        ("run of one", &[length(8), run(0), 8, 1], field("block")),
        (
            "run over the end",
            &[length(8), run(0), 1 << 39, 1 << 3],
            outside,
        ),
        (
            "something behind the last block",
            &[length(8), block(0), length(9)],
            field("chunk lengths"),
        ),
    ];
    for (what, list, error) in cases {
        assert_eq!(decode(&raw(&[8, 1], 8, list)).unwrap_err(), error, "{what}");
    }
}

#[test]
fn hostile_chunk_tables_are_refused() {
    let list = [length(8), block(0)];
    let cases: [(&str, &[u64], u64, ListError); 6] = [
        ("list too short", &[8, 2], 16, field("chunk lengths")),
        ("list too long", &[4, 1], 4, field("chunk lengths")),
        ("wrong sum", &[8, 1], 9, field("chunk lengths")),
        ("empty chunk", &[0, 1], 0, field("chunk")),
        ("no chunk", &[], 0, field("chunk lengths")),
        ("huge count", &[1, u64::MAX], 8, field("chunk")),
    ];
    for (what, chunks, bytes, error) in cases {
        assert_eq!(
            decode(&raw(chunks, bytes, &list)).unwrap_err(),
            error,
            "{what}"
        );
    }
    let most = u64::from(MAX_CHUNKS);
    let many = raw(
        &[1, most, 1, 1],
        most + 1,
        &[length(1), run(0), 1, most + 1],
    );
    assert_eq!(
        decode(&many).unwrap_err(),
        ListError::Protocol(ProtocolError::Oversize("chunks"))
    );
}

#[test]
fn hostile_heads_are_refused() {
    let good = raw(&[8, 1], 8, &[length(8), block(0)]);
    assert!(decode(&good).is_ok());
    for (at, value, name) in [
        (0, 2, "op"),
        (1, 31, "shift"),
        (2, 1, "reserved"),
        (4, 0, "regions"),
        (11, 255, "open length"),
    ] {
        let mut head = good.clone();
        head[at] = value;
        assert_eq!(decode(&head).unwrap_err(), field(name));
    }
    for n in 0..good.len() {
        assert!(decode(&good[..n]).is_err(), "cut at {n}");
    }
}

#[test]
fn a_huge_run_is_indexed_in_constant_time_per_chunk() {
    // 2^32 blocks of one byte: walking them one by one would take seconds in this profile.
    let body = raw(&[4 << 20, 1024], 1 << 32, &[1 << 2 | 2, 1, 2, 1 << 32]);
    let (layout, table) = decode(&body).unwrap();
    assert_eq!(table.len(), 1024);
    let mut last = table[1023].start;
    let piece = last.take(layout.list(&body), 1).unwrap().unwrap();
    assert_eq!(piece.offset, 2 * 1023 * (4 << 20));
}
