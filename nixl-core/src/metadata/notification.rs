//! A notification as NIXL puts it on the wire: the container's magic, then items `name` and `msg`.

use bytes::Bytes;

use super::{
    container::{MAGIC, item, put_item},
    tlv::{Reader, malformed},
};
use crate::{Result, notify::MAX_NOTIFICATION};

/// A notification of agent `from`, for NIXL's agents.
pub fn encode_notification(from: &str, data: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(MAGIC.len() + 2 * 16 + from.len() + data.len());
    out.extend_from_slice(MAGIC);
    put_item(&mut out, b"name", from.as_bytes());
    put_item(&mut out, b"msg", data);
    out.into()
}

/// Sender and bytes of a NIXL agent's notification. The name is a claim.
///
/// Errors: `Malformed` for everything that is not exactly that.
pub fn decode_notification(message: &[u8]) -> Result<(&str, &[u8])> {
    let mut reader = Reader::new(message);
    if reader.bytes(MAGIC.len() as u64, "notification")? != MAGIC {
        return Err(malformed("notification", 0, "this is none of NIXL's"));
    }
    let from = item(&mut reader, b"name", "notification.name")?.name("notification.name")?;
    let at = reader.at();
    let data = item(&mut reader, b"msg", "notification.msg")?.rest();
    reader.end("notification")?;
    if data.len() > MAX_NOTIFICATION {
        let why = format!("{} bytes, at most {MAX_NOTIFICATION}", data.len());
        return Err(malformed("notification.msg", at, why));
    }
    Ok((from, data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    /// NIXL 1.5.1's bytes for message `hi` of `agentA`.
    const HI: &[u8] = b"nixlSerDes|name\x06\0\0\0\0\0\0\0agentA|msg\x02\0\0\0\0\0\0\0hi|";

    #[test]
    fn nixls_bytes_are_read_and_written() {
        assert_eq!(decode_notification(HI).unwrap(), ("agentA", &b"hi"[..]));
        assert_eq!(encode_notification("agentA", b"hi"), HI);
        let empty = encode_notification("a", b"");
        assert_eq!(decode_notification(&empty).unwrap(), ("a", &b""[..]));
    }

    #[test]
    fn anything_else_is_an_error_that_does_not_panic() {
        let refused = |bytes: &[u8]| {
            let e = decode_notification(bytes).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Malformed);
        };
        for len in 0..HI.len() {
            refused(&HI[..len]);
        }
        refused(&[HI, b"|"].concat());
        refused(&encode_notification("", b"nameless"));
        refused(&encode_notification("a\nb", b"steers a terminal"));
        refused(&encode_notification("a", &vec![0; MAX_NOTIFICATION + 1]));
        let values = [23..29, 41..43];
        for bit in 0..HI.len() * 8 {
            let mut bent = HI.to_vec();
            bent[bit / 8] ^= 1 << (bit % 8);
            match decode_notification(&bent) {
                Ok((from, data)) => {
                    assert!(values.iter().any(|v| v.contains(&(bit / 8))), "bit {bit}");
                    assert_eq!(encode_notification(from, data), bent);
                }
                Err(e) => assert_eq!(e.kind(), ErrorKind::Malformed),
            }
        }
    }
}
