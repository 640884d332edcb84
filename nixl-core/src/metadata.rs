//! temp
use crate::*;
use bytes::Bytes;
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Full,
    Partial,
    Withdraw,
}
#[derive(Default)]
pub struct Limits;
#[derive(Default)]
pub struct NixlEntries;
pub struct Metadata {
    pub kind: Kind,
    pub name: String,
    pub generation: Generation,
    pub sequence: u64,
    pub card: Option<AgentCard>,
    pub regions: Vec<RegionCard>,
    pub withdrawn: Vec<RegionId>,
    pub nixl: NixlEntries,
}
pub struct Foreign {
    pub name: String,
}
pub enum Decoded {
    Ours(Metadata),
    Foreign(Foreign),
}
pub fn encode(_: &Metadata) -> Result<Bytes> {
    Ok(Bytes::new())
}
pub fn decode(_: &[u8], _: &Limits) -> Result<Decoded> {
    Err(Error::new(ErrorKind::Malformed, ""))
}
