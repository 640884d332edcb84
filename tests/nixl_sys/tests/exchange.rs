//! Metadata from agent to agent, through NIXL's calls.

use std::net::TcpListener;

use nixl_sys::{AgentConfig, OptArgs, XferOp};
use nixl_sys_user::{Party, check, until};

const OURS: [usize; 2] = [1, 2];
const THEIRS: [usize; 2] = [40, 3];

fn free_port() -> u16 {
    let probe = TcpListener::bind("127.0.0.1:0").unwrap();
    probe.local_addr().unwrap().port()
}

fn listening(name: &str, seed: u8, port: u16) -> Party {
    let config = AgentConfig {
        enable_listen_thread: true,
        listen_port: i32::from(port),
        ..AgentConfig::default()
    };
    Party::configured(name, seed, config)
}

fn at(port: u16) -> OptArgs {
    let mut args = OptArgs::new().unwrap();
    args.set_ip_addr("127.0.0.1").unwrap();
    args.set_port(port).unwrap();
    args
}

fn moves(a: &Party, b: &Party) {
    let (here, there) = (a.list(&OURS), b.list(&THEIRS));
    let name = b.agent.name();
    let request = a
        .agent
        .create_xfer_req(XferOp::Read, &here, &there, &name, None)
        .unwrap();
    a.run(&request);
    check(XferOp::Read, a, b, &OURS, &THEIRS);
}

#[test]
fn fetched_metadata_serves_transfers() {
    let port = free_port();
    let (a, b) = (Party::new("a", 1), listening("b", 2, port));
    a.agent.fetch_remote_md("b", Some(&at(port))).unwrap();
    until("b is known", || a.agent.check_remote_metadata("b", None));
    moves(&a, &b);
}

#[test]
fn sent_metadata_serves_transfers_until_it_is_withdrawn() {
    let port = free_port();
    let (a, b) = (listening("a", 1, port), Party::new("b", 2));
    b.agent.send_local_md(Some(&at(port))).unwrap();
    until("b is known", || a.agent.check_remote_metadata("b", None));
    moves(&a, &b);
    b.agent.invalidate_local_md(Some(&at(port))).unwrap();
    until("b is forgotten", || {
        !a.agent.check_remote_metadata("b", None)
    });
}

#[test]
fn without_an_address_there_is_nobody_to_ask() {
    let a = Party::new("a", 1);
    assert!(a.agent.send_local_md(None).is_err());
    assert!(a.agent.fetch_remote_md("b", None).is_err());
    assert!(a.agent.invalidate_local_md(None).is_err());
}
