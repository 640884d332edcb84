//! NIXL's metadata calls without an address: agents that find one another through etcd.
//!
//! The keys are NIXL's, and what stands under them is what [`Agent::metadata`] tells: agents of this
//! library and of NIXL's read it. Whoever can read the cluster can so read and write the memory
//! registered, as with NIXL; it is to be as trusted as the agents.

use std::{
    collections::HashSet,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nixl_core::{Agent, Error, ErrorKind, Region, Result};
use nixl_meta::{
    Change, DEFAULT_LABEL, Exchange, Watch,
    etcd::{EtcdConfig, EtcdExchange},
};
use parking_lot::Mutex;

/// How long a fetch waits for a peer that has published nothing yet: as long as NIXL's.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the follower looks whether its store is gone.
const LOOK: Duration = Duration::from_secs(1);

/// One agent's view of a cluster: it publishes the agent, and loads and unloads its peers.
///
/// What was published vanishes with [`EtcdStore::close`], or 10 s after the process died. A peer
/// whose metadata vanishes is removed, as [`Agent::remove_peer`] does.
pub struct EtcdStore {
    exchange: EtcdExchange,
    agent: Weak<Agent>,
    followed: Arc<Followed>,
    follows: Mutex<bool>,
}

/// The blobs that were fetched, and whether anybody still cares.
#[derive(Default)]
struct Followed {
    blobs: Mutex<HashSet<(String, String)>>,
    ended: AtomicBool,
}

impl EtcdStore {
    /// Connects to the cluster at `endpoints` (`host:port` or `http://host:port`), whose keys begin
    /// with `namespace` (default: NIXL's). Keeps the agent only weakly.
    ///
    /// Errors: as of [`EtcdExchange`].
    pub fn connect(
        agent: &Arc<Agent>,
        endpoints: Vec<String>,
        namespace: Option<String>,
    ) -> Result<Self> {
        let defaults = EtcdConfig::default();
        let exchange = EtcdExchange::connect(EtcdConfig {
            endpoints,
            namespace: namespace.unwrap_or(defaults.namespace.clone()),
            ..defaults
        })?;
        Ok(Self {
            exchange,
            agent: Arc::downgrade(agent),
            followed: Arc::default(),
            follows: Mutex::new(false),
        })
    }

    /// Publishes the agent under `label` (default: NIXL's): all of it, or the regions given and how
    /// to reach it.
    ///
    /// Errors: as of [`Agent::partial_metadata`] and [`EtcdExchange`].
    pub fn send(&self, label: Option<&str>, regions: Option<&[Region]>) -> Result<()> {
        let agent = self.agent()?;
        let blob = match regions {
            None => agent.metadata()?,
            Some(some) => agent.partial_metadata(some, true)?,
        };
        let label = label.unwrap_or(DEFAULT_LABEL);
        self.exchange.publish(agent.name(), label, blob)
    }

    /// Waits up to 5 s for what `peer` published under `label`, loads it, and from then on follows
    /// the peer.
    ///
    /// Errors: `NotFound` when it published nothing; as of [`Agent::load_metadata`] and
    /// [`EtcdExchange`].
    pub fn fetch(&self, peer: &str, label: Option<&str>) -> Result<()> {
        // First, so that no removal is missed.
        self.follow()?;
        let label = label.unwrap_or(DEFAULT_LABEL);
        let blob = self.exchange.fetch(peer, label, PATIENCE)?;
        let key = (peer.to_owned(), label.to_owned());
        self.followed.blobs.lock().insert(key);
        self.agent()?.load_metadata(&blob).map(drop)
    }

    /// Removes all that the agent published: who follows it removes it.
    ///
    /// Errors: as of [`EtcdExchange`].
    pub fn invalidate(&self) -> Result<()> {
        self.exchange.remove_agent(self.agent()?.name())
    }

    /// Lets what was published vanish now.
    ///
    /// Errors: as of [`EtcdExchange`]; then it vanishes when its lease runs out.
    pub fn close(self) -> Result<()> {
        self.followed.ended.store(true, Ordering::Relaxed);
        self.exchange.close()
    }

    fn agent(&self) -> Result<Arc<Agent>> {
        let gone = || Error::new(ErrorKind::ApiMisuse, "the agent of this store is closed");
        self.agent.upgrade().ok_or_else(gone)
    }

    /// Begins to follow the cluster, once.
    fn follow(&self) -> Result<()> {
        let mut follows = self.follows.lock();
        if *follows {
            return Ok(());
        }
        let (watch, agent) = (self.exchange.watch()?, self.agent.clone());
        let followed = self.followed.clone();
        thread::Builder::new()
            .name("nixl-etcd".to_owned())
            .spawn(move || follow(watch, &agent, &followed))
            .map_err(|e| {
                let text = format!("cannot start a thread to follow etcd: {e}");
                Error::new(ErrorKind::Exhausted, text)
            })?;
        *follows = true;
        Ok(())
    }
}

/// Removes peers whose metadata vanishes, until the store or the agent is gone.
fn follow(mut watch: Box<dyn Watch>, agent: &Weak<Agent>, followed: &Followed) {
    while !followed.ended.load(Ordering::Relaxed) && agent.strong_count() > 0 {
        match watch.next(LOOK) {
            Ok(Some(Change::Removed { agent: peer, label })) => {
                if followed.blobs.lock().remove(&(peer.clone(), label))
                    && let Some(agent) = agent.upgrade()
                {
                    tracing::info!("{peer:?} is gone from etcd");
                    // Somebody else may have removed it.
                    agent.remove_peer(&peer).ok();
                }
            }
            Ok(_) => {}
            Err(e) => tracing::warn!("etcd is not followed at present: {e}"),
        }
    }
}
