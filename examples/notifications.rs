//! Bytes beside the data: `cargo run --example notifications`.
//!
//! A notification that goes with a transfer is delivered after the data is visible to the target,
//! exactly once. One alone keeps its place among them.

use std::time::Duration;

use nixl::{Agent, Config, DescList, Error, ErrorKind, Notification, Op, PostOptions, Result};

const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn main() -> Result<()> {
    let config = Config::load()?;
    let prefill = config.agent("prefill")?.build()?;
    let decode = config.agent("decode")?.build()?;

    let cache = prefill.register_buffer(vec![42; 4096])?;
    let memory = decode.allocate(4096)?;
    // Each loads the other: decode to be able to answer, and to know that it really is prefill.
    prefill.load_metadata(&decode.metadata()?)?;
    decode.load_metadata(&prefill.metadata()?)?;

    // Push the cache and say which request it is for.
    let request = prefill.create_request(
        Op::Write,
        &DescList::dram([(cache.addr(), 4096)]),
        "decode",
        &DescList::dram([(memory.addr(), 4096)]),
    )?;
    request.post_with(PostOptions {
        notification: Some("request 17".into()),
        ..PostOptions::default()
    })?;

    // The data is there as soon as the notification is.
    let arrived = expect(&decode, "prefill")?;
    let mut bytes = [0; 4096];
    memory.read_at(0, &mut bytes)?;
    assert_eq!(bytes, [42; 4096]);
    println!("decode has {:?}", arrived.data);

    // Alone, the other way. A worker with an event loop waits on `Agent::event_fd` instead.
    decode.notify("prefill", b"17 may be freed")?;
    println!("prefill hears {:?}", expect(&prefill, "decode")?.data);
    request.wait(LIMIT)
}

/// The next notification, from `peer` and nobody who only says so.
fn expect(agent: &Agent, peer: &str) -> Result<Notification> {
    let got = agent
        .wait_notification(LIMIT)
        .ok_or_else(|| Error::new(ErrorKind::Timeout, "no notification came"))?;
    assert!(got.verified && &*got.from == peer, "{got:?}");
    Ok(got)
}
