//! Awaiting transfers without any async runtime: `cargo run --example async_future`.
//!
//! `Request::done` is a plain `Future`: it needs a waker and nothing else, so it runs under tokio,
//! smol or the ten lines of executor below.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use nixl::{Agent, Config, DescList, Op, Region, Request, Result};

const LAYER: u64 = 1 << 20;
const LAYERS: u64 = 8;

pub(crate) fn main() -> Result<()> {
    let config = Config::load()?;
    let prefill = config.agent("prefill")?.build()?;
    let decode = config.agent("decode")?.build()?;
    let cache = prefill.allocate(LAYERS * LAYER)?;
    let memory = decode.allocate(LAYERS * LAYER)?;
    for layer in 0..LAYERS {
        cache.write_at(layer * LAYER, &vec![layer as u8; LAYER as usize])?;
    }
    decode.load_metadata(&prefill.metadata()?)?;
    block_on(pull(&decode, &memory, &cache))
}

/// Asks for all layers at once and uses each as soon as it is there.
async fn pull(agent: &Agent, memory: &Region, cache: &Region) -> Result<()> {
    let mut requests = Vec::new();
    for layer in 0..LAYERS {
        let request = read(agent, memory, cache, layer)?;
        request.post()?;
        requests.push(request);
    }
    for (layer, request) in requests.iter().enumerate() {
        request.done().await?;
        let mut bytes = vec![0; LAYER as usize];
        memory.read_at(layer as u64 * LAYER, &mut bytes)?;
        assert!(bytes.iter().all(|b| usize::from(*b) == layer));
        println!("layer {layer} is there");
    }
    Ok(())
}

fn read(agent: &Agent, memory: &Region, cache: &Region, layer: u64) -> Result<Request> {
    let block = |region: &Region| DescList::dram([(region.addr() + layer * LAYER, LAYER)]);
    agent.create_request(Op::Read, &block(memory), "prefill", &block(cache))
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread, which sleeps until it is woken.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
