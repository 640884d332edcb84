//! One region as a field: 50 fixed bytes, then what backends add.

use bytes::Bytes;

use super::{
    Limits,
    container::{check_span, mem_kind},
    tlv::{Reader, Writer, malformed},
};
use crate::{RegionCard, RegionId, RegionKey, Result};

const EXTRA: u64 = 1;

const SHAREABLE: u8 = 1;
const WRITABLE: u8 = 2;

pub(super) fn put(out: &mut Writer, region: &RegionCard) {
    out.bytes(&region.id.0.to_le_bytes());
    out.bytes(&region.addr.to_le_bytes());
    out.bytes(&region.len.to_le_bytes());
    out.bytes(&region.dev.to_le_bytes());
    out.bytes(&region.key.0);
    let shareable = if region.shareable { SHAREABLE } else { 0 };
    let writable = if region.writable { WRITABLE } else { 0 };
    out.bytes(&[region.kind as u8, shareable | writable]);
    for (backend, bytes) in &region.extras {
        out.field(EXTRA, |out| {
            out.text(backend);
            out.bytes(bytes);
        });
    }
}

pub(super) fn read(mut reader: Reader<'_>, limits: &Limits) -> Result<RegionCard> {
    let start = reader.at();
    let id = RegionId(reader.u64("region.id")?);
    let (addr, len) = (reader.u64("region.addr")?, reader.u64("region.len")?);
    check_span(addr, len, "region.len", start)?;
    let dev = reader.u64("region.dev")?;
    let key = RegionKey(reader.array("region.key")?);
    let at = reader.at();
    let kind = mem_kind(u32::from(reader.u8("region.kind")?), "region.kind", at)?;
    let flags = reader.u8("region.flags")?;
    let mut extras = Vec::new();
    while let Some((tag, field)) = reader.field()? {
        if tag == EXTRA {
            push_extra(&mut extras, field, limits)?;
        }
    }
    Ok(RegionCard {
        id,
        addr,
        len,
        kind,
        dev,
        key,
        shareable: flags & SHAREABLE != 0,
        writable: flags & WRITABLE != 0,
        extras,
    })
}

fn push_extra(
    extras: &mut Vec<(String, Bytes)>,
    mut reader: Reader<'_>,
    limits: &Limits,
) -> Result<()> {
    const FIELD: &str = "region.extra";
    let at = reader.at();
    let len = reader.varint(FIELD)?;
    let backend = reader.sub(len, FIELD)?.name(FIELD)?;
    if extras.iter().any(|(other, _)| other == backend) {
        let why = format!("backend {backend:?} appears twice");
        return Err(malformed(FIELD, at, why));
    }
    limits.check_backends(extras.len(), FIELD, at)?;
    extras.push((backend.to_owned(), Bytes::copy_from_slice(reader.rest())));
    Ok(())
}
