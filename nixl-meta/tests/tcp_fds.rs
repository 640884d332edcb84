//! The listener without file descriptors; alone in its process, because the limit is for all of it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use nixl_core::Result;
use nixl_meta::tcp::{MetaHandler, MetaServer, Origin, ServerConfig};
use rustix::{
    net::{AddressFamily, SocketType},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};

struct Nothing;

impl MetaHandler for Nothing {
    fn local_blob(&self, _: &str, _: &Origin) -> Result<Bytes> {
        Ok(Bytes::new())
    }

    fn remote_blob(&self, _: Bytes, _: &Origin) -> Result<String> {
        Ok(String::new())
    }

    fn invalidate(&self, _: &str, _: &Origin) -> Result<()> {
        Ok(())
    }
}

fn cpu_ms() -> i64 {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    t.tv_sec * 1000 + t.tv_nsec / 1_000_000
}

#[test]
fn no_descriptors_left_neither_spins_nor_kills_the_listener() {
    let server = MetaServer::start(ServerConfig::default(), Arc::new(Nothing)).unwrap();
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(0),
            maximum: limit.maximum,
        },
    )
    .unwrap();
    rustix::net::connect(&socket, &server.local_addr()).unwrap();
    let mut stream = TcpStream::from(socket);
    let mut hello = b"NXMETA\0\x01\0".to_vec();
    hello.extend([7; 32]);
    stream.write_all(&hello).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(400)))
        .unwrap();
    let before = cpu_ms();
    let e = stream.read(&mut [0]).unwrap_err();
    assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock, "not accepted");
    assert!(cpu_ms() - before < 50, "it spins");
    setrlimit(Resource::Nofile, limit).unwrap();
    stream.set_read_timeout(None).unwrap();
    let mut welcome = [0; 45];
    stream.read_exact(&mut welcome).unwrap();
    assert_eq!(welcome[..8], *b"NXMETA\0\x01");
}
