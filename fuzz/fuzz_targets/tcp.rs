//! Any bytes on a data or control stream, or as a request's body: an error or an event, in bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nixl_tcp_proto::{
    ControlRx, ControlStep, DataRx, DataStep, GreetingRx, OpenLayout, Settings, put_settings,
};

const REGION: u64 = 1 << 30;

fn body(bytes: &[u8]) {
    let Ok(layout) = OpenLayout::parse(bytes) else {
        return;
    };
    let regions = layout.regions(bytes).len() as u32;
    let mut table = Vec::new();
    let len = |i| (i < regions).then_some(REGION);
    if layout.index(bytes, len, &mut table).is_err() {
        return;
    }
    for entry in table.iter().take(100) {
        let (mut cursor, mut left) = (entry.start, u64::from(entry.len));
        for _ in 0..1000 {
            if left == 0 {
                break;
            }
            let piece = cursor.take(layout.list(bytes), left).unwrap().unwrap();
            assert!(piece.region < regions && piece.offset + piece.len <= REGION);
            left -= piece.len;
        }
    }
}

fn data(mut bytes: &[u8]) {
    let mut rx = DataRx::new(1 << 16);
    loop {
        let n = match rx.step() {
            Err(_) => return,
            Ok(DataStep::Fill(buf)) => {
                let n = buf.len().min(bytes.len());
                buf[..n].copy_from_slice(&bytes[..n]);
                n
            }
            Ok(DataStep::Payload { left, .. } | DataStep::Skip(left)) => {
                (left as usize).min(bytes.len())
            }
            Ok(DataStep::Copy(ready)) => {
                let n = ready.len();
                rx.received(n).unwrap();
                continue;
            }
            Ok(DataStep::Chunk(chunk)) => {
                if chunk.index % 2 == 0 {
                    rx.accept();
                } else {
                    rx.discard();
                }
                continue;
            }
            Ok(DataStep::Open { .. }) => {
                body(&std::mem::take(rx.body()));
                continue;
            }
            Ok(DataStep::Done { .. }) => continue,
        };
        if n == 0 {
            return;
        }
        rx.received(n).unwrap();
        bytes = &bytes[n..];
    }
}

fn control(tail: &[u8]) {
    let mut wire = Vec::new();
    let settings = Settings {
        slots: 1,
        list_bytes: 4096,
        streams: 1,
    };
    put_settings(&mut wire, settings);
    wire.extend_from_slice(tail);
    let (mut rx, mut bytes) = (ControlRx::new(), &wire[..]);
    loop {
        match rx.step() {
            Err(_) => return,
            Ok(ControlStep::Fill(buf)) => {
                let n = buf.len().min(bytes.len());
                if n == 0 {
                    return;
                }
                buf[..n].copy_from_slice(&bytes[..n]);
                bytes = &bytes[n..];
                rx.received(n).unwrap();
            }
            Ok(_) => {}
        }
    }
}

fn greeting(mut bytes: &[u8]) {
    let mut rx = GreetingRx::new();
    while let Ok(space) = rx.space() {
        let n = space.len().min(bytes.len());
        space[..n].copy_from_slice(&bytes[..n]);
        rx.received(n);
        bytes = &bytes[n..];
        match rx.greeting() {
            Ok(Some(_)) => rx.clear(),
            Ok(None) if n > 0 => {}
            _ => return,
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    body(bytes);
    data(bytes);
    control(bytes);
    greeting(bytes);
});
