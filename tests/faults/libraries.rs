//! A libucp that is missing, broken, too old or without its modules, and two that do not talk.

use std::{fs, path::Path, process::Command};

use nixl::{Agent, Config, Op};

use crate::{
    process::Process,
    ucx,
    world::{LIMIT, Memory, ONCE, config, image, moved, within},
};

/// An agent that would like UCX, with the libucp `lib`, and has TCP.
fn likes(lib: &Path) -> Config {
    let mut config = config("tcp");
    config.backends.clear();
    config.policy.only.clear();
    config.policy.prefer = vec!["ucx_tcp".to_owned()];
    config.ucx.lib = lib.to_string_lossy().into_owned();
    config.ucx.tls = "tcp".to_owned();
    config
}

/// Everything moves, and over which path.
pub(crate) fn works(near: &Agent, path: &str, far: &mut Process, there: u64) -> String {
    let here = Memory::new(near, path, 1);
    let mut used = String::new();
    for op in [Op::Read, Op::Write] {
        here.fill(1);
        assert_eq!(far.ask("fill 2"), "ok");
        let request = ONCE.request(op, near, &here, "far", there).unwrap();
        request.post_with(within(LIMIT)).unwrap();
        request.wait(LIMIT).unwrap();
        match op {
            Op::Read => here.check(&moved(op, 2)),
            Op::Write => {
                far.check(&moved(op, 1));
                here.check(&image(1));
            }
        }
        used = request.receipt().unwrap().path.to_owned();
    }
    here.deregister(near);
    used
}

/// Whoever insists on this libucp is told `words`; whoever does not goes on with TCP.
fn is_no_ucx(lib: &Path, words: &[&str]) {
    let mut insists = likes(lib);
    insists.backends = vec!["ucx".to_owned(), "tcp".to_owned()];
    let built = insists.agent("near").and_then(|builder| builder.build());
    let e = built.map(drop).unwrap_err();
    assert_eq!(e.kind(), nixl::ErrorKind::Unsupported, "{e}");
    let lib_name = lib.to_string_lossy();
    for word in words.iter().chain([&&*lib_name]) {
        assert!(e.message().contains(word), "{word:?} in {e}");
    }
    let near = likes(lib).agent("near").unwrap().build().unwrap();
    let (mut far, there) = Process::target(&near, "tcp", "far", 2);
    assert_eq!(works(&near, "tcp", &mut far, there), "tcp");
}

#[test]
fn missing() {
    is_no_ucx(Path::new("/nowhere/libucp.so.0"), &["no libucp there"]);
}

#[test]
fn no_library_at_all() {
    let dir = tempdir("text");
    let lib = dir.join("libucp.so.0");
    fs::write(&lib, "not a library").unwrap();
    is_no_ucx(&lib, &["cannot be loaded"]);
}

/// Compiled with the system's compiler; `None` where there is none.
fn compiled(name: &str, source: &str) -> Option<std::path::PathBuf> {
    let dir = tempdir(name);
    let (file, lib) = (dir.join("ucp.c"), dir.join("libucp.so.0"));
    fs::write(&file, source).unwrap();
    let mut cc = Command::new("cc");
    let status = cc
        .args(["-shared", "-fPIC", "-o"])
        .args([&lib, &file])
        .status();
    match status {
        Ok(status) if status.success() => Some(lib),
        other => {
            println!("SKIP a libucp that is {name}: cc: {other:?}");
            None
        }
    }
}

fn version(minor: u32) -> String {
    format!(
        "void ucp_get_version(unsigned *a, unsigned *b, unsigned *c) {{ *a = 1; *b = {minor}; *c = 0; }}"
    )
}

#[test]
fn too_old() {
    if let Some(lib) = compiled("old", &version(12)) {
        is_no_ucx(&lib, &["UCX 1.12.0", "1.13"]);
    }
}

#[test]
fn without_its_functions() {
    if let Some(lib) = compiled("empty", &version(20)) {
        is_no_ucx(&lib, &["lacks", "ucp_init_version", "ucp_get_nbx"]);
    }
    if let Some(lib) = compiled("another", "int nothing;") {
        is_no_ucx(&lib, &["lacks ucp_get_version"]);
    }
}

/// A directory of this test's own, which stays: what was loaded from it does too.
fn tempdir(name: &str) -> std::path::PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("faults-libraries")
        .join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Only what is built into libuct is left: TCP and shared memory.
#[test]
fn without_its_modules() {
    let Some(wheel) = ucx::provided("wheel") else {
        return println!("SKIP a UCX without modules: no target/ucx/wheel (cargo xtask ucx)");
    };
    let dir = tempdir("bare");
    for part in ["ucm", "ucs", "uct", "ucp"] {
        let name = format!("lib{part}.so.0");
        fs::copy(wheel.join(&name), dir.join(&name)).unwrap();
    }
    let near = likes(&dir).agent("near").unwrap().build().unwrap();
    let (mut far, there) = Process::target(&near, "ucx_tcp", "far", 2);
    assert_eq!(works(&near, "tcp", &mut far, there), "ucx_tcp");
}

/// Two releases that do not understand each other: said at connect, and TCP does it.
#[test]
fn two_that_do_not_talk() {
    let (Some(new), Some(old)) = (ucx::provided("wheel"), ucx::provided("debian")) else {
        return println!("SKIP two versions of UCX: no target/ucx (cargo xtask ucx)");
    };
    let near = likes(&new).agent("near").unwrap().build().unwrap();
    let old = old.to_string_lossy().into_owned();
    let variables = [("NIXL_RS_UCX_LIB", &old[..])];
    let mut far = Process::launch(&[], &variables, "ucx_or_tcp", "far");
    assert_eq!(far.answer(), "ready");
    let there = far.served(&near, "far", 2);
    let begun = std::time::Instant::now();
    assert_eq!(works(&near, "tcp", &mut far, there), "tcp");
    assert!(
        begun.elapsed() < crate::world::SOON,
        "{:?}",
        begun.elapsed()
    );
    let demand = nixl::negotiate::Demand {
        op: Op::Read,
        local: nixl::MemKind::Dram,
        remote: nixl::MemKind::Dram,
        all_remote_shareable: false,
        descs: 1,
        bytes: 4096,
    };
    let reason = || {
        let rows = near.explain("far", &demand).unwrap().rows();
        let ucx = rows.into_iter().find(|row| row.path == "ucx_tcp");
        ucx.unwrap().reason
    };
    // Kept until it is time to try again, which may be now; each failure lasts longer.
    let mut said = reason();
    while said.is_none() {
        assert!(begun.elapsed() < LIMIT, "no reason is given");
        assert_eq!(works(&near, "tcp", &mut far, there), "tcp");
        said = reason();
    }
    let said = said.unwrap_or_default();
    assert!(said.contains("1.13") && said.contains("1.22"), "{said}");
    // The other side lives, and says the same.
    assert_eq!(
        far.ask("sum"),
        crate::process::checksum(&moved(Op::Write, 1))
    );
}
