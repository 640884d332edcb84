//! NIXL's metadata calls from agent to agent: who gets what, and who may do what.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use nixl::{
    Agent, Config, DescList, ErrorKind, Op,
    metadata::{self, Decoded, Limits},
    p2p::{self, NixlListener},
};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

const LONG: Duration = Duration::from_secs(20);

fn agent(name: &str) -> Arc<Agent> {
    let config = Config {
        backends: vec!["tcp".to_owned()],
        ..Config::default()
    };
    Arc::new(config.agent(name).unwrap().build().unwrap())
}

fn listening(name: &str) -> (Arc<Agent>, NixlListener, String) {
    let agent = agent(name);
    let listener = NixlListener::start(&agent, 0).unwrap();
    let address = listener.local_addr().to_string();
    (agent, listener, address)
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u64).to_le_bytes()[..], body].concat()
}

fn answer(stream: &mut TcpStream) -> Vec<u8> {
    let mut len = [0; 8];
    stream.read_exact(&mut len).unwrap();
    let mut body = vec![0; u64::from_le_bytes(len) as usize];
    stream.read_exact(&mut body).unwrap();
    body
}

/// A connection from another address of this machine.
fn from(address: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::from(address), 0)).unwrap();
    connect(&socket, &to).unwrap();
    socket.into()
}

fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

/// After an answer to a further command, the earlier ones of the connection are done.
fn settled(stream: &mut TcpStream) {
    stream.write_all(&frame(b"NIXLCOMM:SEND")).unwrap();
    answer(stream);
}

#[test]
fn agents_of_this_library_get_to_know_each_other_wholly() {
    let (a, _listener, address) = listening("a");
    let b = agent("b");
    let region = a.allocate(4096).unwrap();
    region.write_at(0, &[7; 4096]).unwrap();
    assert_eq!(p2p::fetch(&b, &address).unwrap(), "a");
    let into = b.allocate(4096).unwrap();
    let list = |addr| DescList::dram([(addr, 4096)]);
    let request = b
        .create_request(Op::Read, &list(into.addr()), "a", &list(region.addr()))
        .unwrap();
    request.post().unwrap();
    request.wait(LONG).unwrap();
    let mut got = vec![0; 4096];
    into.read_at(0, &mut got).unwrap();
    assert!(got == [7; 4096]);

    p2p::send(&b, &address, Some(&[into])).unwrap();
    assert_eq!(a.peers(), ["b"]);
    p2p::invalidate(&b, &address).unwrap();
    until("b is forgotten", || a.peers().is_empty());
}

#[test]
fn a_stranger_gets_no_secret() {
    let (a, _listener, address) = listening("a");
    let region = a.allocate(4096).unwrap();
    let mut stream = TcpStream::connect(&address).unwrap();
    for _ in 0..2 {
        stream.write_all(&frame(b"NIXLCOMM:SEND")).unwrap();
        let body = answer(&mut stream);
        let blob = body.strip_prefix(b"NIXLCOMM:LOAD").unwrap();
        let Decoded::Foreign(foreign) = metadata::decode(blob, &Limits::default()).unwrap() else {
            panic!("a blob with our trailer");
        };
        assert_eq!(foreign.name, "a");
        let secret = |bytes: &[u8]| body.windows(bytes.len()).any(|w| w == bytes);
        assert!(!secret(&region.key().0));
        let card = match metadata::decode(&a.metadata().unwrap(), &Limits::default()).unwrap() {
            Decoded::Ours(ours) => ours.card.unwrap(),
            Decoded::Foreign(_) => panic!("our own blob"),
        };
        assert!(!secret(&card.secret.0[..8]));
    }
}

#[test]
fn nobody_evicts_a_name_that_another_address_loaded() {
    let (a, listener, _) = listening("a");
    let b = agent("b");
    let load = frame(&[b"NIXLCOMM:LOAD", &b.metadata().unwrap()[..]].concat());
    let forget = frame(b"NIXLCOMM:INVLb");
    let mut friend = from([127, 0, 0, 2], listener.local_addr());
    let mut stranger = from([127, 0, 0, 3], listener.local_addr());
    friend.write_all(&load).unwrap();
    settled(&mut friend);
    assert_eq!(a.peers(), ["b"]);

    stranger.write_all(&forget).unwrap();
    settled(&mut stranger);
    let other = agent("b");
    let load = frame(&[b"NIXLCOMM:LOAD", &other.metadata().unwrap()[..]].concat());
    stranger.write_all(&load).unwrap();
    settled(&mut stranger);
    assert_eq!(a.peers(), ["b"]);
    assert_eq!(a.peer_card("b").unwrap().generation, b.generation());

    friend.write_all(&forget).unwrap();
    settled(&mut friend);
    assert!(a.peers().is_empty());
}

#[test]
fn a_name_that_the_application_loaded_stays() {
    let (a, listener, _) = listening("a");
    let b = agent("b");
    a.load_metadata(&b.metadata().unwrap()).unwrap();
    let mut stranger = TcpStream::connect(listener.local_addr()).unwrap();
    stranger.write_all(&frame(b"NIXLCOMM:INVLb")).unwrap();
    settled(&mut stranger);
    assert_eq!(a.peers(), ["b"]);
}

#[test]
fn garbage_ends_the_connection_and_nothing_else() {
    let (_a, _listener, address) = listening("a");
    for garbage in [
        &u64::MAX.to_le_bytes()[..],
        &frame(b"NIXLCOMM:LOADnixlSerDes|no"),
        &frame(b"NIXLCOMM:WHAT"),
        &frame(b"NIXLCOMM:"),
        &frame(b"no marker"),
        &frame(b"NIXLCOMM:INVL\xff\xfe"),
        b"NXMETA\0 and then nothing of ours",
    ] {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(garbage).unwrap();
    }
    let b = agent("b");
    assert_eq!(p2p::fetch(&b, &address).unwrap(), "a");
}

#[test]
fn where_nobody_listens_is_said() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let e = p2p::fetch(&agent("a"), &free.unwrap().to_string()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
}
