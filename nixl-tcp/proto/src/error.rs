use core::fmt;

/// What a peer did wrong. The connection cannot go on: close it.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The stream does not begin with the protocol's magic bytes.
    BadMagic,
    /// The peer speaks this version, which is not ours.
    BadVersion(u8),
    /// No frame of this stream has this type, or it has no place here.
    BadType(u8),
    /// The named field has a value that is not allowed.
    BadField(&'static str),
    /// The named length or count is above its limit.
    Oversize(&'static str),
    /// A number is not a minimal LEB128 number of at most 64 bits, or the bytes end inside it.
    BadVarint,
    /// A request number that was never handed out, or cannot be next.
    UnknownXfer,
    /// A chunk that its request does not have, has with another length, or that came twice.
    UnknownChunk,
    /// More open requests or list bytes than the credit allows.
    CreditExceeded,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadMagic => f.write_str("stream does not begin with the protocol's magic bytes"),
            Self::BadVersion(v) => write!(
                f,
                "peer speaks wire version {v}, this side {}",
                crate::WIRE_VERSION
            ),
            Self::BadType(t) => write!(f, "frame type {t} has no place here"),
            Self::BadField(name) => write!(f, "field `{name}` has a value that is not allowed"),
            Self::Oversize(name) => write!(f, "`{name}` is above its limit"),
            Self::BadVarint => f.write_str("malformed variable-length number"),
            Self::UnknownXfer => f.write_str("request number was never handed out"),
            Self::UnknownChunk => f.write_str("chunk does not belong to its request or came twice"),
            Self::CreditExceeded => {
                f.write_str("more open requests or list bytes than the credit allows")
            }
        }
    }
}

impl core::error::Error for ProtocolError {}
