//! A flipped operation's order on the wire, as `docs/wire-protocol.md` lists it.
//!
//! Numbers are LEB128: id, the performer's operation (0 READ, 1 WRITE), path name, deadline in
//! ms; the asker's one-time regions (id, address, length, key); the performer's regions' keys;
//! then for each block: performer's region and address, asker's region and address, length.

use std::time::Duration;

use crate::{
    MemKind, Op, RegionCard, RegionId, RegionKey, Result,
    mem::Region,
    metadata::tlv::{MAX_NAME, Reader, Writer, malformed},
    plan::Plan,
};

/// Longest LEB128 number.
const VARINT: usize = 10;
const KEY: usize = 16;

/// One block: performer's region and address, asker's region and address, bytes.
pub(super) type Block = (usize, u64, usize, u64, u64);

pub(super) struct Order {
    pub(super) id: u64,
    pub(super) op: Op,
    pub(super) path: String,
    pub(super) deadline: Duration,
    pub(super) asker: Vec<RegionCard>,
    pub(super) performer: Vec<RegionKey>,
    pub(super) blocks: Vec<Block>,
}

/// Upper bound of the encoded size.
pub(super) fn size(plan: &Plan) -> usize {
    let regions = plan.local().regions().len() + plan.remote().regions().len();
    let blocks = usize::try_from(plan.merged()).unwrap_or(usize::MAX);
    (8 * VARINT + MAX_NAME)
        .saturating_add(regions.saturating_mul(3 * VARINT + KEY))
        .saturating_add(blocks.saturating_mul(5 * VARINT))
}

pub(super) fn encode(
    id: u64,
    path: &str,
    plan: &Plan,
    aliases: &[Region],
    deadline: Duration,
) -> Vec<u8> {
    let mut w = Writer::with_capacity(64 + 48 * aliases.len() + 24 * plan.merged() as usize);
    w.varint(id);
    // The performer does the opposite of what we were asked for.
    w.varint(u64::from(plan.op() == Op::Read));
    w.text(path);
    w.varint(deadline.as_millis() as u64);
    w.varint(aliases.len() as u64);
    for alias in aliases {
        w.varint(alias.id().0);
        w.varint(alias.addr());
        w.varint(alias.len());
        w.bytes(&alias.key().0);
    }
    w.varint(plan.remote().regions().len() as u64);
    for region in plan.remote().regions() {
        w.bytes(&region.key.0);
    }
    w.varint(plan.merged());
    for piece in plan.pieces() {
        w.varint(u64::from(piece.remote_region));
        w.varint(piece.remote);
        w.varint(u64::from(piece.local_region));
        w.varint(piece.local);
        w.varint(piece.len);
    }
    w.finish()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Order> {
    let r = &mut Reader::new(bytes);
    let id = r.varint("id")?;
    let op = match r.varint("operation")? {
        0 => Op::Read,
        1 => Op::Write,
        n => {
            return Err(malformed(
                "operation",
                r.at(),
                format!("unknown number {n}"),
            ));
        }
    };
    let len = r.varint("path")?;
    let path = r.sub(len, "path")?.name("path")?.to_owned();
    let deadline = Duration::from_millis(r.varint("deadline")?);
    let n = count(r, 3 + KEY, "asker's regions")?;
    let asker = (0..n).map(|_| region(r, op)).collect::<Result<Vec<_>>>()?;
    let n = count(r, KEY, "performer's regions")?;
    let performer = (0..n)
        .map(|_| r.array::<KEY>("key").map(RegionKey))
        .collect::<Result<Vec<_>>>()?;
    let n = count(r, 5, "blocks")?;
    let blocks = (0..n)
        .map(|_| block(r, performer.len(), asker.len()))
        .collect::<Result<Vec<_>>>()?;
    r.end("order")?;
    Ok(Order {
        id,
        op,
        path,
        deadline,
        asker,
        performer,
        blocks,
    })
}

/// A count whose items, at least `min` bytes each, can still follow.
fn count(r: &mut Reader<'_>, min: usize, what: &str) -> Result<usize> {
    let n = r.varint(what)?;
    match usize::try_from(n) {
        Ok(n) if n <= r.remaining() / min => Ok(n),
        _ => Err(malformed(
            what,
            r.at(),
            format!("a count of {n} cannot follow"),
        )),
    }
}

fn region(r: &mut Reader<'_>, op: Op) -> Result<RegionCard> {
    let (id, addr, len) = (r.varint("id")?, r.varint("address")?, r.varint("length")?);
    if len == 0 || addr.checked_add(len).is_none() {
        return Err(malformed("length", r.at(), "the region is empty or wraps"));
    }
    Ok(RegionCard {
        id: RegionId(id),
        addr,
        len,
        kind: MemKind::Dram,
        dev: 0,
        key: RegionKey(r.array::<KEY>("key")?),
        shareable: false,
        writable: op == Op::Write,
        extras: Vec::new(),
    })
}

fn block(r: &mut Reader<'_>, performer: usize, asker: usize) -> Result<Block> {
    let mut index = |limit: usize| {
        let n = r.varint("region")?;
        let at = r.varint("address")?;
        match usize::try_from(n) {
            Ok(n) if n < limit => Ok((n, at)),
            _ => Err(malformed(
                "region",
                r.at(),
                format!("there is no region {n}"),
            )),
        }
    };
    let ((there, from), (here, to)) = (index(performer)?, index(asker)?);
    Ok((there, from, here, to, r.varint("length")?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order() -> Vec<u8> {
        let mut w = Writer::default();
        for n in [9, 1] {
            w.varint(n);
        }
        w.text("tcp");
        for n in [500, 1, 77, 4096, 8192] {
            w.varint(n);
        }
        w.bytes(&[3; KEY]);
        w.varint(1);
        w.bytes(&[4; KEY]);
        for n in [1, 0, 100, 0, 5000, 64] {
            w.varint(n);
        }
        w.finish()
    }

    #[test]
    fn an_order_decodes_and_no_part_of_it_does() {
        let bytes = order();
        let o = decode(&bytes).unwrap();
        assert_eq!((o.id, o.op, o.path.as_str()), (9, Op::Write, "tcp"));
        assert_eq!(o.blocks, [(0, 100, 0, 5000, 64)]);
        assert_eq!((o.asker[0].addr, o.asker[0].writable), (4096, true));
        for n in 0..bytes.len() {
            assert!(decode(&bytes[..n]).is_err(), "{n} bytes");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_an_error(mut bytes in Just(order()), at in 0usize..60, with: u8, tail in proptest::collection::vec(any::<u8>(), 0..30)) {
            let at = at % bytes.len();
            bytes[at] = with;
            let _ = decode(&bytes);
            let _ = decode(&tail);
        }
    }
}
