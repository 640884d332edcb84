//! What the C ABI costs over the same call in Rust: `cargo bench -p nixl-capi`.
//!
//! Both run in turns in one process, and the least of many batches is shown for each, since noise
//! only ever adds.

use std::{hint::black_box, ptr::null, time::Instant};

use nixl::{Config, DescList, Op, Request};
use nixl_rs::{agent::*, list::*, memory::*, request::*};

const WAIT_MS: u64 = 10_000;
const LEN: u64 = 4096;

fn ns(iterations: u32, mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..iterations).for_each(|_| run());
    start.elapsed().as_nanos() as f64 / f64::from(iterations)
}

fn compare(name: &str, batches: u32, iterations: u32, rust: impl Fn(), c: impl Fn()) {
    let (mut best_rust, mut best_c) = (f64::MAX, f64::MAX);
    for _ in 0..batches {
        best_rust = best_rust.min(ns(iterations, &rust));
        best_c = best_c.min(ns(iterations, &c));
    }
    let over = best_c - best_rust;
    println!("{name:<24} rust {best_rust:9.1} ns   C {best_c:9.1} ns   over {over:6.1} ns");
}

fn rust_request() -> (nixl::Agent, nixl::Region, Request) {
    let agent = Config::default().agent("rust").unwrap().build().unwrap();
    let region = agent.allocate(2 * LEN).unwrap();
    let here = DescList::dram([(region.addr(), 8)]);
    let there = DescList::dram([(region.addr() + LEN, 8)]);
    let request = agent.create_request(Op::Read, &here, "rust", &there);
    (agent, region, request.unwrap())
}

fn ok(status: i32) {
    assert!(status >= 0, "{status}");
}

fn c_request() -> (*mut nixl_rs_agent, *mut nixl_rs_request) {
    let (mut agent, mut region) = (std::ptr::null_mut(), std::ptr::null_mut());
    ok(nixl_rs_agent_create(c"c".as_ptr(), null(), &mut agent));
    ok(nixl_rs_allocate(
        agent,
        2 * LEN as usize,
        null(),
        &mut region,
    ));
    let mut info = nixl_rs_region_info_t {
        size: size_of::<nixl_rs_region_info_t>(),
        addr: 0,
        len: 0,
        page_size: 0,
        writable: 0,
        shareable: 0,
    };
    ok(nixl_rs_region_info(region, &mut info));
    let list = |addr| {
        let mut list = std::ptr::null_mut();
        ok(nixl_rs_list_create(NIXL_RS_DRAM, &mut list));
        let block = nixl_rs_desc {
            addr,
            len: 8,
            dev: 0,
        };
        ok(nixl_rs_list_push(list, &block, 1));
        list
    };
    let (here, there) = (list(info.addr), list(info.addr + LEN));
    let mut request = std::ptr::null_mut();
    let peer = c"c".as_ptr();
    ok(nixl_rs_request_create(
        agent,
        NIXL_RS_READ,
        here,
        peer,
        there,
        &mut request,
    ));
    (agent, request)
}

fn main() {
    // `cargo bench` says `--bench`; otherwise it is only to be seen that it runs.
    let (batches, some, many) = match std::env::args().any(|arg| arg == "--bench") {
        true => (200, 2_000, 50_000),
        false => (1, 10, 10),
    };
    let (rust_agent, _region, rust) = rust_request();
    let (agent, request) = c_request();
    rust.post().unwrap();
    rust.wait(std::time::Duration::from_millis(WAIT_MS))
        .unwrap();
    ok(nixl_rs_request_post(request, null()));
    ok(nixl_rs_request_wait(request, WAIT_MS));
    compare(
        "status",
        batches,
        many,
        || drop(black_box(rust.status())),
        || ok(black_box(nixl_rs_request_status(request))),
    );
    compare(
        "generation",
        batches,
        many,
        || {
            black_box(rust_agent.generation());
        },
        || ok(nixl_rs_agent_generation(agent, black_box(&mut 0))),
    );
    compare(
        "post and wait, 8 bytes",
        batches,
        some,
        || {
            rust.post().unwrap();
            rust.wait(std::time::Duration::from_millis(WAIT_MS))
                .unwrap();
        },
        || {
            ok(nixl_rs_request_post(request, null()));
            ok(nixl_rs_request_wait(request, WAIT_MS));
        },
    );
    ok(nixl_rs_agent_destroy(agent, WAIT_MS));
}
