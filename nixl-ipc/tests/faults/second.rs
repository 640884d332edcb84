//! A second process with an agent in it: this test binary again, told what to do over its stdin.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
};

use nixl_conformance::{
    Progress,
    rig::{Node, Rig},
};
use nixl_core::{
    AgentCard, BackendCard, DescList, Generation, HostId, MemKind, Op, Region, RegionCard,
    RegionId, RegionKey, Result, Secret, plan::Plan,
};
use nixl_ipc::IpcBackend;

use crate::setup::config;

/// Set for the child: the socket directory it uses.
pub(crate) const DIR: &str = "NIXL_IPC_CHILD_DIR";

/// A rig whose agents move bytes over `path`, with sockets in the tests' directory `dir`.
pub(crate) fn rig(path: &'static str, dir: &str) -> Rig {
    let config = config(dir, false);
    let make = move || Arc::new(IpcBackend::new(config.clone())) as Arc<_>;
    Rig::new(Box::new(make), path, Progress::Threads { copy_threads: 2 })
}

/// A transfer of one whole region of ours to or from one of the peer's, in blocks of `block` bytes,
/// each side in another order.
pub(crate) struct Shuffle {
    pub(crate) theirs: RegionCard,
    pub(crate) block: u64,
}

impl Shuffle {
    fn count(&self) -> u64 {
        self.theirs.len / self.block
    }

    /// For each block: where it lies here and there.
    fn places(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let (count, block) = (self.count(), self.block);
        // A prime that does not divide the count visits every place once.
        let turn = [7919, 104_729]
            .into_iter()
            .find(|p| count % p != 0)
            .unwrap();
        (0..count).map(move |i| ((i + 7) % count * block, (i * turn + 3) % count * block))
    }

    pub(crate) fn plan(&self, rig: &Rig, op: Op, node: &Node, ours: &Region) -> Arc<Plan> {
        let block = self.block;
        let (here, there) = (ours.addr(), self.theirs.addr);
        let local = DescList::dram(self.places().map(|(l, _)| (here + l, block)));
        let remote = DescList::dram(self.places().map(|(_, r)| (there + r, block)));
        rig.plan(
            op,
            node,
            &local,
            std::slice::from_ref(&self.theirs),
            &remote,
        )
    }

    /// What the region here holds after a READ of `theirs`.
    pub(crate) fn read(&self, theirs: &[u8]) -> Vec<u8> {
        let mut ours = vec![0; theirs.len()];
        for (l, r) in self.places() {
            let (l, r, n) = (l as usize, r as usize, self.block as usize);
            ours[l..l + n].copy_from_slice(&theirs[r..r + n]);
        }
        ours
    }

    /// What the peer's region holds after a WRITE of `ours`.
    pub(crate) fn written(&self, ours: &[u8]) -> Vec<u8> {
        let mut theirs = vec![0; ours.len()];
        for (l, r) in self.places() {
            let (l, r, n) = (l as usize, r as usize, self.block as usize);
            theirs[r..r + n].copy_from_slice(&ours[l..l + n]);
        }
        theirs
    }
}

/// All bytes of a region.
pub(crate) fn bytes(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; region.len() as usize];
    region.read_at(0, &mut bytes).unwrap();
    bytes
}

/// The other process.
pub(crate) struct Second {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    pub(crate) card: AgentCard,
}

impl Second {
    /// Starts it with sockets in `dir`.
    pub(crate) fn start(dir: &str) -> Self {
        Self::start_under(&[], dir)
    }

    /// Starts it under a command such as `unshare --net`.
    pub(crate) fn start_under(wrapper: &[&str], dir: &str) -> Self {
        let me = std::env::current_exe().unwrap();
        let mut command = match wrapper.split_first() {
            None => Command::new(&me),
            Some((program, args)) => {
                let mut command = Command::new(program);
                command.args(args).arg(&me);
                command
            }
        };
        let mut process = command
            .args(["second_process", "--exact", "--nocapture"])
            .env(DIR, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let card = parse_card(&answer(&mut stdout));
        Self {
            process,
            stdin,
            stdout,
            card,
        }
    }

    /// Has it do something; returns its answer.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        answer(&mut self.stdout)
    }

    /// Has it do something without waiting.
    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").unwrap();
    }

    /// Has it register `len` bytes of `memory` (`agent` or `heap`) that hold the pattern of `seed`.
    pub(crate) fn region(
        &mut self,
        memory: &str,
        len: u64,
        writable: bool,
        seed: u64,
    ) -> RegionCard {
        parse_region(&self.ask(&format!("region {memory} {len} {writable} {seed}")))
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.process)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The next line that the child meant for us; the test harness writes others.
fn answer(stdout: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    loop {
        line.clear();
        let n = stdout.read_line(&mut line).unwrap();
        assert!(n > 0, "the second process ended without an answer");
        if let Some((_, text)) = line.split_once('@') {
            return text.trim().to_owned();
        }
    }
}

// --- cards as text ---

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> [u8; N] {
    std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
}

/// One line that [`parse_card`] reads.
pub(crate) fn print_card(card: &AgentCard) -> String {
    let address = std::str::from_utf8(&card.backends[0].address).unwrap();
    let secret = hex(&card.secret.0);
    format!("{} {} {secret} {address}", card.name, card.generation.0)
}

pub(crate) fn parse_card(line: &str) -> AgentCard {
    let words: Vec<_> = line.split(' ').collect();
    let [name, generation, secret, address] = words[..] else {
        panic!("no card: {line:?}");
    };
    AgentCard {
        name: name.to_owned(),
        generation: Generation(generation.parse().unwrap()),
        secret: Secret(unhex(secret)),
        host: HostId::default(),
        progresses: true,
        backends: vec![BackendCard {
            backend: "ipc".to_owned(),
            address: address.to_owned().into(),
            paths: Vec::new(),
        }],
        probes: Vec::new(),
        foreign: false,
    }
}

/// One line that [`parse_region`] reads.
pub(crate) fn print_region(card: &RegionCard) -> String {
    format!(
        "{} {} {} {} {} {}",
        card.id.0,
        card.addr,
        card.len,
        hex(&card.key.0),
        card.shareable,
        card.writable
    )
}

pub(crate) fn parse_region(line: &str) -> RegionCard {
    let words: Vec<_> = line.split(' ').collect();
    let [id, addr, len, key, shareable, writable] = words[..] else {
        panic!("no region: {line:?}");
    };
    RegionCard {
        id: RegionId(id.parse().unwrap()),
        addr: addr.parse().unwrap(),
        len: len.parse().unwrap(),
        kind: MemKind::Dram,
        dev: 0,
        key: RegionKey(unhex(key)),
        shareable: shareable.parse().unwrap(),
        writable: writable.parse().unwrap(),
        extras: Vec::new(),
    }
}

/// `ok`, or kind and text of the error in one line.
pub(crate) fn print_result(result: Result<()>) -> String {
    match result {
        Ok(()) => "ok".to_owned(),
        Err(e) => format!("{:?} {}", e.kind(), e.message().replace('\n', " ")),
    }
}
