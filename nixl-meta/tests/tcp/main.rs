//! The contract of the TCP exchange.

mod auth;
mod contract;
mod faults;
mod nixl;

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use bytes::Bytes;
use nixl_core::{Error, ErrorKind, Result};
use nixl_meta::tcp::{
    self, Access, ClientConfig, MetaHandler, MetaServer, Origin, ServerConfig, SharedKey,
};

/// A handler that remembers what it was asked.
#[derive(Default)]
struct Agent {
    seen: Mutex<Vec<(String, Origin)>>,
}

impl Agent {
    fn note(&self, what: String, from: &Origin) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push((what, *from));
    }

    fn seen(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|(what, _)| what.clone()).collect()
    }
}

/// Labels are commands: `blob <n>` n patterned bytes, `panic`, anything else an error.
impl MetaHandler for Agent {
    fn local_blob(&self, label: &str, from: &Origin) -> Result<Bytes> {
        self.note(format!("fetch {label}"), from);
        match label.split_once(' ') {
            Some(("blob", n)) => Ok(pattern(n.parse().unwrap()).into()),
            Some(("panic", _)) => panic!("asked to"),
            _ => Err(Error::new(
                ErrorKind::NotFound,
                format!("no \x1b[31mlabel {label}"),
            )),
        }
    }

    fn remote_blob(&self, blob: Bytes, from: &Origin) -> Result<String> {
        self.note(format!("send {}", blob.len()), from);
        if blob == pattern(blob.len()) {
            Ok("decode-0".into())
        } else {
            Err(Error::new(ErrorKind::Malformed, "not the pattern"))
        }
    }

    fn invalidate(&self, agent: &str, from: &Origin) -> Result<()> {
        self.note(format!("invalidate {agent}"), from);
        Ok(())
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn key(text: &str) -> SharedKey {
    SharedKey::new(text.as_bytes()).unwrap()
}

fn client(key: Option<SharedKey>) -> ClientConfig {
    ClientConfig {
        key,
        ..ClientConfig::default()
    }
}

fn quick(key: Option<SharedKey>) -> ClientConfig {
    ClientConfig {
        timeout: Duration::from_millis(300),
        ..client(key)
    }
}

fn serve(config: ServerConfig) -> (MetaServer, Arc<Agent>, String) {
    let agent = Arc::new(Agent::default());
    let server = MetaServer::start(config, agent.clone()).unwrap();
    let addr = server.local_addr().to_string();
    (server, agent, addr)
}

fn with(access: Access) -> ServerConfig {
    ServerConfig {
        access,
        ..ServerConfig::default()
    }
}

/// A relay to `server` that hands each chunk of a connection's two directions to `edit` together
/// with its offset; returns its address. `to_server` is the first argument of `edit`.
fn relay(
    server: SocketAddr,
    edit: impl Fn(bool, usize, &mut [u8]) + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let edit = Arc::new(edit);
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(server).unwrap();
            for to_server in [true, false] {
                let (from, to) = if to_server {
                    (&client, &server)
                } else {
                    (&server, &client)
                };
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let edit = Arc::clone(&edit);
                thread::spawn(move || {
                    let (mut buf, mut at) = ([0; 4096], 0);
                    while let Ok(n @ 1..) = from.read(&mut buf) {
                        edit(to_server, at, &mut buf[..n]);
                        at += n;
                        if to.write_all(&buf[..n]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                    let _ = from.shutdown(Shutdown::Both);
                });
            }
        }
    });
    addr
}

/// A listener that does `script` with the first connection it gets.
fn fake_server(script: impl FnOnce(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    thread::spawn(move || script(listener.accept().unwrap().0));
    addr
}

/// A client's greeting without a key.
fn hello() -> Vec<u8> {
    let mut hello = b"NXMETA\0\x01\0".to_vec();
    hello.extend([7; 32]);
    hello
}

fn rest_of(mut stream: &TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut rest);
    rest
}
