//! The backend as core sees it.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use nixl_core::{
    BackendName, ErrorKind, PathCaps, PathClass, Region, Result,
    backend::{Backend, ConnectDone, Context, NixlFace, PeerAddress},
    error::fail,
    mem::Registration,
};
use ucx_sys::{Library, Search, Version};

use crate::{
    address::{Address, MAX_WORKERS},
    config::{CMA_SINCE, Plan, Report, UcxConfig, UserEnv, WarningCode, plan},
    detect::Machine,
    engine::{Dial, Engine, Order, Settings},
    fault::unsupported,
    keys::Keys,
    modules,
    paths::paths,
    ucp::{self, Worker},
};

pub(crate) const UCX: BackendName = "ucx";

/// How long the last operations may take when the backend is dropped.
const LAST: Duration = Duration::from_secs(2);

/// How a [`UcxBackend`] works, besides how UCX is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Workers, 1 to 64: connections are spread over them.
    pub workers: usize,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// Lacking RDMA is worth a warning.
    pub rdma_is_expected: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 1,
            connect_timeout: Duration::from_secs(5),
            rdma_is_expected: true,
        }
    }
}

/// RDMA, and whatever else libucp offers: the paths [`RDMA`](crate::RDMA), [`CMA`](crate::CMA) and
/// [`TCP`](crate::TCP), and their two-sided counterparts.
pub struct UcxBackend {
    options: Options,
    context: ucp::Context,
    library: Library,
    report: Report,
    paths: Vec<PathCaps>,
    keys: Arc<Keys>,
    node: OnceLock<Node>,
}

struct Node {
    engines: Vec<Arc<Engine>>,
    next: AtomicUsize,
}

impl UcxBackend {
    /// Loads libucp, sets it up and sees what it offers on this machine.
    ///
    /// Errors: `Unsupported` without a libucp that will do, and why; `ApiMisuse` for settings that
    /// contradict each other.
    pub fn open(config: &UcxConfig, options: Options) -> Result<Self> {
        let search = Search::new(config.lib.as_deref());
        let library = Library::find(&search).map_err(|e| unsupported(e.to_string()))?;
        Self::over(library, config, options)
    }

    /// A backend over a libucp that is loaded already.
    ///
    /// Errors: as [`UcxBackend::open`].
    pub fn over(library: Library, config: &UcxConfig, options: Options) -> Result<Self> {
        if options.workers == 0 || options.workers > MAX_WORKERS {
            let workers = options.workers;
            return Err(fail(
                ErrorKind::ApiMisuse,
                format!("{workers} UCX workers; 1 to {MAX_WORKERS} are allowed"),
            ));
        }
        let version = library.version();
        let env = UserEnv::of_process();
        let known = Some((version.major, version.minor));
        let machine = Machine::read("/");
        let Plan {
            settings,
            mut report,
        } = plan(&machine, config, &env, known)?;
        let lacking = modules::missing(library.module_dir(), &machine);
        report.warnings.extend(lacking);
        let api = ucp::Api::new(library.clone());
        let (context, ignored) = ucp::Context::new(&api, &settings)?;
        Worker::check(&context)?;
        for name in ignored {
            report.ignore(&name, "this UCX does not take it");
        }
        for warning in &report.warnings {
            match warning.code {
                WarningCode::NoRdma if !options.rdma_is_expected => {
                    tracing::info!("UCX: {}", warning.text);
                }
                _ => tracing::warn!("UCX: {}", warning.text),
            }
        }
        let path = library.path().map(|p| p.display().to_string());
        let path = path.unwrap_or_default();
        tracing::info!(%version, path, profile = %report.profile, "UCX is set up");
        Ok(Self {
            paths: paths(&context, config.mode, known >= Some(CMA_SINCE), &options)?,
            options,
            context,
            library,
            report,
            keys: Arc::default(),
            node: OnceLock::new(),
        })
    }

    /// The libucp that was loaded.
    pub fn library(&self) -> &Library {
        &self.library
    }

    /// How UCX was set up, and why.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The address of the worker that NIXL's agents connect to; `None` before the agent started.
    pub fn worker_address(&self) -> Option<Bytes> {
        Some(self.node.get()?.engines.first()?.address().clone())
    }

    fn rndv_scheme(&self) -> String {
        let setting = self.report.setting("RNDV_SCHEME");
        let value = setting.filter(|s| s.ignored.is_none()).map(|s| &*s.value);
        value.unwrap_or("auto").to_owned()
    }

    fn make_node(&self, ctx: &Context) -> Result<Node> {
        let engine = |_| {
            let settings = Settings {
                context: self.context.clone(),
                keys: self.keys.clone(),
                version: self.library.version(),
                connect_timeout: self.options.connect_timeout,
                cma: self.context.has(PathClass::CrossMemory),
                rndv_scheme: self.rndv_scheme(),
            };
            Engine::start(ctx.clone(), settings)
        };
        let engines = (0..self.options.workers)
            .map(engine)
            .collect::<Result<_>>()?;
        let next = AtomicUsize::new(0);
        Ok(Node { engines, next })
    }

    /// Errors with `Unsupported` where the peer's UCX and this one do not understand each other.
    fn check_version(&self, theirs: Version) -> Result<()> {
        let ours = self.library.version();
        if understand(ours, theirs) {
            return Ok(());
        }
        Err(unsupported(format!(
            "the peer runs UCX {theirs}, this agent {ours}, and the two do not understand each \
             other; run the same release on both sides, or 1.22 and newer"
        )))
    }

    fn dial(&self, peer: Arc<PeerAddress>, done: ConnectDone) {
        let Some(node) = self.node.get() else {
            let why = fail(ErrorKind::ApiMisuse, "the ucx backend has not started");
            return done.failed(why);
        };
        if peer.card.foreign {
            return self.reach(&node.engines, &peer, done);
        }
        let card = peer.card.backend(UCX);
        let address = card
            .ok_or_else(|| unsupported("the peer has no ucx backend"))
            .and_then(|card| Address::decode(&card.address))
            .and_then(|found| self.check_version(found.version).map(|()| found));
        let address = match address {
            Ok(address) => address,
            Err(why) => return done.failed(why.with_peer(&peer.card.name)),
        };
        let worker = node.next.fetch_add(1, Ordering::Relaxed);
        let engine = &node.engines[worker % node.engines.len()];
        engine.order(Order::Dial(Dial {
            peer,
            address,
            worker,
            done,
        }));
    }
}

/// Whether two releases of UCX can talk. Their addresses changed without saying so: what was tried
/// of different ones failed before 1.22, at worst by an assertion in the other process.
fn understand(a: Version, b: Version) -> bool {
    let release = |v: Version| (v.major, v.minor);
    release(a) == release(b) || (a.at_least(1, 22) && b.at_least(1, 22) && a.major == b.major)
}

impl Backend for UcxBackend {
    fn name(&self) -> BackendName {
        UCX
    }

    fn paths(&self) -> &[PathCaps] {
        &self.paths
    }

    /// Errors: what UCX says when it cannot make a worker.
    fn start(&self, ctx: Context) -> Result<Bytes> {
        let node = self.make_node(&ctx)?;
        let address = Address {
            version: self.library.version(),
            workers: node.engines.iter().map(|e| e.address().clone()).collect(),
        };
        self.node.set(node).map_err(|_| {
            fail(
                ErrorKind::ApiMisuse,
                "a ucx backend belongs to one agent and starts once",
            )
        })?;
        Ok(address.encode())
    }

    fn nixl(&self) -> Option<NixlFace> {
        Some(self.face())
    }

    fn register(&self, region: &Region) -> Result<Option<Box<dyn Registration>>> {
        self.keys.register(&self.context, region).map(Some)
    }

    fn connect(&self, peer: Arc<PeerAddress>, done: ConnectDone) {
        self.dial(peer, done);
    }

    fn shutdown(&self) {
        if let Some(node) = self.node.get() {
            node.engines.iter().for_each(|engine| engine.shutdown());
        }
    }
}

impl Drop for UcxBackend {
    fn drop(&mut self) {
        self.shutdown();
        if let Some(node) = self.node.get() {
            node.engines.iter().for_each(|engine| engine.finish(LAST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_releases_that_were_seen_to_talk_are_let_talk() {
        let version = |minor, release| Version {
            major: 1,
            minor,
            release,
        };
        assert!(understand(version(13, 1), version(13, 0)));
        assert!(understand(version(22, 0), version(23, 1)));
        for (a, b) in [(13, 22), (21, 22), (20, 23), (18, 19)] {
            assert!(!understand(version(a, 0), version(b, 0)), "{a} and {b}");
            assert!(!understand(version(b, 0), version(a, 0)), "{b} and {a}");
        }
    }
}
