//! Following the cluster's changes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use etcd_client::{EventType, WatchOptions};
use nixl_core::{Error, Result};
use parking_lot::{Condvar, Mutex};
use tokio::task::AbortHandle;

use super::{Cluster, Key, ended, explain, runtime::Runtime};
use crate::{Change, Watch, deadline_after};

/// Pause before a broken watch is begun again.
const RETRY: Duration = Duration::from_millis(500);

/// Changes that nobody took yet: per blob the latest, so it never outgrows the cluster.
#[derive(Default)]
struct Pending {
    /// True: published. False: removed.
    changes: BTreeMap<Key, bool>,
    /// Why the watch does not follow at present.
    broken: Option<Error>,
}

#[derive(Default)]
struct Inbox {
    pending: Mutex<Pending>,
    filled: Condvar,
}

pub(super) struct EtcdWatch {
    inbox: Arc<Inbox>,
    task: AbortHandle,
    /// The exchange may go first.
    _runtime: Arc<Runtime>,
}

impl EtcdWatch {
    pub(super) fn start(cluster: Arc<Cluster>, runtime: Arc<Runtime>) -> Self {
        let inbox = Arc::new(Inbox::default());
        let task = runtime.spawn(follow(cluster, Arc::clone(&inbox)));
        Self {
            inbox,
            task,
            _runtime: runtime,
        }
    }
}

impl Drop for EtcdWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch for EtcdWatch {
    fn next(&mut self, wait: Duration) -> Result<Option<Change>> {
        let deadline = deadline_after(wait);
        let mut pending = self.inbox.pending.lock();
        loop {
            if let Some(((agent, label), published)) = pending.changes.pop_first() {
                return Ok(Some(if published {
                    Change::Published { agent, label }
                } else {
                    Change::Removed { agent, label }
                }));
            }
            let waited = self.inbox.filled.wait_until(&mut pending, deadline);
            if waited.timed_out() && pending.changes.is_empty() {
                return pending.broken.clone().map_or(Ok(None), Err);
            }
        }
    }
}

async fn follow(cluster: Arc<Cluster>, inbox: Arc<Inbox>) {
    let mut known = BTreeMap::new();
    loop {
        if let Err(e) = follow_once(&cluster, &inbox, &mut known).await {
            inbox.pending.lock().broken = Some(e);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Reports what differs from `known` (revisions by blob), then follows until the stream breaks.
async fn follow_once(
    cluster: &Cluster,
    inbox: &Inbox,
    known: &mut BTreeMap<Key, i64>,
) -> Result<()> {
    let (now, revision) = cluster.list().await?;
    inbox.report_difference(known, now);
    let options = WatchOptions::new()
        .with_prefix()
        .with_fragment()
        .with_start_revision(revision + 1);
    let prefix = format!("{}/", cluster.config.namespace);
    let mut watcher = cluster.watcher();
    let mut stream = cluster.within(watcher.watch(prefix, Some(options))).await?;
    inbox.pending.lock().broken = None;
    while let Some(message) = stream.message().await.map_err(explain)? {
        if message.canceled() {
            break;
        }
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            let Some(key) = cluster.parse(kv.key()) else {
                continue;
            };
            let published = event.event_type() == EventType::Put;
            if published {
                known.insert(key.clone(), kv.mod_revision());
            } else {
                known.remove(&key);
            }
            inbox.report(key, published);
        }
    }
    Err(ended())
}

impl Inbox {
    fn report_difference(&self, known: &mut BTreeMap<Key, i64>, now: BTreeMap<Key, i64>) {
        for (key, changed) in &now {
            if known.remove(key) != Some(*changed) {
                self.report(key.clone(), true);
            }
        }
        for key in std::mem::replace(known, now).into_keys() {
            self.report(key, false);
        }
    }

    fn report(&self, key: Key, published: bool) {
        self.pending.lock().changes.insert(key, published);
        self.filled.notify_one();
    }
}
