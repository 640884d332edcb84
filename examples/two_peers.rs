//! A decode worker pulls blocks out of a prefill worker's cache: `cargo run --example two_peers`.
//!
//! Both live in this process to keep the example short. In two processes nothing changes but the
//! path: what a worker needs to know of the other comes over the metadata listener.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use nixl::{
    Config, DescList, Op, Result,
    meta::{
        DEFAULT_LABEL,
        tcp::{self, ClientConfig, MetaServer, ServerConfig},
    },
};

const BLOCK: usize = 32 << 10;
const BLOCKS: u64 = 64;

pub(crate) fn main() -> Result<()> {
    let (tell, told) = mpsc::channel();
    let prefill = thread::spawn(move || prefill(&tell));
    // Ends without an address if the other worker failed; its error is the one to show.
    if let Ok((listener, cache)) = told.recv() {
        decode(&listener, cache)?;
    }
    prefill.join().expect("the prefill worker does not panic")
}

/// Fills its cache and stays until the decode worker has what it wants.
fn prefill(tell: &mpsc::Sender<(String, u64)>) -> Result<()> {
    let agent = Arc::new(Config::load()?.agent("prefill")?.build()?);
    let cache = agent.allocate(BLOCKS * BLOCK as u64)?;
    for block in 0..BLOCKS {
        cache.write_at(block * BLOCK as u64, &[block as u8; BLOCK])?;
    }
    // Loopback and a free port by default; other hosts need a shared key, see `Access`.
    let listener = MetaServer::start(ServerConfig::default(), nixl::metadata_handler(&agent))?;
    // A scheduler would hand out the block table; here the address of the cache will do.
    let _ = tell.send((listener.local_addr().to_string(), cache.addr()));
    agent.wait_notification(Duration::from_secs(10));
    Ok(())
}

/// Pulls three of the blocks.
fn decode(listener: &str, cache: u64) -> Result<()> {
    let agent = Config::load()?.agent("decode")?.build()?;
    let client = ClientConfig::default();
    let peer = agent.load_metadata(&tcp::fetch(listener, DEFAULT_LABEL, &client)?)?;
    tcp::send(listener, &agent.metadata()?, &client)?;

    let wanted = [7, 3, 5];
    let memory = agent.allocate(wanted.len() as u64 * BLOCK as u64)?;
    let here = (0..3).map(|slot| (memory.addr() + slot * BLOCK as u64, BLOCK as u64));
    let there = wanted.map(|block| (cache + block * BLOCK as u64, BLOCK as u64));
    let (here, there) = (DescList::dram(here), DescList::dram(there));
    let request = agent.create_request(Op::Read, &here, &peer, &there)?;
    request.post()?;
    request.wait(Duration::from_secs(10))?;

    for (slot, block) in wanted.into_iter().enumerate() {
        let mut bytes = [0; BLOCK];
        memory.read_at((slot * BLOCK) as u64, &mut bytes)?;
        assert_eq!(bytes, [block as u8; BLOCK], "block {block}");
    }
    println!("{:#?}", request.receipt());
    agent.notify(&peer, b"thank you")
}
