//! The suite catches backends that break the contract: one saboteur for each way to break it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use nixl_conformance::{Backend, Progress, rig::Rig, sim::SimBackend, suite};
use nixl_core::{
    BackendName, Error, ErrorKind, Generation, Op, PathCaps, PathName, RegionId, Result,
    auth::{Known, PeerIdentity},
    backend::{
        Conn, ConnHandler, ConnectDone, Context, Endpoint, PeerAddress, Refused, Transfer, Upcalls,
    },
    error::fail,
    inflight::{Completion, OpOwner},
    mem::Pin,
    plan::Plan,
    runtime::{Runtime, Step, Task},
};
use parking_lot::Mutex;

/// How a saboteur breaks the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Honest,
    CompletesBeforeTheBytes,
    WritesOneByteMore,
    TouchesMemoryLater,
    DropsTokens,
    KeepsTokens,
    SaysOk,
    BlamesItself,
    ReportsNoBytes,
    TakesAnyPath,
    SitsOnCancelled,
    RepeatsMessages,
    SwapsMessages,
    ShortensMessages,
    LosesEarlyMessages,
    HoldsMessages,
    MessagesAfterPayload,
    ClosesTwice,
    ClosesUnderTokens,
    NeverReportsTheEnd,
    KeepsPins,
    KnowsNobody,
    NeverConnects,
}

struct Saboteur {
    sim: SimBackend,
    how: How,
    runtime: Mutex<Option<Runtime>>,
}

impl Backend for Saboteur {
    fn name(&self) -> BackendName {
        self.sim.name()
    }

    fn paths(&self) -> &[PathCaps] {
        self.sim.paths()
    }

    fn start(&self, ctx: Context) -> Result<Bytes> {
        *self.runtime.lock() = Some(ctx.runtime.clone());
        let (identity, runtime) = (ctx.identity.clone(), ctx.runtime.clone());
        let regions = ctx.regions.clone();
        let upcalls = Arc::new(BadUpcalls { how: self.how, ctx });
        self.sim
            .start(Context::new(identity, runtime, regions, upcalls))
    }

    fn connect(&self, peer: Arc<PeerAddress>, done: ConnectDone) {
        if self.how == How::NeverConnects {
            return std::mem::forget(done);
        }
        let (how, runtime) = (self.how, self.runtime.lock().clone().unwrap());
        let done = ConnectDone::new(move |result| match result {
            Err(e) => {
                done.failed(e);
                None
            }
            Ok(inner) => {
                let (endpoint, conn) = BadEndpoint::new(inner, how, runtime);
                let real = done.connected(endpoint)?;
                Some(conn.wrap(real))
            }
        });
        self.sim.connect(peer, done);
    }

    fn shutdown(&self) {
        self.sim.shutdown();
    }
}

struct BadUpcalls {
    how: How,
    ctx: Context,
}

impl Upcalls for BadUpcalls {
    fn known(&self, name: &str, generation: Generation) -> Known {
        match self.how {
            How::KnowsNobody => Known::No,
            _ => self.ctx.known(name, generation),
        }
    }

    fn accepted(
        &self,
        backend: BackendName,
        peer: PeerIdentity,
        endpoint: Arc<dyn Endpoint>,
    ) -> Conn {
        let (endpoint, conn) = BadEndpoint::new(endpoint, self.how, self.ctx.runtime.clone());
        conn.wrap(self.ctx.accepted(backend, peer, endpoint))
    }
}

/// Stands between the simulated backend and the rig's handler.
struct BadConn {
    how: How,
    real: Mutex<Option<Conn>>,
    held: Mutex<Vec<Vec<u8>>>,
    count: Mutex<usize>,
    runtime: Runtime,
    /// Transfers under way on this end.
    active: AtomicUsize,
}

impl BadConn {
    fn wrap(self: Arc<Self>, real: Conn) -> Conn {
        *self.real.lock() = Some(real);
        Conn::new(self)
    }

    fn real(&self) -> Conn {
        self.real.lock().clone().unwrap()
    }
}

impl ConnHandler for BadConn {
    fn message(&self, message: &[u8]) {
        let nth = {
            let mut count = self.count.lock();
            *count += 1;
            *count
        };
        match self.how {
            How::RepeatsMessages if nth == 100 => {
                self.real().message(message);
                self.real().message(message);
            }
            How::SwapsMessages if nth == 100 => self.held.lock().push(message.to_vec()),
            How::ShortensMessages if nth == 9 => self.real().message(&message[..message.len() - 1]),
            How::LosesEarlyMessages if nth == 1 => {}
            How::MessagesAfterPayload if self.active.load(Ordering::SeqCst) > 0 => {
                self.runtime.spawn(Arc::new(Late {
                    conn: self.real(),
                    message: message.to_vec(),
                    at: Instant::now() + Duration::from_millis(1500),
                }));
            }
            How::HoldsMessages => self.held.lock().push(message.to_vec()),
            _ => {
                self.real().message(message);
                for held in self.held.lock().drain(..) {
                    self.real().message(&held);
                }
            }
        }
    }

    fn closed(&self, why: Error) {
        match self.how {
            How::NeverReportsTheEnd => {}
            How::ClosesTwice => {
                self.real().closed(why.clone());
                self.real().closed(why);
            }
            _ => self.real().closed(why),
        }
    }
}

/// A message that waits until the transfers are over and the suite calls it late.
struct Late {
    conn: Conn,
    message: Vec<u8>,
    at: Instant,
}

impl Task for Late {
    fn run(self: Arc<Self>, _: Instant) -> Step {
        if Instant::now() < self.at {
            return Step::Again;
        }
        self.conn.message(&self.message);
        Step::Done
    }
}

struct BadEndpoint {
    how: How,
    inner: Arc<dyn Endpoint>,
    conn: Arc<BadConn>,
    runtime: Runtime,
}

impl BadEndpoint {
    fn new(inner: Arc<dyn Endpoint>, how: How, runtime: Runtime) -> (Arc<Self>, Arc<BadConn>) {
        let conn = Arc::new(BadConn {
            how,
            real: Mutex::default(),
            held: Mutex::default(),
            count: Mutex::default(),
            runtime: runtime.clone(),
            active: AtomicUsize::new(0),
        });
        let this = Arc::new(Self {
            how,
            inner,
            conn: conn.clone(),
            runtime,
        });
        (this, conn)
    }
}

// SAFETY: INV-1, as the simulated backend; what sabotage touches goes through `Region`'s checks.
unsafe impl Endpoint for BadEndpoint {
    fn prepare(&self, path: PathName, plan: &Arc<Plan>) -> Result<Arc<dyn Transfer>> {
        let path = match self.how {
            How::TakesAnyPath => "sim",
            _ => path,
        };
        Ok(Arc::new(BadTransfer {
            how: self.how,
            inner: self.inner.prepare(path, plan)?,
            plan: plan.clone(),
            conn: self.conn.clone(),
            runtime: self.runtime.clone(),
        }))
    }

    fn send(&self, message: Bytes) -> Result<()> {
        self.inner.send(message)
    }

    fn forget(&self, region: RegionId) {
        self.inner.forget(region);
    }

    fn describe(&self, path: PathName) -> String {
        self.inner.describe(path)
    }

    fn close(&self) {
        if self.how == How::ClosesUnderTokens {
            let why = fail(ErrorKind::PeerGone, "closed");
            self.conn.real().closed(why);
        }
        self.inner.close();
    }
}

struct BadTransfer {
    how: How,
    inner: Arc<dyn Transfer>,
    plan: Arc<Plan>,
    conn: Arc<BadConn>,
    runtime: Runtime,
}

// SAFETY: INV-1, as `BadEndpoint`.
unsafe impl Transfer for BadTransfer {
    fn post(self: Arc<Self>, done: Completion) -> Result<(), Refused> {
        match self.how {
            How::DropsTokens => {
                drop(done);
                return Ok(());
            }
            How::KeepsTokens => {
                std::mem::forget(done);
                return Ok(());
            }
            _ => {}
        }
        let relay = Arc::new(Relay {
            transfer: self.clone(),
            done: Mutex::new(Some(done)),
            touch_at: OnceLock::new(),
        });
        self.conn.active.fetch_add(1, Ordering::SeqCst);
        let posted = self.inner.clone().post(Completion::new(relay.clone(), 0));
        if self.how == How::CompletesBeforeTheBytes
            && let Some(done) = relay.done.lock().take()
        {
            done.complete(Ok(()));
        }
        posted.map_err(|Refused { error, done }| {
            let mine = relay.done.lock().take();
            done.complete(Ok(()));
            Refused {
                error,
                done: mine.unwrap(),
            }
        })
    }

    fn cancel(&self) {
        self.inner.cancel();
    }

    fn moved(&self) -> u64 {
        match self.how {
            How::ReportsNoBytes => 0,
            _ => self.inner.moved(),
        }
    }
}

/// Gets the simulated backend's token and passes it on.
struct Relay {
    transfer: Arc<BadTransfer>,
    done: Mutex<Option<Completion>>,
    touch_at: OnceLock<Instant>,
}

/// Longer than the slice of work in which a token is completed.
const LATER: Duration = Duration::from_millis(5);

impl OpOwner for Relay {
    fn finished(self: Arc<Self>, _: u32, result: Result<()>) {
        self.transfer.conn.active.fetch_sub(1, Ordering::SeqCst);
        let Some(done) = self.done.lock().take() else {
            return;
        };
        let (how, plan) = (self.transfer.how, &self.transfer.plan);
        match how {
            How::WritesOneByteMore if plan.op() == Op::Read => self.touch(),
            How::TouchesMemoryLater => self.transfer.runtime.spawn(self.clone()),
            How::KeepsPins => {
                let pin: Option<Pin> = plan.local().regions()[0].pin();
                std::mem::forget(pin);
            }
            How::SitsOnCancelled if result.is_err() => return std::mem::forget(done),
            _ => {}
        }
        done.complete(match how {
            How::SaysOk => Ok(()),
            How::BlamesItself => {
                result.map_err(|e| fail(ErrorKind::Backend, e.message().to_owned()))
            }
            _ => result,
        });
    }
}

impl Relay {
    /// Writes to the last byte of the first local region: behind every block.
    fn touch(&self) {
        let region = &self.transfer.plan.local().regions()[0];
        region.write_at(region.len() - 1, b"!").unwrap();
    }
}

impl Task for Relay {
    fn run(self: Arc<Self>, _: Instant) -> Step {
        if Instant::now() < *self.touch_at.get_or_init(|| Instant::now() + LATER) {
            return Step::Again;
        }
        self.touch();
        Step::Done
    }
}

/// Runs one test of the suite over a saboteur; what it panicked with, if it did.
fn outcome(how: How, test: fn(&Rig)) -> Result<(), String> {
    let make = move || {
        Arc::new(Saboteur {
            sim: SimBackend::default(),
            how,
            runtime: Mutex::default(),
        }) as Arc<dyn Backend>
    };
    catch_unwind(AssertUnwindSafe(|| {
        let rig = Rig::new(Box::new(make), "sim", Progress::Caller);
        let rig = rig.with_patience(Duration::from_millis(match how {
            How::Honest => 20_000,
            How::MessagesAfterPayload => 3_000,
            _ => 700,
        }));
        test(&rig);
        rig.finish();
    }))
    .map_err(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => other.downcast_ref::<&str>().unwrap_or(&"?").to_string(),
    })
}

/// `by`: what the suite says, or one of several such texts between bars.
#[track_caller]
fn caught(how: How, test: fn(&Rig), by: &str) {
    assert_eq!(outcome(How::Honest, test), Ok(()), "honest");
    let text = outcome(how, test).expect_err("the suite let a saboteur pass");
    assert!(
        by.split('|').any(|by| text.contains(by)),
        "{how:?} was caught by something else: {text}"
    );
}

macro_rules! catches {
    ($($name:ident: $how:ident in $test:ident by $text:literal,)+) => {
        $(
            #[test]
            fn $name() {
                caught(How::$how, suite::$test, $text);
            }
        )+
    };
}

catches! {
    bytes_that_come_late: CompletesBeforeTheBytes in every_byte_in_place by "target: region 0",
    visibility: CompletesBeforeTheBytes in write_is_visible_at_completion by "before the bytes",
    a_byte_too_many: WritesOneByteMore in every_byte_in_place by "outside every block",
    a_byte_too_many_on_repost: WritesOneByteMore in repost by "outside every block",
    late_access: TouchesMemoryLater in cancel_midway by "after the token was completed",
    deafness_to_cancel: SitsOnCancelled in cancel_midway by "the token came later",
    late_access_at_the_end: TouchesMemoryLater in peer_dies
        by "after the token was completed|that ended early|done before the end",
    dropped_tokens: DropsTokens in repost by "the transfer succeeds",
    kept_tokens: KeepsTokens in peer_dies by "in vain",
    lies_about_keys: SaysOk in wrong_key by "had to fail",
    lies_about_bounds: SaysOk in out_of_bounds by "had to fail",
    lies_about_withdrawal: SaysOk in revoked_region by "had to fail",
    lies_about_access: SaysOk in read_only_region by "had to fail",
    lies_about_the_end: SaysOk in closed_midway by "done before the end",
    wrong_blame: BlamesItself in wrong_key by "a wrong key",
    wrong_blame_at_the_end: BlamesItself in peer_dies by "the connection ended",
    bytes_not_counted: ReportsNoBytes in repost by "post 1",
    any_path: TakesAnyPath in unsupported_operations by "does not exist",
    repeated_messages: RepeatsMessages in messages_in_order by "message 100",
    swapped_messages: SwapsMessages in messages_in_order by "message 99",
    shortened_messages: ShortensMessages in messages_in_order by "length of message 8",
    lost_messages: LosesEarlyMessages in messages_in_order by "in vain for every message",
    held_messages: HoldsMessages in messages_pass_payload by "in vain for the messages",
    late_messages: MessagesAfterPayload in messages_pass_payload by "behind payload",
    two_ends: ClosesTwice in closed_midway by "reported twice",
    an_end_before_the_tokens: ClosesUnderTokens in closed_midway by "tokens of the connection",
    no_end: NeverReportsTheEnd in peer_dies by "in vain for the near end",
    impostors: KnowsNobody in connect_as_somebody_else by "impostor",
    no_answer: NeverConnects in connect_dead_address by "in vain for connect",
}

#[test]
fn pins_that_stay() {
    // Loopback, so that the pinned local region is one that the suite looks at.
    let pinned = |rig: &Rig| {
        let node = rig.node("a");
        let link = rig.connect(&node, &node);
        let spread =
            nixl_conformance::rig::Spread::single(&node, nixl_conformance::rig::Memory::Heap, 1000);
        let (list, cards) = (spread.list(), spread.cards());
        let plan = rig.plan(Op::Read, &node, &list, &cards, &list);
        rig.attempt(&link.near, &plan).unwrap();
        rig.wait("the region to be let go", || spread.regions[0].pins() == 0);
    };
    caught(How::KeepsPins, pinned, "in vain for the region");
}
