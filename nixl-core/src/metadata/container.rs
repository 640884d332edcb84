//! NIXL's metadata container: items of `tag, u64 length, value, '|'` after a magic.
//!
//! `Agent`, `Conns` with a `t`/`c` pair each, a section header, then per section `bknd`,
//! `nixlDList`, `t`, `n` and one untagged item a descriptor. NIXL 1.5 reads as many sections as
//! it was told and no further, so what follows them is ours. Unlike NIXL, this reader checks
//! every tag, length and terminator.

use std::fmt;

use bytes::Bytes;

use super::{
    Limits,
    tlv::{Reader, malformed},
};
use crate::{MemKind, Result};

pub(super) const MAGIC: &[u8] = b"nixlSerDes|";
const SECTIONS: &[u8] = b"MemSection";
const LIST: &[u8] = b"nixlSDList";
/// Tag, length and terminator of an untagged item.
const FRAME: usize = 8 + 1;
const DESC: usize = 24;
const MIN_CONN: usize = 2 * (1 + FRAME + 1);
const MIN_DESC: usize = FRAME + DESC;
const MIN_SECTION: usize =
    (4 + FRAME + 1) + (9 + FRAME + LIST.len()) + (1 + FRAME + 4) + (1 + FRAME + 8) + MIN_DESC;

/// Backends that NIXL 1.5 can name in a blob; Mooncake's has had two spellings.
const NIXL_BACKENDS: [&str; 14] = [
    "AZURE_BLOB",
    "GDS",
    "GDS_MT",
    "GPUNETIO",
    "GUSLI",
    "HF3FS",
    "INFINIA",
    "LIBFABRIC",
    "MOONCAKE",
    "Mooncake",
    "OBJ",
    "POSIX",
    "UCCL",
    "UCX",
];

/// What NIXL's own agents read from a blob. Empty unless a UCX backend is there.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NixlEntries {
    /// Backend name and connection info (for UCX the worker address).
    pub conns: Vec<(String, Bytes)>,
    /// Registered memory, one section per backend and kind of memory.
    pub sections: Vec<NixlSection>,
}

impl NixlEntries {
    /// No connections and no memory.
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty() && self.sections.is_empty()
    }
}

/// Connection info and keys stay out of logs: names and sizes only.
impl fmt::Debug for NixlEntries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conns = self.conns.iter().map(|(name, info)| (name, info.len()));
        f.debug_struct("NixlEntries")
            .field("conns", &conns.collect::<Vec<_>>())
            .field("sections", &self.sections)
            .finish()
    }
}

/// Memory that one backend registered.
#[derive(Clone, PartialEq, Eq)]
pub struct NixlSection {
    /// Backend name.
    pub backend: String,
    /// Kind of memory.
    pub kind: MemKind,
    /// Address, length in bytes, device and the backend's public bytes (for UCX the packed rkey).
    pub descs: Vec<(u64, u64, u64, Bytes)>,
}

impl fmt::Debug for NixlSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NixlSection")
            .field("backend", &self.backend)
            .field("kind", &self.kind)
            .field("descs", &self.descs.len())
            .finish()
    }
}

/// Appends one item.
pub(super) fn put_item(out: &mut Vec<u8>, tag: &[u8], value: &[u8]) {
    out.extend_from_slice(tag);
    out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    out.extend_from_slice(value);
    out.push(b'|');
}

/// Reads an item that must have tag `tag`; `field` names it in errors.
pub(super) fn item<'a>(reader: &mut Reader<'a>, tag: &[u8], field: &str) -> Result<Reader<'a>> {
    let at = reader.at();
    if reader.bytes(tag.len() as u64, field)? != tag {
        let why = format!("expected the tag {:?}", String::from_utf8_lossy(tag));
        return Err(malformed(field, at, why));
    }
    let len = reader.u64(field)?;
    let value = reader.sub(len, field)?;
    let end = reader.at();
    match reader.u8(field)? {
        b'|' => Ok(value),
        _ => Err(malformed(field, end, "the item does not end with '|'")),
    }
}

pub(super) fn put(out: &mut Vec<u8>, name: &str, entries: &NixlEntries) {
    out.extend_from_slice(MAGIC);
    put_item(out, b"Agent", name.as_bytes());
    put_item(out, b"Conns", &(entries.conns.len() as u64).to_le_bytes());
    for (backend, info) in &entries.conns {
        put_item(out, b"t", backend.as_bytes());
        put_item(out, b"c", info);
    }
    put_item(out, b"", SECTIONS);
    let sections = entries.sections.len() as u64;
    put_item(out, b"nixlSecElms", &sections.to_le_bytes());
    for section in &entries.sections {
        put_item(out, b"bknd", section.backend.as_bytes());
        put_item(out, b"nixlDList", LIST);
        put_item(out, b"t", &u32::from(section.kind as u8).to_le_bytes());
        put_item(out, b"n", &(section.descs.len() as u64).to_le_bytes());
        for (addr, len, dev, public) in &section.descs {
            let words = [*addr, *len, *dev].map(u64::to_le_bytes);
            put_item(out, b"", &[words.as_flattened(), public].concat());
        }
    }
}

/// Reads name and entries; what follows the last section is left in `reader`.
pub(super) fn read(reader: &mut Reader<'_>, limits: &Limits) -> Result<(String, NixlEntries)> {
    if reader.bytes(MAGIC.len() as u64, "magic")? != MAGIC {
        return Err(malformed("magic", 0, "this is no NIXL metadata"));
    }
    let name = name_item(reader, b"Agent", "Agent")?;
    let n_conns = count(reader, b"Conns", "Conns", MIN_CONN, limits.max_backends)?;
    let mut conns = Vec::with_capacity(n_conns);
    for _ in 0..n_conns {
        conns.push(conn(reader, &conns)?);
    }
    let at = reader.at();
    if item(reader, b"", "MemSection")?.rest() != SECTIONS {
        return Err(malformed("MemSection", at, "expected the section header"));
    }
    let most = limits
        .max_backends
        .saturating_mul(MemKind::File as usize + 1);
    let n_sections = count(reader, b"nixlSecElms", "nixlSecElms", MIN_SECTION, most)?;
    let mut sections = Vec::with_capacity(n_sections);
    let mut budget = limits.max_regions;
    for _ in 0..n_sections {
        let section = section(reader, &sections, budget)?;
        budget -= section.descs.len();
        sections.push(section);
    }
    Ok((name, NixlEntries { conns, sections }))
}

/// Checks that only backends which NIXL knows stand in `entries`.
pub(super) fn check_known(entries: &NixlEntries) -> Result<()> {
    let names = entries.conns.iter().map(|(name, _)| name);
    let mut names = names.chain(entries.sections.iter().map(|s| &s.backend));
    match names.find(|name| !NIXL_BACKENDS.contains(&name.as_str())) {
        Some(name) => Err(crate::error::fail(
            crate::ErrorKind::Malformed,
            format!("{name:?} is no backend of NIXL, and the blob has no trailer of ours"),
        )),
        None => Ok(()),
    }
}

fn name_item(reader: &mut Reader<'_>, tag: &[u8], field: &str) -> Result<String> {
    Ok(item(reader, tag, field)?.name(field)?.to_owned())
}

/// A count of things that take at least `min_size` bytes each, at most `most` of them.
fn count(
    reader: &mut Reader<'_>,
    tag: &[u8],
    field: &str,
    min_size: usize,
    most: usize,
) -> Result<usize> {
    let at = reader.at();
    let n = u64::from_le_bytes(item(reader, tag, field)?.exactly(field)?);
    let fits = reader.remaining() / min_size;
    match usize::try_from(n) {
        Ok(n) if n > most => {
            let why = format!("{n} entries, the limit is {most}");
            Err(malformed(field, at, why))
        }
        Ok(n) if n <= fits => Ok(n),
        _ => {
            let why = format!("{n} entries, the blob has room for {fits}");
            Err(malformed(field, at, why))
        }
    }
}

fn conn(reader: &mut Reader<'_>, seen: &[(String, Bytes)]) -> Result<(String, Bytes)> {
    let at = reader.at();
    let backend = name_item(reader, b"t", "Conns.t")?;
    if seen.iter().any(|(other, _)| *other == backend) {
        let why = format!("backend {backend:?} appears twice");
        return Err(malformed("Conns.t", at, why));
    }
    let at = reader.at();
    let info = item(reader, b"c", "Conns.c")?.rest();
    if info.is_empty() {
        return Err(malformed("Conns.c", at, "empty connection info"));
    }
    Ok((backend, Bytes::copy_from_slice(info)))
}

fn section(reader: &mut Reader<'_>, seen: &[NixlSection], budget: usize) -> Result<NixlSection> {
    let start = reader.at();
    let backend = name_item(reader, b"bknd", "bknd")?;
    let at = reader.at();
    if item(reader, b"nixlDList", "nixlDList")?.rest() != LIST {
        return Err(malformed("nixlDList", at, "expected a registration list"));
    }
    let at = reader.at();
    let kind = item(reader, b"t", "section.t")?.exactly("section.t")?;
    let kind = mem_kind(u32::from_le_bytes(kind), "section.t", at)?;
    if seen.iter().any(|s| s.backend == backend && s.kind == kind) {
        let why = format!("{backend:?} has two sections of {kind:?}");
        return Err(malformed("bknd", start, why));
    }
    let at = reader.at();
    let n = count(reader, b"n", "section.n", MIN_DESC, budget)?;
    if n == 0 {
        return Err(malformed("section.n", at, "a section without descriptors"));
    }
    let mut descs = Vec::with_capacity(n);
    for _ in 0..n {
        descs.push(desc(reader, &backend)?);
    }
    Ok(NixlSection {
        backend,
        kind,
        descs,
    })
}

fn desc(reader: &mut Reader<'_>, backend: &str) -> Result<(u64, u64, u64, Bytes)> {
    const FIELD: &str = "descriptor";
    let at = reader.at();
    let mut value = item(reader, b"", FIELD)?;
    let (addr, len, dev) = (value.u64(FIELD)?, value.u64(FIELD)?, value.u64(FIELD)?);
    check_span(addr, len, FIELD, at)?;
    // libucp takes a packed rkey without its length, so an empty one would be read past its end.
    if backend == "UCX" && value.remaining() == 0 {
        return Err(malformed(FIELD, at, "UCX descriptor without a remote key"));
    }
    Ok((addr, len, dev, Bytes::copy_from_slice(value.rest())))
}

/// The kind of memory with number `n`, or an error that names the number.
pub(super) fn mem_kind(n: u32, field: &str, at: usize) -> Result<MemKind> {
    MemKind::from_number(n).ok_or_else(|| {
        let why = format!(
            "unknown memory type {n} (known: 0 to {})",
            MemKind::File as u8
        );
        malformed(field, at, why)
    })
}

/// Refuses an empty span and one that wraps around.
pub(super) fn check_span(addr: u64, len: u64, field: &str, at: usize) -> Result<()> {
    if len == 0 {
        return Err(malformed(field, at, "zero length"));
    }
    if addr.checked_add(len).is_none() {
        let why = format!("address {addr:#x} plus length {len:#x} overflows");
        return Err(malformed(field, at, why));
    }
    Ok(())
}
