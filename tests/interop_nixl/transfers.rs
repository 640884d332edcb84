//! READ, WRITE and notifications, initiated by us and by NIXL.

use nixl::{Op, negotiate::Demand};

use crate::{
    nixl::{Holds, Job, post_command},
    ours::{BLOCK, LIMIT, check, fill, list, on, pair, scattered, strangers},
};

/// The transports to go over: what UCX picks, and sockets.
const TLS: [Option<&str>; 2] = [None, Some("tcp")];

fn job<'a>(
    op: &'a str,
    ours: &'a [u64],
    base: u64,
    theirs: &'a [u64],
    message: &'a [u8],
) -> Job<'a> {
    Job {
        op,
        peer: "ours",
        local: "r",
        ours,
        base,
        theirs,
        size: BLOCK,
        message,
    }
}

#[test]
fn we_read_and_write() {
    for tls in TLS {
        let Some(mut pair) = pair(tls) else { return };
        for (op, salt) in [(Op::Read, 1), (Op::Write, 2)] {
            for count in [1, 7, 64] {
                let (ours, theirs) = (scattered(count, salt), scattered(count, salt + 6));
                let request = pair.run(op, &ours, &theirs, b"");
                pair.check(op == Op::Read, &ours, &theirs);
                let receipt = request.receipt().unwrap();
                assert!(receipt.foreign, "{receipt:?}");
                assert_eq!((receipt.bytes, receipt.attempts), (count * BLOCK, 1));
                pair.fill();
                request.post().unwrap();
                request.wait(LIMIT).unwrap();
                pair.check(op == Op::Read, &ours, &theirs);
                pair.fill();
            }
        }
    }
}

#[test]
fn nixl_reads_and_writes() {
    for tls in TLS {
        let Some(mut pair) = pair(tls) else { return };
        let base = pair.region.addr();
        for (op, salt) in [("READ", 1), ("WRITE", 2)] {
            for count in [1, 7, 64] {
                let (theirs, ours) = (scattered(count, salt), scattered(count, salt + 6));
                pair.nixl.transfer(&job(op, &theirs, base, &ours, b""));
                pair.check(op == "WRITE", &ours, &theirs);
                pair.fill();
            }
        }
    }
}

/// Another UCX than NIXL's own, of a version that it understands.
#[test]
fn a_libucp_of_1_22_does() {
    let Some(mut pair) = on("wheel", None) else {
        return;
    };
    pair.introduce();
    let (ours, theirs) = (scattered(30, 1), scattered(30, 9));
    for op in [Op::Read, Op::Write] {
        pair.run(op, &ours, &theirs, b"done");
        pair.check(op == Op::Read, &ours, &theirs);
        assert_eq!(pair.nixl.notifications(1)[0].1, b"done");
        pair.fill();
    }
    let base = pair.region.addr();
    for op in ["READ", "WRITE"] {
        pair.nixl.transfer(&job(op, &theirs, base, &ours, b"done"));
        pair.check(op == "WRITE", &ours, &theirs);
        let got = pair.agent.wait_notification(LIMIT).expect("a notification");
        assert_eq!(&got.data[..], b"done");
        pair.fill();
    }
}

/// More blocks than are fed in one go, or than fit a queue.
#[test]
fn thousands_of_blocks() {
    const MANY: u64 = 8192;
    for tls in TLS {
        let Some(mut pair) = strangers(tls) else {
            return;
        };
        let there = pair.nixl.alloc("many", MANY, BLOCK);
        let here = pair.agent.allocate(MANY * BLOCK).unwrap();
        pair.introduce();
        let (ours, theirs) = (scattered(MANY, 1), scattered(MANY, 77));
        let (mut holds_here, mut holds_there) = (blocks(1, MANY), blocks(2, MANY));
        fill(&here, 1);
        pair.nixl.fill("many", 2);
        let near = list(here.addr(), &ours);
        let far = list(there, &theirs);
        let write = pair.agent.create_request(Op::Write, &near, "nixl", &far);
        let write = write.unwrap();
        write.post().unwrap();
        write.wait(LIMIT).unwrap();
        for (from, to) in ours.iter().zip(&theirs) {
            holds_there[*to as usize] = holds_here[*from as usize];
        }
        pair.nixl.check("many", &holds_there);
        // NIXL fetches what it has not: other blocks of ours.
        fill(&here, 5);
        holds_here = blocks(5, MANY);
        let fetch = Job {
            local: "many",
            ..job("READ", &theirs[..999], here.addr(), &ours[..999], b"")
        };
        pair.nixl.transfer(&fetch);
        for (to, from) in theirs[..999].iter().zip(&ours) {
            holds_there[*to as usize] = holds_here[*from as usize];
        }
        pair.nixl.check("many", &holds_there);
        check(&here, &holds_here);
    }
}

fn blocks(seed: u64, count: u64) -> Vec<Holds> {
    (0..count)
        .map(|block| Holds::Block { seed, block })
        .collect()
}

/// Both at once: each initiates while it is the other's target.
#[test]
fn both_at_once() {
    let Some(mut pair) = pair(None) else { return };
    let base = pair.region.addr();
    // NIXL writes into our upper half, we into its upper half; both read from lower halves.
    let (low, high): (Vec<u64>, Vec<u64>) = ((0..32).rev().collect(), (32..64).collect());
    let theirs = job("WRITE", &low, base, &high, b"theirs");
    let command = post_command("x", &theirs);
    for _ in 0..20 {
        pair.nixl.tell(&command);
        let ours = pair.run(Op::Write, &low, &high, b"ours");
        pair.nixl.answer(&command).unwrap();
        assert_eq!(pair.nixl.call("wait x 20"), "DONE");
        assert!(ours.receipt().unwrap().foreign);
        let got = pair.agent.wait_notification(LIMIT).expect("theirs");
        assert_eq!((&*got.from, &got.data[..]), ("nixl", &b"theirs"[..]));
        assert_eq!(
            pair.nixl.notifications(1),
            [("ours".to_owned(), b"ours".to_vec())]
        );
        pair.check_crossed(&low, &high);
        pair.fill();
    }
}

#[test]
fn notifications_go_both_ways_in_order() {
    for tls in TLS {
        let Some(mut pair) = pair(tls) else { return };
        let messages: Vec<Vec<u8>> = [0, 1, 8, 100, 8191, 8192, 65_536, 1 << 20]
            .iter()
            .enumerate()
            .map(|(i, len)| vec![i as u8; *len])
            .collect();
        for message in &messages {
            pair.agent.notify("nixl", message).unwrap();
        }
        let got = pair.nixl.notifications(messages.len());
        assert!(got.iter().all(|(from, _)| from == "ours"));
        assert!(got.into_iter().map(|(_, data)| data).eq(messages.clone()));
        for message in &messages {
            pair.nixl.notify("ours", message);
            let got = pair.agent.wait_notification(LIMIT).expect("a notification");
            assert_eq!((&*got.from, got.verified), ("nixl", false));
            assert!(got.data == message[..], "{} bytes", message.len());
        }
        for i in 0..200u16 {
            pair.agent.notify("nixl", &i.to_le_bytes()).unwrap();
        }
        let got = pair.nixl.notifications(200);
        let numbers = got
            .iter()
            .map(|(_, data)| u16::from_le_bytes(data[..].try_into().unwrap()));
        assert!(numbers.eq(0..200));
    }
}

/// Whoever gets the notification of a transfer finds its bytes in place.
#[test]
fn a_notification_comes_after_its_data() {
    let Some(mut pair) = pair(None) else { return };
    let (ours, theirs) = (scattered(40, 3), scattered(40, 4));
    pair.run(Op::Write, &ours, &theirs, b"written");
    assert_eq!(
        pair.nixl.notifications(1),
        [("ours".to_owned(), b"written".to_vec())]
    );
    pair.check(false, &ours, &theirs);
    pair.fill();
    let base = pair.region.addr();
    pair.nixl
        .transfer(&job("WRITE", &theirs, base, &ours, b"too"));
    let got = pair.agent.wait_notification(LIMIT).expect("a notification");
    assert_eq!(&got.data[..], b"too");
    pair.check(true, &ours, &theirs);
    pair.fill();
    pair.run(Op::Read, &ours, &theirs, b"fetched");
    assert_eq!(
        pair.nixl.notifications(1),
        [("ours".to_owned(), b"fetched".to_vec())]
    );
    pair.check(true, &ours, &theirs);
}

#[test]
fn the_table_says_that_the_peer_is_foreign_and_what_moves_the_bytes() {
    let Some(pair) = pair(None) else { return };
    let request = pair.run(Op::Read, &[0, 5], &[9, 2], b"");
    let receipt = request.receipt().unwrap();
    assert!(receipt.lanes.starts_with("ucx:"), "{}", receipt.lanes);
    let demand = Demand {
        op: Op::Read,
        local: nixl::MemKind::Dram,
        remote: nixl::MemKind::Dram,
        all_remote_shareable: false,
        descs: 2,
        bytes: 2 * BLOCK,
    };
    let found = pair.agent.explain("nixl", &demand).unwrap();
    assert!(found.foreign);
    let best = &found.rows()[0];
    assert_eq!((best.path, best.proven), (receipt.path, true), "{found}");
    assert!(found.to_string().contains("foreign agent"), "{found}");
}
