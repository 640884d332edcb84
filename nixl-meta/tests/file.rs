//! The contract of the file exchange.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use nixl_core::ErrorKind;
use nixl_meta::{Change, Exchange, file::FileExchange};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_millis(120);

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8 ^ seed).collect()
}

fn fresh() -> (TempDir, PathBuf, FileExchange) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("exchange");
    let exchange = FileExchange::open(&dir).unwrap();
    (temp, dir, exchange)
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn published(agent: &str, label: &str) -> Change {
    Change::Published {
        agent: agent.into(),
        label: label.into(),
    }
}

fn removed(agent: &str, label: &str) -> Change {
    Change::Removed {
        agent: agent.into(),
        label: label.into(),
    }
}

#[test]
fn publish_fetch_replace_remove() {
    let (_temp, dir, here) = fresh();
    let there = FileExchange::open(&dir).unwrap();
    let e = there.fetch("a", "metadata", Duration::ZERO).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    for (len, seed) in [(0, 1), (1, 2), (3_000_001, 3), (10, 4)] {
        here.publish("a", "metadata", pattern(len, seed).into())
            .unwrap();
        let got = there.fetch("a", "metadata", Duration::ZERO).unwrap();
        assert!(got == pattern(len, seed));
    }
    here.publish("a", "part", pattern(5, 5).into()).unwrap();
    here.publish("b", "metadata", pattern(6, 6).into()).unwrap();
    assert_eq!(names_in(&dir), ["a@metadata", "a@part", "b@metadata"]);
    here.remove("a", "part").unwrap();
    here.remove("a", "part").unwrap();
    assert_eq!(there.list().unwrap().len(), 2);
    here.remove_agent("a").unwrap();
    assert_eq!(there.list().unwrap(), [("b".into(), "metadata".into())]);
    assert_eq!(names_in(&dir), ["b@metadata"]);
}

#[test]
fn secrets_are_private() {
    let (_temp, dir, exchange) = fresh();
    exchange
        .publish("a", "metadata", pattern(5, 0).into())
        .unwrap();
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
    let file = fs::metadata(dir.join("a@metadata")).unwrap();
    assert_eq!(file.mode() & 0o777, 0o600);
}

#[test]
fn names_cannot_leave_the_directory() {
    let (temp, dir, exchange) = fresh();
    let names = [
        ".",
        "..",
        "../../x",
        "/etc/passwd",
        "a/b",
        "a@b",
        "%2F",
        ".tmp-x",
        "A B",
        "ü",
        "nul\0",
    ];
    let mut expected = Vec::new();
    for (seed, agent) in (0..).zip(names) {
        for label in names {
            exchange
                .publish(agent, label, pattern(9, seed).into())
                .unwrap();
            expected.push((agent.to_owned(), label.to_owned()));
        }
    }
    expected.sort();
    assert_eq!(exchange.list().unwrap(), expected);
    assert_eq!(names_in(&dir).len(), expected.len());
    assert_eq!(names_in(temp.path()), ["exchange"]);
    for (seed, agent) in (0..).zip(names) {
        let got = exchange.fetch(agent, "../../x", Duration::ZERO).unwrap();
        assert_eq!(got, pattern(9, seed));
    }
    let long = "é".repeat(100);
    for (agent, label) in [("", "l"), ("a", ""), (&long, "l"), ("a", &"x".repeat(300))] {
        let e = exchange
            .publish(agent, label, pattern(1, 0).into())
            .unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ApiMisuse, "{e}");
        let e = exchange.fetch(agent, label, LONG).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ApiMisuse, "{e}");
    }
}

#[test]
fn directories_that_others_control_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    let refused = |path: &Path| {
        let e = FileExchange::open(path).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::NotAllowed, "{e}");
    };
    fs::create_dir(at("real")).unwrap();
    symlink(at("real"), at("link")).unwrap();
    refused(&at("link"));
    symlink(at("nowhere"), at("dangling")).unwrap();
    refused(&at("dangling"));
    fs::write(at("file"), b"").unwrap();
    refused(&at("file"));
    for mode in [0o770, 0o702, 0o1777] {
        fs::set_permissions(at("real"), PermissionsExt::from_mode(mode)).unwrap();
        refused(&at("real"));
    }
    fs::set_permissions(at("real"), PermissionsExt::from_mode(0o700)).unwrap();
    FileExchange::open(at("real")).unwrap();
    if chown(at("real"), Some(65_534), None).is_ok() {
        refused(&at("real"));
    } else {
        refused(Path::new("/usr"));
    }
    let e = FileExchange::open(at("no/parent")).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Backend, "{e}");
}

#[test]
fn files_that_are_no_blobs_are_not_read() {
    let (temp, dir, _) = fresh();
    let exchange = FileExchange::with_max_blob(&dir, 1000).unwrap();
    fs::write(temp.path().join("secret"), b"secret").unwrap();
    symlink(temp.path().join("secret"), dir.join("link@metadata")).unwrap();
    fs::create_dir(dir.join("dir@metadata")).unwrap();
    let fifo = Command::new("mkfifo")
        .arg(dir.join("fifo@metadata"))
        .status();
    assert!(fifo.unwrap().success());
    for agent in ["link", "dir", "fifo"] {
        let e = exchange.fetch(agent, "metadata", LONG).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Backend, "{agent}: {e}");
    }
    for stray in [
        "README",
        "a.b@metadata",
        "a%2f@metadata",
        "a%4",
        "@",
        ".tmp-1",
    ] {
        fs::write(dir.join(stray), b"").unwrap();
    }
    assert_eq!(exchange.list().unwrap(), []);
    fs::File::create(dir.join("big@metadata"))
        .unwrap()
        .set_len(1001)
        .unwrap();
    let e = exchange.fetch("big", "metadata", LONG).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Exhausted, "{e}");
    let e = exchange
        .publish("a", "b", pattern(1001, 0).into())
        .unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Exhausted, "{e}");
}

#[test]
fn what_dead_publishers_left_is_swept() {
    let (_temp, dir, _) = fresh();
    for name in [".tmp-old", ".tmp-new", "old@metadata"] {
        fs::write(dir.join(name), b"").unwrap();
    }
    let old = SystemTime::now() - Duration::from_secs(2 * 3600);
    for name in [".tmp-old", "old@metadata"] {
        let file = fs::File::options()
            .write(true)
            .open(dir.join(name))
            .unwrap();
        file.set_modified(old).unwrap();
    }
    FileExchange::open(&dir).unwrap();
    assert_eq!(names_in(&dir), [".tmp-new", "old@metadata"]);
}

#[test]
fn fetch_waits_for_the_publisher() {
    let (_temp, _, exchange) = fresh();
    let begun = Instant::now();
    let e = exchange.fetch("a", "metadata", SOON).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    assert!(begun.elapsed() >= SOON);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| exchange.fetch("a", "metadata", LONG));
        exchange
            .publish("a", "metadata", pattern(9, 9).into())
            .unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), pattern(9, 9));
    });
}

#[test]
fn watching_sees_what_was_what_comes_and_what_goes() {
    let (_temp, dir, exchange) = fresh();
    let blob = |seed| pattern(9, seed).into();
    exchange.publish("a", "metadata", blob(1)).unwrap();
    let mut watch = exchange.watch().unwrap();
    assert_eq!(watch.next(LONG).unwrap(), Some(published("a", "metadata")));
    assert_eq!(watch.next(SOON).unwrap(), None);
    exchange.publish("b", "metadata", blob(2)).unwrap();
    assert_eq!(watch.next(LONG).unwrap(), Some(published("b", "metadata")));
    // Same size, same time.
    for seed in 3..10 {
        exchange.publish("a", "metadata", blob(seed)).unwrap();
        let file = fs::File::open(dir.join("a@metadata")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(watch.next(LONG).unwrap(), Some(published("a", "metadata")));
    }
    exchange.remove_agent("a").unwrap();
    assert_eq!(watch.next(LONG).unwrap(), Some(removed("a", "metadata")));
    assert_eq!(watch.next(Duration::ZERO).unwrap(), None);
}

#[test]
fn readers_never_see_a_mixture() {
    let (_temp, _, exchange) = fresh();
    exchange
        .publish("a", "metadata", pattern(70_000, 0).into())
        .unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for first in [1, 2] {
            let (exchange, done) = (&exchange, &done);
            scope.spawn(move || {
                for seed in (first..60).step_by(2) {
                    let len = 70_000 + usize::from(seed);
                    exchange
                        .publish("a", "metadata", pattern(len, seed).into())
                        .unwrap();
                }
                done.store(true, Ordering::Release);
            });
        }
        while !done.load(Ordering::Acquire) {
            let got = exchange.fetch("a", "metadata", Duration::ZERO).unwrap();
            let seed = u8::try_from(got.len() - 70_000).unwrap();
            assert!(got == pattern(got.len(), seed), "a mixture");
        }
    });
    assert_eq!(exchange.list().unwrap().len(), 1);
}

const CHILD: &str = "META_TEST_DIR";

/// Runs `test` of this binary again below `shell`, with a directory to fill.
fn again(test: &str, shell: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(shell[0]);
    command
        .args(&shell[1..])
        .arg(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, dir);
    command.output().unwrap()
}

/// In a directory that holds less than 1 MiB.
fn fill(dir: &str) {
    let exchange = FileExchange::open(dir).unwrap();
    exchange
        .publish("a", "metadata", pattern(9000, 1).into())
        .unwrap();
    for _ in 0..3 {
        let e = exchange
            .publish("a", "metadata", pattern(3 << 20, 2).into())
            .unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Exhausted, "{e}");
        assert!(e.message().contains("free some"), "{e}");
        let old = exchange.fetch("a", "metadata", Duration::ZERO).unwrap();
        assert_eq!(old, pattern(9000, 1));
    }
    assert_eq!(names_in(Path::new(dir)), ["a@metadata"]);
    exchange
        .publish("a", "metadata", pattern(9001, 3).into())
        .unwrap();
    println!("filled");
}

fn assert_filled(output: &Output) {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && stdout.contains("filled"),
        "{stdout}{stderr}"
    );
}

#[test]
fn a_full_disk_leaves_the_old_blob() {
    if let Ok(dir) = std::env::var(CHILD) {
        return fill(&dir);
    }
    let temp = tempfile::tempdir().unwrap();
    let mount =
        "mount -t tmpfs -o size=1m,mode=700 none \"$META_TEST_DIR\" || exit 77; \"$0\" \"$@\"";
    let shell = ["unshare", "-rm", "sh", "-c", mount];
    if Command::new("unshare")
        .args(["-rm", "true"])
        .status()
        .is_ok_and(|s| s.success())
    {
        let output = again("a_full_disk_leaves_the_old_blob", &shell, temp.path());
        if output.status.code() != Some(77) {
            return assert_filled(&output);
        }
    }
    println!("SKIP full-disk: no mount namespace may be made here");
    let required = std::env::var("NIXL_RS_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|w| w == "full-disk" || w == "all");
    assert!(!required, "NIXL_RS_REQUIRE demands it");
}

#[test]
fn a_file_size_limit_is_like_a_full_disk() {
    if let Ok(dir) = std::env::var(CHILD) {
        return fill(&dir);
    }
    let temp = tempfile::tempdir().unwrap();
    let limit = "trap '' XFSZ; ulimit -f 256; \"$0\" \"$@\"";
    let output = again(
        "a_file_size_limit_is_like_a_full_disk",
        &["sh", "-c", limit],
        temp.path(),
    );
    assert_filled(&output);
}
