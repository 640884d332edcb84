//! The contract of the etcd exchange, against a real server.
#![cfg(feature = "etcd")]

mod contract;
mod faults;

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use etcd_client::{Client, DeleteOptions, GetOptions};
use nixl_core::{Error, ErrorKind, Result};
use nixl_meta::{
    Change, Exchange, Watch,
    etcd::{EtcdConfig, EtcdExchange},
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_millis(200);

/// An etcd server on loopback; killed when dropped.
struct Server {
    child: Child,
    port: u16,
    data: TempDir,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn spawn(data: &TempDir, port: u16) -> std::io::Result<Child> {
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{}", free_port());
    Command::new("etcd")
        .arg("--data-dir")
        .arg(data.path())
        .args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .args(["--initial-cluster", &format!("default={peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

impl Server {
    /// `None` where no etcd is installed.
    fn start() -> Option<Self> {
        for _ in 0..5 {
            let data = tempfile::tempdir().unwrap();
            let port = free_port();
            match spawn(&data, port) {
                Ok(child) => {
                    let mut server = Self { child, port, data };
                    if server.answers() {
                        return Some(server);
                    }
                }
                Err(e) => {
                    println!("SKIP etcd: cannot run the etcd program: {e}");
                    let required = std::env::var("NIXL_RS_REQUIRE").unwrap_or_default();
                    let required = required.split(',').any(|w| w == "etcd" || w == "all");
                    assert!(!required, "NIXL_RS_REQUIRE demands etcd");
                    return None;
                }
            }
        }
        panic!("etcd does not start on any of five ports");
    }

    /// Waits until it serves; false when it ended instead (its port was taken meanwhile).
    fn answers(&mut self) -> bool {
        let deadline = Instant::now() + LONG;
        while Instant::now() < deadline {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if EtcdExchange::connect(self.quick()).is_ok() {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("etcd does not answer");
    }

    fn config(&self) -> EtcdConfig {
        EtcdConfig {
            endpoints: vec![format!("127.0.0.1:{}", self.port)],
            lease: Duration::from_secs(2),
            timeout: LONG,
            ..EtcdConfig::default()
        }
    }

    fn quick(&self) -> EtcdConfig {
        EtcdConfig {
            timeout: Duration::from_millis(500),
            ..self.config()
        }
    }

    fn exchange(&self) -> EtcdExchange {
        EtcdExchange::connect(self.config()).unwrap()
    }

    /// Returns once all its threads have stopped.
    fn stop(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped());
    }

    fn resume(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.data, self.port).unwrap();
        assert!(self.answers());
    }

    /// Speaks to the server past our code.
    fn raw<T>(&self, work: impl AsyncFnOnce(Client) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let endpoint = format!("127.0.0.1:{}", self.port);
            work(Client::connect([endpoint], None).await.unwrap()).await
        })
    }

    /// Every key with its value's length, sorted.
    fn keys(&self) -> Vec<(String, usize)> {
        self.raw(async |mut client| {
            let all = GetOptions::new().with_all_keys();
            let got = client.get("", Some(all)).await.unwrap();
            let kvs = got.kvs().iter();
            kvs.map(|kv| (kv.key_str().unwrap().to_owned(), kv.value().len()))
                .collect()
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8 ^ seed).collect()
}

fn change(published: bool, agent: &str, label: &str) -> Change {
    let (agent, label) = (agent.to_owned(), label.to_owned());
    if published {
        Change::Published { agent, label }
    } else {
        Change::Removed { agent, label }
    }
}

/// The next change, over the errors of a server that is away.
fn next(watch: &mut dyn Watch) -> Change {
    let deadline = Instant::now() + LONG;
    while Instant::now() < deadline {
        if let Ok(Some(change)) = watch.next(Duration::from_secs(1)) {
            return change;
        }
    }
    panic!("no change came");
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.err().expect("an error").kind()
}
