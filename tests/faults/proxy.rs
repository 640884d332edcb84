//! A line between two agents that can be cut at any byte or fall silent.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use nixl::Agent;
use rustix::net::sockopt;

use crate::world::{Memory, config};

/// What the targets of these tests publish: the proxy's side of loopback.
const PUBLISHED: &str = "127.0.0.2";

/// A target that is reached through a [`Proxy`] only, and its memory.
pub(crate) fn target(seed: u64) -> (Agent, Memory, Proxy) {
    // Whoever has the same port on the proxy's address already makes us try another.
    for _ in 0..50 {
        let mut config = config("tcp");
        config.tcp.advertise = vec![PUBLISHED.to_owned()];
        let agent = config.agent("far").unwrap().build().unwrap();
        if let Some(proxy) = Proxy::before(port(&agent)) {
            let memory = Memory::new(&agent, "tcp", seed);
            return (agent, memory, proxy);
        }
    }
    panic!("no port is free on both addresses");
}

/// The port that an agent published: bytes 1 and 2 of its address.
fn port(agent: &Agent) -> u16 {
    let card = agent.peer_card(agent.name()).unwrap();
    let address = &card.backend("tcp").unwrap().address;
    u16::from_le_bytes([address[1], address[2]])
}

pub(crate) struct Proxy(Arc<Line>);

#[derive(Default)]
struct Line {
    state: Mutex<State>,
    thawed: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes that may still pass before all connections are cut, in both directions together.
    budget: Option<usize>,
    /// Counts cuts: connections of an earlier number are dead.
    epoch: u64,
    frozen: bool,
    sockets: Vec<TcpStream>,
}

impl Proxy {
    fn before(port: u16) -> Option<Self> {
        let listener = TcpListener::bind((PUBLISHED, port)).ok()?;
        let line = Arc::new(Line::default());
        let proxy = Self(line.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                    return;
                };
                line.connect(client, server);
            }
        });
        Some(proxy)
    }

    /// Resets all connections after `bytes` more; those made later pass.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.0.state.lock().unwrap().budget = Some(bytes);
    }

    pub(crate) fn never_cut(&self) {
        self.0.state.lock().unwrap().budget = None;
    }

    /// Whether the cut that was asked for is still to come.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.state.lock().unwrap().budget.is_some()
    }

    /// Bytes no longer pass, in neither direction, and nobody is told.
    pub(crate) fn freeze(&self) {
        self.0.state.lock().unwrap().frozen = true;
    }

    pub(crate) fn thaw(&self) {
        self.0.state.lock().unwrap().frozen = false;
        self.0.thawed.notify_all();
    }
}

impl Line {
    fn connect(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let mut state = self.state.lock().unwrap();
        for socket in [&client, &server] {
            socket.set_nodelay(true).unwrap();
            state.sockets.push(socket.try_clone().unwrap());
        }
        let epoch = state.epoch;
        let (back, forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        for (from, to) in [(client, server), (back, forth)] {
            let line = self.clone();
            std::thread::spawn(move || line.pass(from, to, epoch));
        }
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream, epoch: u64) {
        let mut buf = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut buf) {
            let may = self.leave(epoch, n);
            // The last bytes before a cut arrive before it.
            let sent = to.write_all(&buf[..may]);
            if may < n {
                self.cut(epoch);
            }
            if may < n || sent.is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }

    /// How many of `n` bytes may pass, once the line is not frozen.
    fn leave(&self, epoch: u64, n: usize) -> usize {
        let state = self.state.lock().unwrap();
        let mut state = self.thawed.wait_while(state, |s| s.frozen).unwrap();
        if state.epoch != epoch {
            return 0;
        }
        let Some(budget) = &mut state.budget else {
            return n;
        };
        let may = n.min(*budget);
        *budget -= may;
        may
    }

    fn cut(&self, epoch: u64) {
        let mut state = self.state.lock().unwrap();
        if state.epoch != epoch {
            return;
        }
        state.epoch += 1;
        state.budget = None;
        for (i, socket) in state.sockets.drain(..).enumerate() {
            if i % 4 < 2 {
                // Reset rather than ended.
                let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
            }
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
