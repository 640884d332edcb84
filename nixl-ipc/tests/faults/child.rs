//! The other process's side: reads commands, answers each with one line.

use std::{fs::File, io::BufRead, sync::Arc};

use nixl_conformance::rig::{Memory, Node, Rig, Side, pattern};
use nixl_core::{DescList, Op, Region, plan::Plan};
use nixl_ipc::{CMA, SHM};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::second::{
    DIR, bytes, parse_card, parse_region, print_card, print_region, print_result, rig,
};

struct Peer {
    rig: Rig,
    node: Arc<Node>,
    regions: Vec<Region>,
    dialled: Option<Arc<Side>>,
    /// Descriptors taken so that nobody else gets them.
    files: Vec<File>,
}

/// Body of the second process; returns at once where this process is not it.
pub(crate) fn serve() {
    let Ok(dir) = std::env::var(DIR) else {
        return;
    };
    let rig = rig(SHM, &dir);
    let node = rig.node("second");
    println!("\n@{}", print_card(&node.card()));
    let mut peer = Peer {
        rig,
        node,
        regions: Vec::new(),
        dialled: None,
        files: Vec::new(),
    };
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let words: Vec<_> = line.split(' ').collect();
        println!("\n@{}", peer.obey(&words));
    }
    // The other side is gone, and with it whoever would want a tidy end.
    std::process::exit(0);
}

impl Peer {
    fn obey(&mut self, words: &[&str]) -> String {
        match words {
            ["region", memory, len, writable, seed] => {
                let memory = match *memory {
                    "agent" => Memory::Agent,
                    _ => Memory::Heap,
                };
                let len: usize = len.parse().unwrap();
                let writable = writable.parse().unwrap();
                let region = self.node.region_with(memory, len, writable);
                let bytes = pattern(seed.parse().unwrap(), 0, len);
                region.write_at(0, &bytes).unwrap();
                self.regions.push(region.clone());
                print_region(&region.card())
            }
            ["read", region] => {
                let region = &self.regions[region.parse::<usize>().unwrap()];
                checksum(&bytes(region))
            }
            ["withdraw", region] => {
                self.node
                    .withdraw(&self.regions[region.parse::<usize>().unwrap()]);
                "ok".to_owned()
            }
            ["received", count] => self.received(count.parse().unwrap()),
            ["send", count, len] => {
                let side = self.node.accepted().remove(0);
                for i in 0..count.parse().unwrap() {
                    side.send(pattern(2, i, len.parse().unwrap()));
                }
                "ok".to_owned()
            }
            ["files", spare] => {
                self.files.clear();
                self.files = take_files(spare.parse().unwrap());
                "ok".to_owned()
            }
            ["dial", card @ ..] => {
                let card = parse_card(&card.join(" "));
                match self.rig.try_connect(&self.node, card) {
                    Ok(side) => {
                        self.dialled = Some(side);
                        "ok".to_owned()
                    }
                    Err(e) => print_result(Err(e)),
                }
            }
            ["pull", seed, card @ ..] => self.pull(seed.parse().unwrap(), &card.join(" ")),
            ["cma", card @ ..] => self.cma(&card.join(" ")),
            other => panic!("no such command: {other:?}"),
        }
    }

    /// Waits for `count` messages and checks them.
    fn received(&self, count: usize) -> String {
        let side = self.node.accepted().remove(0);
        self.rig
            .wait("messages to arrive", || side.received() >= count);
        for i in 0..count {
            let (_, message) = side.message(i);
            if message != pattern(1, i as u64, message.len()) {
                return format!("message {i} is wrong");
            }
        }
        format!("{}", side.received())
    }

    /// A plan that reads a whole region of the peer that was dialled.
    fn whole(&self, card: &str) -> (Region, Arc<Plan>) {
        let card = parse_region(card);
        let mine = self.node.region(Memory::Heap, card.len as usize);
        let list = |addr| DescList::dram([(addr, card.len)]);
        let (local, remote) = (list(mine.addr()), list(card.addr));
        let cards = std::slice::from_ref(&card);
        let plan = self.rig.plan(Op::Read, &self.node, &local, cards, &remote);
        (mine, plan)
    }

    /// Reads a region of the peer's over shared memory and checks it.
    fn pull(&self, seed: u64, card: &str) -> String {
        let (mine, plan) = self.whole(card);
        let side = self.dialled.as_ref().expect("dialled before");
        let result = self.rig.attempt(side, &plan);
        let bytes = bytes(&mine);
        if result.is_ok() && bytes != pattern(seed, 0, bytes.len()) {
            return "wrong bytes".to_owned();
        }
        print_result(result)
    }

    /// Whether CMA to the peer that was dialled can be had.
    fn cma(&self, card: &str) -> String {
        let (_mine, plan) = self.whole(card);
        let side = self.dialled.as_ref().expect("dialled before");
        print_result(side.endpoint().prepare(CMA, &plan).map(drop))
    }
}

/// FNV-1a: enough to compare two runs of bytes over a pipe.
pub(crate) fn checksum(bytes: &[u8]) -> String {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

/// Takes every descriptor number but `spare` of them; the result gives them back.
fn take_files(spare: usize) -> Vec<File> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(256);
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut taken: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    taken.truncate(taken.len() - spare);
    taken
}
