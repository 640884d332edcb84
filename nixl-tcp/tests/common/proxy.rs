//! A proxy between two nodes that can hold bytes back, cut the line, and remember what passed.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use nixl_core::AgentCard;
use parking_lot::Mutex;

#[derive(Default)]
pub(crate) struct Shared {
    /// Bytes that may still pass, in both directions together; below 0 the line is cut.
    budget: AtomicI64,
    /// Hold everything back.
    pub(crate) paused: AtomicBool,
    passed: AtomicI64,
    /// What clients sent, by connection.
    pub(crate) sent: Mutex<Vec<Vec<u8>>>,
    sockets: Mutex<Vec<TcpStream>>,
}

pub(crate) struct Proxy {
    pub(crate) shared: Arc<Shared>,
    port: u16,
}

impl Proxy {
    /// Passes on to whom `card` names; `budget` bytes at most.
    pub(crate) fn new(card: &AgentCard, budget: i64) -> Self {
        let target = port_of(card);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            budget: AtomicI64::new(budget),
            ..Shared::default()
        });
        let s = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else {
                    return;
                };
                for socket in [&client, &server] {
                    socket.set_nodelay(true).unwrap();
                    s.sockets.lock().push(socket.try_clone().unwrap());
                }
                let index = s.sent.lock().len();
                s.sent.lock().push(Vec::new());
                let (c, v) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (s1, s2) = (s.clone(), s.clone());
                std::thread::spawn(move || s1.pass(client, v, Some(index)));
                std::thread::spawn(move || s2.pass(server, c, None));
            }
        });
        Self { shared, port }
    }

    /// `card` with the proxy's address in place of the peer's own.
    pub(crate) fn card(&self, card: &AgentCard) -> AgentCard {
        at_port(card, self.port)
    }

    pub(crate) fn passed(&self) -> i64 {
        self.shared.passed.load(SeqCst)
    }

    pub(crate) fn cut(&self) {
        self.shared.cut();
    }
}

impl Shared {
    fn pass(&self, mut from: TcpStream, mut to: TcpStream, record: Option<usize>) {
        let mut buf = vec![0; 16 << 10];
        loop {
            let n = match from.read(&mut buf) {
                Ok(n) if n > 0 => n as i64,
                _ => break,
            };
            // Polling is what a line that is held back does; nothing waits for this sleep.
            while self.paused.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let left = self.budget.fetch_sub(n, SeqCst);
            let n = n.min(left.max(0)) as usize;
            if let Some(i) = record {
                self.sent.lock()[i].extend(&buf[..n]);
            }
            self.passed.fetch_add(n as i64, SeqCst);
            if to.write_all(&buf[..n]).is_err() {
                break;
            }
            if left <= buf.len() as i64 && self.budget.load(SeqCst) <= 0 {
                return self.cut();
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }

    fn cut(&self) {
        self.budget.store(0, SeqCst);
        for socket in self.sockets.lock().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// The port in a card's TCP section.
pub(crate) fn port_of(card: &AgentCard) -> u16 {
    let bytes = &card.backend("tcp").unwrap().address;
    u16::from_le_bytes([bytes[1], bytes[2]])
}

/// `card` with 127.0.0.1 and `port` in its TCP section.
pub(crate) fn at_port(card: &AgentCard, port: u16) -> AgentCard {
    let mut card = card.clone();
    let mut bytes = vec![1];
    bytes.extend(port.to_le_bytes());
    bytes.extend([1, 4, 127, 0, 0, 1]);
    card.backends[0].address = bytes.into();
    card
}
