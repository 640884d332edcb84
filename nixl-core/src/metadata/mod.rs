//! The metadata codec: what agents hand each other, as one blob.
//!
//! A blob is NIXL's container, then our trailer where NIXL has stopped reading: item `nixl_rs`
//! and item `crc`, the CRC-32C (little-endian) of every byte before that item. A blob without a
//! trailer is [`Decoded::Foreign`]: it comes from NIXL, or it is ours cut off right behind the
//! container.
//!
//! Item `nixl_rs`, numbers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 2 | wire version, 1 |
//! | 1 | kind: 0 full, 1 partial, 2 withdraw |
//! | 8, 8 | generation, sequence |
//! | rest | fields (see [`tlv`]); unknown tags are skipped |
//!
//! | field | value |
//! |---|---|
//! | 1 card | fields 1 secret (32 bytes), 2 host, 3 flags (1 byte: 1 has progress threads), 4 backend (each), 5 probe (each: region 8, nonce 32) |
//! | 1.2 host | boot id 16, PID namespace 8, network namespace 8, pid 4, uid 4, then the host name |
//! | 1.4 backend | fields 1 name, 2 address, 3 path (each: lowest and highest wire version 2 + 2, then the name) |
//! | 2 region (each) | id 8, address 8, length 8, device 8, key 16, kind 1, flags 1 (1 shareable, 2 writable), then fields 1 extra (each: length of the backend's name, name, bytes) |
//! | 3 withdrawn (each) | region id 8 |
//!
//! A blob is decoded wholly or not at all. Memory is bounded by the blob's size and by
//! [`Limits`]. The checksum finds accidents; it proves nothing about the sender.

#![forbid(unsafe_code)]

mod card;
mod container;
mod notification;
mod region;
#[cfg(test)]
mod tests;
pub mod tlv;

use std::fmt;

use bytes::Bytes;

pub use container::{NixlEntries, NixlSection};
pub use notification::{decode_notification, encode_notification};

use crate::{
    AgentCard, ErrorKind, Generation, RegionCard, RegionId, Result,
    error::fail,
    metadata::tlv::{Reader, Writer, malformed, once},
};

/// Wire version of the trailer that this build writes and reads.
pub const WIRE_VERSION: u16 = 1;

/// What a blob does to what is loaded of its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Everything the agent has; replaces what was loaded.
    Full = 0,
    /// Adds regions, and NIXL entries where there are any.
    Partial = 1,
    /// Takes regions away, or the whole agent if it names none.
    Withdraw = 2,
}

/// One blob of one of our agents.
#[derive(Clone, PartialEq)]
pub struct Metadata {
    /// What the blob does.
    pub kind: Kind,
    /// Position among the blobs of this generation; a loader ignores older and equal ones.
    pub sequence: u64,
    /// Agent name: 1 to 255 bytes without control characters.
    pub name: String,
    /// The incarnation that wrote the blob.
    pub generation: Generation,
    /// The agent card; its name and generation equal this blob's. Always in a full blob, perhaps
    /// in a partial one, never in a withdrawal.
    pub card: Option<AgentCard>,
    /// Regions: none in a withdrawal. Ids and keys differ; spans may repeat and overlap.
    pub regions: Vec<RegionCard>,
    /// Regions taken away; only in a withdrawal.
    pub withdrawn: Vec<RegionId>,
    /// What NIXL's own agents read; none in a withdrawal.
    pub nixl: NixlEntries,
}

impl Metadata {
    /// The agent says that it is going: a withdrawal of nothing in particular.
    pub fn ends_agent(&self) -> bool {
        self.kind == Kind::Withdraw && self.withdrawn.is_empty()
    }
}

/// Counts instead of regions, and no keys.
impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata")
            .field("kind", &self.kind)
            .field("sequence", &self.sequence)
            .field("name", &self.name)
            .field("generation", &self.generation)
            .field("card", &self.card.is_some())
            .field("regions", &self.regions.len())
            .field("withdrawn", &self.withdrawn.len())
            .field("nixl", &self.nixl)
            .finish()
    }
}

/// A blob without our trailer: what a NIXL agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Agent name.
    pub name: String,
    /// Its connections and memory.
    pub nixl: NixlEntries,
}

/// A decoded blob.
#[expect(
    clippy::large_enum_variant,
    reason = "one value a blob, matched at once"
)]
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    /// Written by this library, checksum right.
    Ours(Metadata),
    /// Written by NIXL, in canonical form. Whether it is welcome is the loader's policy.
    Foreign(Foreign),
}

/// What a blob may hold at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole blob. Default 64 MiB.
    pub max_bytes: usize,
    /// Regions, and descriptors of NIXL entries, of one blob. Default 1,048,576.
    pub max_regions: usize,
    /// Backends of an agent, paths of a backend, probes, and extras of a region. Default 64.
    pub max_backends: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 64 << 20,
            max_regions: 1 << 20,
            max_backends: 64,
        }
    }
}

impl Limits {
    fn check_backends(&self, have: usize, field: &str, at: usize) -> Result<()> {
        at_most(self.max_backends, have, field, at)
    }

    fn check_regions(&self, have: usize, field: &str, at: usize) -> Result<()> {
        at_most(self.max_regions, have, field, at)
    }
}

fn at_most(limit: usize, have: usize, field: &str, at: usize) -> Result<()> {
    if have < limit {
        return Ok(());
    }
    let why = format!("more than {limit} of them; raise the limit if that is right");
    Err(malformed(field, at, why))
}

/// The blob of `metadata`.
///
/// Writes what it is given: a value that breaks the rules in [`Metadata`]'s fields (two regions
/// of one id, an empty name) gives a blob that [`decode`] refuses. The card's own name and
/// generation are not written; the blob's stand for them.
pub fn encode(metadata: &Metadata) -> Bytes {
    let trailer = encode_trailer(metadata);
    let mut out = Vec::with_capacity(trailer.len() + 256);
    container::put(&mut out, &metadata.name, &metadata.nixl);
    container::put_item(&mut out, TRAILER, &trailer);
    let crc = crc32c::crc32c(&out);
    container::put_item(&mut out, CRC, &crc.to_le_bytes());
    out.into()
}

/// The blob that an agent of NIXL's would write.
pub fn encode_foreign(foreign: &Foreign) -> Bytes {
    let mut out = Vec::with_capacity(256);
    container::put(&mut out, &foreign.name, &foreign.nixl);
    out.into()
}

fn encode_trailer(metadata: &Metadata) -> Vec<u8> {
    let mut out = Writer::with_capacity(512 + 64 * metadata.regions.len());
    out.bytes(&WIRE_VERSION.to_le_bytes());
    out.bytes(&[metadata.kind as u8]);
    out.bytes(&metadata.generation.0.to_le_bytes());
    out.bytes(&metadata.sequence.to_le_bytes());
    if let Some(card) = &metadata.card {
        out.field(CARD, |out| card::put(out, card));
    }
    for region in &metadata.regions {
        out.field(REGION, |out| region::put(out, region));
    }
    for id in &metadata.withdrawn {
        out.field(WITHDRAWN, |out| out.bytes(&id.0.to_le_bytes()));
    }
    out.finish()
}

/// Decodes a whole blob, or says what is wrong with it and where.
///
/// [`ErrorKind::Malformed`] for everything that is not exactly a blob of ours or a canonical NIXL
/// blob, [`ErrorKind::Unsupported`] for a blob of ours in another wire version. Unknown fields
/// are skipped; unknown backends and paths stay in the card as names that nobody asks for.
pub fn decode(blob: &[u8], limits: &Limits) -> Result<Decoded> {
    if blob.len() > limits.max_bytes {
        let why = format!(
            "metadata of {} bytes; the limit is {}",
            blob.len(),
            limits.max_bytes
        );
        return Err(fail(ErrorKind::Malformed, why));
    }
    let sealed = unseal(blob)?;
    let mut reader = Reader::new(sealed.unwrap_or(blob));
    let (name, nixl) = container::read(&mut reader, limits)?;
    if sealed.is_none() {
        reader.end("end of NIXL metadata")?;
        container::check_known(&nixl)?;
        return Ok(Decoded::Foreign(Foreign { name, nixl }));
    }
    let trailer = container::item(&mut reader, TRAILER, "nixl_rs")?;
    reader.end("crc")?;
    let metadata = decode_trailer(trailer, name, nixl, limits)?;
    Ok(Decoded::Ours(metadata))
}

/// The bytes under the checksum if `blob` ends with a `crc` item; an error if it is wrong.
fn unseal(blob: &[u8]) -> Result<Option<&[u8]>> {
    let Some((body, mut seal)) = blob
        .len()
        .checked_sub(CRC.len() + 8 + 4 + 1)
        .map(|end| (&blob[..end], Reader::new(&blob[end..])))
    else {
        return Ok(None);
    };
    let Ok(crc) = container::item(&mut seal, CRC, "crc").and_then(|item| item.exactly("crc"))
    else {
        return Ok(None);
    };
    if u32::from_le_bytes(crc) != crc32c::crc32c(body) {
        let why = "the checksum does not match; the blob was damaged on its way";
        return Err(malformed("crc", body.len(), why));
    }
    Ok(Some(body))
}

fn decode_trailer(
    mut reader: Reader<'_>,
    name: String,
    nixl: NixlEntries,
    limits: &Limits,
) -> Result<Metadata> {
    let version = reader.u16("version")?;
    if version != WIRE_VERSION {
        let why = format!(
            "agent {name:?} writes metadata of wire version {version}, this build reads {WIRE_VERSION}; run the same release on both sides"
        );
        return Err(fail(ErrorKind::Unsupported, why));
    }
    let at = reader.at();
    let kind = match reader.u8("kind")? {
        0 => Kind::Full,
        1 => Kind::Partial,
        2 => Kind::Withdraw,
        n => return Err(malformed("kind", at, format!("unknown kind {n}"))),
    };
    let mut metadata = Metadata {
        kind,
        generation: Generation(reader.u64("generation")?),
        sequence: reader.u64("sequence")?,
        name,
        card: None,
        regions: Vec::new(),
        withdrawn: Vec::new(),
        nixl,
    };
    while let Some((tag, field)) = reader.field()? {
        decode_field(&mut metadata, tag, field, limits)?;
    }
    check_kind(&metadata, at)?;
    check_distinct(&metadata)?;
    Ok(metadata)
}

fn decode_field(
    metadata: &mut Metadata,
    tag: u64,
    field: Reader<'_>,
    limits: &Limits,
) -> Result<()> {
    let at = field.at();
    match tag {
        CARD => {
            let card = card::read(field, &metadata.name, metadata.generation, limits)?;
            once(&mut metadata.card, card, "card", at)?;
        }
        REGION => {
            limits.check_regions(metadata.regions.len(), "region", at)?;
            metadata.regions.push(region::read(field, limits)?);
        }
        WITHDRAWN => {
            limits.check_regions(metadata.withdrawn.len(), "withdrawn", at)?;
            let id = u64::from_le_bytes(field.exactly("withdrawn")?);
            metadata.withdrawn.push(RegionId(id));
        }
        _ => {}
    }
    Ok(())
}

fn check_kind(metadata: &Metadata, at: usize) -> Result<()> {
    let adds = metadata.card.is_some() || !metadata.regions.is_empty() || !metadata.nixl.is_empty();
    let why = match metadata.kind {
        Kind::Full if metadata.card.is_none() => "a full blob without an agent card",
        Kind::Full | Kind::Partial if !metadata.withdrawn.is_empty() => {
            "only a withdrawal may take regions away"
        }
        Kind::Withdraw if adds => "a withdrawal may only take regions away",
        _ => return Ok(()),
    };
    Err(malformed("kind", at, why))
}

fn check_distinct(metadata: &Metadata) -> Result<()> {
    let ids = metadata.regions.iter().map(|region| region.id.0);
    let mut ids: Vec<u64> = ids
        .chain(metadata.withdrawn.iter().map(|id| id.0))
        .collect();
    if let Some(id) = repeated(&mut ids) {
        let why = format!("region {id} appears twice");
        return Err(fail(ErrorKind::Malformed, why));
    }
    let mut keys: Vec<_> = metadata.regions.iter().map(|r| r.key.0).collect();
    match repeated(&mut keys) {
        Some(_) => Err(fail(ErrorKind::Malformed, "two regions have the same key")),
        None => Ok(()),
    }
}

fn repeated<T: Ord + Copy>(values: &mut [T]) -> Option<T> {
    values.sort_unstable();
    let pair = values.windows(2).find(|pair| pair[0] == pair[1])?;
    Some(pair[0])
}

const TRAILER: &[u8] = b"nixl_rs";
const CRC: &[u8] = b"crc";

const CARD: u64 = 1;
const REGION: u64 = 2;
const WITHDRAWN: u64 = 3;
