//! The second process's side: reads commands, answers each with one line.

use std::{
    fs::File,
    io::BufRead,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use nixl::{Agent, DescList, ErrorKind, MemKind, Op, Request, Result, Run};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::{
    namespaces::{self, SCRIPT},
    process::{MARK, ORDER, checksum, hex, unhex},
    world::{Job, LIMIT, Memory, ONCE, SIZE, agent, until, within},
};

/// Body of the second process; returns at once where this process is not it.
#[test]
fn serve() {
    let Ok(order) = std::env::var(ORDER) else {
        return;
    };
    let (path, name) = order.split_once(',').unwrap();
    if let Ok(script) = std::env::var(SCRIPT) {
        // When the other process has made ready what it names.
        std::io::stdin().read_line(&mut String::new()).unwrap();
        namespaces::sh(&script);
    }
    let mut served = Served {
        agent: Arc::new(agent(name, path)),
        path: path.to_owned(),
        memories: Vec::new(),
        worker: None,
        files: Vec::new(),
    };
    println!("\n{MARK}ready");
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let words: Vec<_> = line.split(' ').collect();
        println!("\n{MARK}{}", served.obey(&words));
    }
    // The first process is gone, and with it whoever would want a tidy end.
    std::process::exit(0);
}

struct Served {
    agent: Arc<Agent>,
    path: String,
    memories: Vec<Arc<Memory>>,
    worker: Option<Worker>,
    /// Descriptors taken so that nobody else gets them.
    files: Vec<File>,
}

impl Served {
    fn obey(&mut self, words: &[&str]) -> String {
        match words {
            ["memory", seed] => {
                let memory = Memory::new(&self.agent, &self.path, seed.parse().unwrap());
                self.memories.push(Arc::new(memory));
                self.memories.last().unwrap().addr().to_string()
            }
            ["fill", seed] => {
                self.memories[0].fill(seed.parse().unwrap());
                "ok".to_owned()
            }
            ["sum"] => checksum(&self.memories[0].bytes()),
            ["metadata"] => hex(&self.agent.metadata().unwrap()),
            ["load", blob] => match self.agent.load_metadata(&unhex(blob)) {
                Ok(name) => name,
                Err(e) => e.to_string(),
            },
            ["run", op, peer, addr] => {
                let request = self.request(ONCE, op, peer, addr);
                word(&request.and_then(|r| run(&r)))
            }
            ["loop", op, rounds, peer, addr] => {
                let job = Job {
                    rounds: rounds.parse().unwrap(),
                };
                let request = self.request(job, op, peer, addr).unwrap();
                self.worker = Some(Worker::start(request));
                "ok".to_owned()
            }
            ["end"] => self.worker.take().unwrap().end(),
            ["notified", count] => self.notified(count.parse().unwrap()),
            ["files", spare] => {
                self.files = take_files(spare.parse().unwrap());
                "ok".to_owned()
            }
            ["release"] => {
                self.files.clear();
                "ok".to_owned()
            }
            ["huge"] => self.huge(),
            ["squeeze", blob, addr] => self.squeeze(&unhex(blob), addr.parse().unwrap()),
            other => panic!("no such command: {other:?}"),
        }
    }

    fn request(&self, job: Job, op: &str, peer: &str, addr: &str) -> Result<Request> {
        let op = if op == "read" { Op::Read } else { Op::Write };
        let there = addr.parse().unwrap();
        job.request(op, &self.agent, &self.memories[0], peer, there)
    }

    /// Waits for notifications and names them in order.
    fn notified(&self, count: usize) -> String {
        let wait = || self.agent.wait_notification(LIMIT);
        let texts: Vec<_> = (0..count)
            .map_while(|_| wait())
            .map(|n| String::from_utf8(n.data.to_vec()).unwrap())
            .collect();
        texts.join(" ")
    }

    /// Lists that no memory holds, with a GiB of address space left (proc_pid_statm(5)).
    fn huge(&self) -> String {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        let mut limit = getrlimit(Resource::As);
        limit.current = Some(pages * 4096 + (1 << 30));
        setrlimit(Resource::As, limit).unwrap();
        let addr = self.memories[0].addr();
        let try_out = |len, count| {
            let mut list = DescList::new(MemKind::Dram);
            let (dev, stride) = (0, 0);
            list.push_run(Run {
                addr,
                len,
                dev,
                stride,
                count,
            });
            let request = self
                .agent
                .create_request(Op::Read, &list, self.agent.name(), &list);
            word(&request.map(drop))
        };
        let most = u64::from(u32::MAX) - 1;
        [(1, most), (SIZE, most)]
            .map(|(len, count)| try_out(len, count))
            .join(" ")
    }

    /// An agent is built and used with fewer and fewer descriptors left; then with enough.
    fn squeeze(&mut self, blob: &[u8], there: u64) -> String {
        let mut worked = 0;
        for spare in [40, 30, 24, 20, 16, 12, 10, 8, 7, 6, 5, 4, 3, 2, 1, 0] {
            self.files = take_files(spare);
            let result = squeezed(&self.path, blob, there);
            self.files.clear();
            match result {
                Ok(()) => worked += 1,
                Err(e) if is_honest(e.kind()) => {}
                Err(e) => return format!("with {spare} descriptors left: {e}"),
            }
        }
        match squeezed(&self.path, blob, there) {
            Ok(()) => format!("worked {worked}"),
            Err(e) => format!("with descriptors again: {e}"),
        }
    }
}

fn squeezed(path: &str, blob: &[u8], there: u64) -> Result<()> {
    let mut config = crate::world::config(path);
    config.agent.connect_timeout_ms = 300;
    config.agent.probe_timeout_ms = 300;
    let agent = config.agent("squeezed")?.build()?;
    let memory = Memory::new_in(&agent, path, 1)?;
    let peer = agent.load_metadata(blob)?;
    let request = ONCE.request(Op::Read, &agent, &memory, &peer, there)?;
    request.post_with(within(Duration::from_secs(2)))?;
    request.wait(LIMIT)
}

/// What a lack of descriptors may be called.
fn is_honest(kind: ErrorKind) -> bool {
    use ErrorKind::{Backend, Exhausted, PeerGone, Timeout, Unsupported};
    matches!(kind, Backend | Exhausted | PeerGone | Timeout | Unsupported)
}

fn run(request: &Request) -> Result<()> {
    request.post_with(within(LIMIT))?;
    request.wait(LIMIT)
}

/// One word for how it ended.
fn word(result: &Result<()>) -> String {
    match result {
        Ok(()) => "ok".to_owned(),
        Err(e) => format!("{:?}", e.kind()),
    }
}

/// Posts one request over and over.
struct Worker {
    stop: Arc<AtomicBool>,
    /// Posts that succeeded after one had failed.
    revived: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Worker {
    fn start(request: Request) -> Self {
        let (stop, revived) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, alive) = (stop.clone(), revived.clone());
        request.post_with(within(LIMIT)).unwrap();
        until("the first bytes", || request.moved() > 0);
        let thread = std::thread::spawn(move || {
            let mut result = request.wait(LIMIT);
            while !stopped.load(SeqCst) {
                match (run(&request), &result) {
                    (Ok(()), Err(_)) => _ = alive.fetch_add(1, SeqCst),
                    (again, Ok(())) => result = again,
                    // It keeps trying.
                    (Err(_), Err(_)) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
            result
        });
        Self {
            stop,
            revived,
            thread,
        }
    }

    /// Stops it: its first failure, and how many posts succeeded after that.
    fn end(self) -> String {
        self.stop.store(true, SeqCst);
        let result = word(&self.thread.join().unwrap());
        format!("{result} {}", self.revived.load(SeqCst))
    }
}

/// Takes every descriptor number but `spare` of them.
fn take_files(spare: usize) -> Vec<File> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(256);
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut taken: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    taken.truncate(taken.len().saturating_sub(spare));
    taken
}
