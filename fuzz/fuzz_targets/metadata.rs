//! Any bytes, alone and behind a right checksum, decode to an error or to what encodes the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nixl_core::metadata::{
    Decoded, Limits, decode, decode_notification, encode, encode_notification,
};

fn check(blob: &[u8]) {
    if let Ok(Decoded::Ours(metadata)) = decode(blob, &Limits::default()) {
        let again = decode(&encode(&metadata), &Limits::default());
        assert_eq!(again, Ok(Decoded::Ours(metadata)));
    }
}

/// The item that libFuzzer cannot guess: CRC-32C of everything before it.
fn seal(mut body: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&body);
    put_item(&mut body, b"crc", &crc.to_le_bytes());
    body
}

fn put_item(out: &mut Vec<u8>, tag: &[u8], value: &[u8]) {
    out.extend_from_slice(tag);
    out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    out.extend_from_slice(value);
    out.push(b'|');
}

fn with_trailer(trailer: &[u8]) -> Vec<u8> {
    let mut body = b"nixlSerDes|".to_vec();
    let none = 0u64.to_le_bytes();
    put_item(&mut body, b"Agent", b"a");
    put_item(&mut body, b"Conns", &none);
    put_item(&mut body, b"", b"MemSection");
    put_item(&mut body, b"nixlSecElms", &none);
    put_item(&mut body, b"nixl_rs", trailer);
    seal(body)
}

/// A NIXL agent's notification reads as what writes the same, or not at all.
fn check_notification(message: &[u8]) {
    if let Ok((from, data)) = decode_notification(message) {
        assert_eq!(encode_notification(from, data), message);
    }
}

fuzz_target!(|data: &[u8]| {
    check(data);
    check_notification(data);
    check_notification(&[b"nixlSerDes|name", data].concat());
    check(&seal(data.to_vec()));
    check(&with_trailer(data));
});
