//! LEB128 numbers of at most 64 bits, in their shortest form only.

use alloc::vec::Vec;

use crate::ProtocolError;

pub(crate) fn put(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push((v as u8) | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Reads one number at `*pos` and moves `*pos` behind it.
#[inline]
pub(crate) fn read(bytes: &[u8], pos: &mut usize) -> Result<u64, ProtocolError> {
    let mut value = 0u64;
    let mut shift = 0;
    loop {
        let byte = *bytes.get(*pos).ok_or(ProtocolError::BadVarint)?;
        *pos += 1;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(ProtocolError::BadVarint);
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            if byte == 0 && shift > 0 {
                return Err(ProtocolError::BadVarint);
            }
            return Ok(value);
        }
        shift += 7;
        if shift > 63 {
            return Err(ProtocolError::BadVarint);
        }
    }
}

/// Signed to unsigned with small absolute values staying small.
pub(crate) fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

/// Inverse of [`zigzag`].
pub(crate) fn unzigzag(v: u64) -> i64 {
    ((v >> 1) as i64) ^ -((v & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_and_bad_forms_do_not() {
        for v in [0, 1, 127, 128, 300, 1 << 20, u64::MAX >> 1, u64::MAX] {
            let mut out = Vec::new();
            put(&mut out, v);
            let mut pos = 0;
            assert_eq!(read(&out, &mut pos), Ok(v));
            assert_eq!(pos, out.len());
            assert_eq!(
                read(&out[..out.len() - 1], &mut 0),
                Err(ProtocolError::BadVarint)
            );
        }
        let too_long = [0xff; 11];
        assert_eq!(read(&too_long, &mut 0), Err(ProtocolError::BadVarint));
        assert_eq!(
            read(&[0x80, 0x00], &mut 0),
            Err(ProtocolError::BadVarint),
            "not the shortest form"
        );
        assert_eq!(
            read(
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
                &mut 0
            ),
            Err(ProtocolError::BadVarint),
            "65 bits"
        );
    }

    #[test]
    fn zigzag_is_its_own_inverse() {
        for v in [0, 1, -1, 2, -2, i64::MAX, i64::MIN] {
            assert_eq!(unzigzag(zigzag(v)), v);
        }
    }
}
