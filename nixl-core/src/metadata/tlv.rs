//! Tag-length-value fields: a writer that cannot truncate and a reader that cannot overrun.
//!
//! A field is a tag and a length, both LEB128 in their shortest form, then that many bytes.
//! Fixed numbers inside a field are little-endian. A reader names the field and the offset,
//! counted from the start of the outermost message, in every error.

use std::fmt;

use crate::{Error, ErrorKind, Result, error::fail};

/// Longest name (agent, backend, path, host) in bytes.
pub const MAX_NAME: usize = 255;

/// An [`ErrorKind::Malformed`] error about `field` at byte `at`.
pub fn malformed(field: &str, at: usize, why: impl fmt::Display) -> Error {
    fail(
        ErrorKind::Malformed,
        format!("field {field} at byte {at}: {why}"),
    )
}

fn name_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("the name is empty")
    } else if name.len() > MAX_NAME {
        Some("the name is longer than 255 bytes")
    } else if name.chars().any(char::is_control) {
        Some("the name holds a control character")
    } else {
        None
    }
}

/// Appends fields to a buffer.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty writer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// Raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A number in LEB128.
    pub fn varint(&mut self, n: u64) {
        self.0.extend(leb128(n));
    }

    /// A string with its length in front.
    pub fn text(&mut self, text: &str) {
        self.varint(text.len() as u64);
        self.bytes(text.as_bytes());
    }

    /// Field `tag` with what `write` writes; fields nest.
    pub fn field(&mut self, tag: u64, write: impl FnOnce(&mut Self)) {
        self.varint(tag);
        let start = self.0.len();
        write(self);
        let len = (self.0.len() - start) as u64;
        self.0.splice(start..start, leb128(len));
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// The bytes of `n`, low seven bits first.
fn leb128(n: u64) -> impl Iterator<Item = u8> {
    let count = (64 - n.leading_zeros()).div_ceil(7).max(1);
    (0..count).map(move |i| {
        let more = if i + 1 < count { 0x80 } else { 0 };
        (n >> (7 * i)) as u8 & 0x7f | more
    })
}

/// A cursor bounded by its message or field.
#[derive(Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads `message` from its start.
    pub fn new(message: &'a [u8]) -> Self {
        Self {
            rest: message,
            at: 0,
        }
    }

    /// Offset of the next byte in the outermost message.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: u64, field: &str) -> Result<&'a [u8]> {
        let split = usize::try_from(len)
            .ok()
            .and_then(|len| self.rest.split_at_checked(len));
        let Some((head, rest)) = split else {
            let why = format!("{len} bytes needed, {} left", self.rest.len());
            return Err(malformed(field, self.at, why));
        };
        self.rest = rest;
        self.at += head.len();
        Ok(head)
    }

    /// A reader of the next `len` bytes.
    pub fn sub(&mut self, len: u64, field: &str) -> Result<Reader<'a>> {
        let at = self.at;
        let rest = self.bytes(len, field)?;
        Ok(Reader { rest, at })
    }

    /// Everything left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.at += self.rest.len();
        std::mem::take(&mut self.rest)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N]> {
        let bytes = self.bytes(N as u64, field)?;
        let mut array = [0; N];
        array.copy_from_slice(bytes);
        Ok(array)
    }

    /// All that is left, which must be `N` bytes.
    pub fn exactly<const N: usize>(mut self, field: &str) -> Result<[u8; N]> {
        let array = self.array(field)?;
        self.end(field)?;
        Ok(array)
    }

    /// One byte.
    pub fn u8(&mut self, field: &str) -> Result<u8> {
        Ok(self.array::<1>(field)?[0])
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self, field: &str) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, field: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, field: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A LEB128 number in its shortest form.
    pub fn varint(&mut self, field: &str) -> Result<u64> {
        let at = self.at;
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(field)?;
            let low = u64::from(byte & 0x7f);
            if low << shift >> shift != low {
                return Err(malformed(field, at, "number above 64 bits"));
            }
            n |= low << shift;
            if byte < 0x80 {
                return match byte {
                    0 if shift > 0 => Err(malformed(field, at, "number not in shortest form")),
                    _ => Ok(n),
                };
            }
        }
        Err(malformed(field, at, "number above 64 bits"))
    }

    /// All that is left as a name: 1 to [`MAX_NAME`] bytes of UTF-8 without control characters.
    pub fn name(mut self, field: &str) -> Result<&'a str> {
        let at = self.at;
        let name =
            std::str::from_utf8(self.rest()).map_err(|_| malformed(field, at, "not UTF-8"))?;
        match name_problem(name) {
            Some(why) => Err(malformed(field, at, why)),
            None => Ok(name),
        }
    }

    /// The next field: its tag and a reader bounded by it. `None` at the end.
    pub fn field(&mut self) -> Result<Option<(u64, Reader<'a>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint("tag")?;
        let len = self.varint("length")?;
        Ok(Some((tag, self.sub(len, "value")?)))
    }

    /// An error if bytes are left.
    pub fn end(&self, field: &str) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            n => Err(malformed(field, self.at, format!("{n} bytes too many"))),
        }
    }
}

/// Sets `slot` once; a second time is an error about `field`.
pub(super) fn once<T>(slot: &mut Option<T>, value: T, field: &str, at: usize) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(malformed(field, at, "given twice")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_and_fields_round_trip(n: u64, tag: u64, value: Vec<u8>) {
            let mut out = Writer::default();
            out.varint(n);
            out.field(tag, |out| out.field(7, |out| out.bytes(&value)));
            let bytes = out.finish();

            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint("n").unwrap(), n);
            let (outer, mut field) = reader.field().unwrap().unwrap();
            prop_assert_eq!(outer, tag);
            let (inner, mut value_of) = field.field().unwrap().unwrap();
            prop_assert_eq!(inner, 7);
            prop_assert_eq!(value_of.at(), bytes.len() - value.len());
            prop_assert_eq!(value_of.rest(), &value[..]);
            prop_assert!(reader.field().unwrap().is_none());
        }
    }

    #[test]
    fn numbers_have_one_form_and_64_bits() {
        let number = |bytes: &[u8]| Reader::new(bytes).varint("n");
        assert_eq!(number(&[0x80, 1]).unwrap(), 128);
        assert!(number(&[0x80, 0]).is_err());
        let mut max = [0xff; 10];
        max[9] = 1;
        assert_eq!(number(&max).unwrap(), u64::MAX);
        max[9] = 2;
        assert!(number(&max).is_err());
        assert!(number(&[0xff; 11]).is_err());
        assert!(number(&[0x80]).is_err());
    }

    #[test]
    fn errors_name_field_and_offset() {
        let mut reader = Reader::new(&[1, 2, 3, 4, 5]);
        reader.u16("first").unwrap();
        let error = reader.u64("second").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        let text = error.to_string();
        assert!(text.contains("second") && text.contains("byte 2"), "{text}");
    }
}
