//! What operators read: lines of the log, and UCX's own words in errors.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use nixl_core::{Agent, Error, MemKind, Op, negotiate::Demand};
use nixl_ucx::{Options, UcxBackend, config::UcxConfig};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps the lines that are logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 += &format!("{value:?}");
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{} ", event.metadata().level()));
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// A backend over `transports`, with the wheel's libucp where there is one; says where there is none.
fn backend(transports: &str, strict: bool) -> Result<UcxBackend, Error> {
    let wheel = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ucx/wheel/lib");
    let mut config = UcxConfig::default();
    let named = std::env::var_os("NIXL_RS_UCX_LIB").is_some();
    config.lib = (!named && wheel.is_dir()).then_some(wheel);
    config.strict = strict;
    config.set("TLS", transports)?;
    UcxBackend::open(&config, Options::default())
}

fn agent(name: &str, backend: UcxBackend) -> Agent {
    let agent = Agent::builder(name).backend(backend).build();
    agent.expect("the agent starts")
}

#[test]
fn the_lines_that_operators_look_for_are_there() {
    let log = Log::default();
    let agent = tracing::subscriber::with_default(log.clone(), || {
        backend("tcp", false).map(|backend| agent("here", backend))
    });
    if let Err(why) = agent {
        return println!("SKIP the log of an agent over UCX: {why}");
    }
    let lines = log.0.lock().unwrap().clone();
    let has = |words: &[&str]| {
        let all = |line: &&String| words.iter().all(|word| line.contains(word));
        assert!(
            lines.iter().any(|line| all(&line)),
            "{words:?} in {lines:#?}"
        );
    };
    has(&["INFO", "Backend UCX was instantiated"]);
    has(&[
        "WARN",
        "no RDMA transports available",
        "falling back to TCP",
    ]);
    has(&["INFO", "UCX transports:", "tcp/"]);
}

/// Two agents whose transports do not meet: UCX's own words are in the error and in `explain`.
fn do_not_meet(near: &str, far: &str, strict: bool, words: &[&str]) {
    let backends = [near, far].map(|tls| backend(tls, strict));
    let [near, far] = match backends {
        [Ok(near), Ok(far)] => [("near", near), ("far", far)].map(|(n, b)| agent(n, b)),
        [Err(why), _] | [_, Err(why)] => {
            return println!("SKIP {near} meeting {far} (strict: {strict}): {why}");
        }
    };
    let blob = far.metadata().expect("it can be written");
    near.load_metadata(&blob).expect("it loads");
    let e = near
        .connect("far", PATIENCE)
        .expect_err("they share no transport");
    let demand = Demand {
        op: Op::Read,
        local: MemKind::Dram,
        remote: MemKind::Dram,
        all_remote_shareable: false,
        descs: 1,
        bytes: 4096,
    };
    let explained = near.explain("far", &demand).expect("the peer is loaded");
    let rows = explained.rows();
    let reasons: String = rows.iter().filter_map(|row| row.reason.clone()).collect();
    println!("{e}\n{explained}");
    for word in words {
        assert!(e.message().contains(word), "{word:?} in {e}");
        assert!(reasons.contains(word), "{word:?} in {reasons}");
    }
}

#[test]
fn transports_that_do_not_meet_are_named_by_ucx() {
    let words = ["UCX says: no ", "transport", "tcp/", "UCX_TLS"];
    do_not_meet("tcp", "cma,self,posix", false, &words);
}

#[test]
fn a_strict_agent_says_which_transports_ucx_left_out() {
    let words = ["UCX says: no ", "transport", "cma/", "UCX_TLS"];
    do_not_meet("cma,posix,self", "cma,posix,self", true, &words);
}
