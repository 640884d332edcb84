//! An etcd cluster as the exchange, with NIXL's keys.
//!
//! A blob stands under `<namespace>/<agent>/<label>`. NIXL's default namespace ends in a slash, so
//! its real keys have two: `/nixl/agents//<agent>/metadata`. The empty *anchor* key
//! `<namespace>/<agent>/` is what NIXL's agents watch: its deletion tells them that the agent is
//! gone. All keys of one exchange hang on one lease, so they vanish when the process dies.
//!
//! Calls block; the asynchronous client runs in a thread of its own. Endpoints are plain HTTP.

mod lease;
mod runtime;
mod watch;

use std::{error::Error as _, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use etcd_client::{
    Client, ConnectOptions, DeleteOptions, EventType, GetOptions, KvClient, WatchClient,
    WatchOptions,
};
use nixl_core::{Error, ErrorKind, Result};
use tokio::task::AbortHandle;

use self::{lease::Published, runtime::Runtime};
use crate::{DEFAULT_MAX_BLOB, Exchange, Watch, check_name};

/// NIXL's namespace.
pub const DEFAULT_NAMESPACE: &str = "/nixl/agents/";

/// Pings of an idle connection; etcd's servers refuse more than one in 5 s.
const PING_EVERY: Duration = Duration::from_secs(10);

/// How to reach the cluster.
#[derive(Clone)]
pub struct EtcdConfig {
    /// `host:port` or `http://host:port` of one or more members.
    pub endpoints: Vec<String>,
    /// What the keys begin with. Default: [`DEFAULT_NAMESPACE`].
    pub namespace: String,
    /// Name and password, where the cluster asks for them.
    pub user: Option<(String, String)>,
    /// What this process published vanishes this long after it died; at least 1 s, whole seconds.
    /// Default: 10 s.
    pub lease: Duration,
    /// Longest time of one operation. Default: 5 s.
    pub timeout: Duration,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: vec!["127.0.0.1:2379".into()],
            namespace: DEFAULT_NAMESPACE.into(),
            user: None,
            lease: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
        }
    }
}

/// An etcd cluster as the exchange.
///
/// Dropping it lets the lease run out; [`EtcdExchange::close`] ends it at once. Errors of all its
/// calls: `PeerGone` when the cluster cannot be reached, `Timeout` when it does not answer,
/// `Unauthenticated` when it refuses the user, `Exhausted` when a blob is larger than its
/// request limit (1.5 MiB unless configured) or its disk quota is used up.
pub struct EtcdExchange {
    cluster: Arc<Cluster>,
    runtime: Arc<Runtime>,
    keeper: AbortHandle,
}

/// The cluster and what this exchange published there.
struct Cluster {
    client: Client,
    config: EtcdConfig,
    published: tokio::sync::Mutex<Published>,
}

impl EtcdExchange {
    /// Connects and asks one member for its status, so that a wrong address shows here.
    pub fn connect(config: EtcdConfig) -> Result<Self> {
        let runtime = Arc::new(Runtime::start()?);
        let timeout = config.timeout;
        let cluster = runtime.call(async move {
            within(timeout, async move {
                let mut options = ConnectOptions::new()
                    .with_connect_timeout(timeout)
                    .with_keep_alive(PING_EVERY, timeout)
                    .with_keep_alive_while_idle(true);
                if let Some((name, password)) = &config.user {
                    options = options
                        .with_user(name, password)
                        .with_auto_token_refresh(true);
                }
                let mut client = Client::connect(&config.endpoints, Some(options)).await?;
                client.get(config.namespace.as_str(), None).await?;
                Ok(Cluster {
                    client,
                    config,
                    published: tokio::sync::Mutex::default(),
                })
            })
            .await
        })?;
        let cluster = Arc::new(cluster);
        let keeper = runtime.spawn(lease::keep(Arc::clone(&cluster)));
        Ok(Self {
            cluster,
            runtime,
            keeper,
        })
    }

    /// Ends the lease: what this exchange published vanishes now.
    pub fn close(self) -> Result<()> {
        self.run(async move |cluster| cluster.revoke().await)
    }

    fn run<T, F>(&self, operation: impl FnOnce(Arc<Cluster>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.runtime.call(operation(Arc::clone(&self.cluster)))
    }
}

impl Drop for EtcdExchange {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Exchange for EtcdExchange {
    fn publish(&self, agent: &str, label: &str, blob: Bytes) -> Result<()> {
        check(agent, label)?;
        let key = (agent.to_owned(), label.to_owned());
        self.run(async move |cluster| cluster.publish(key, blob).await)
    }

    fn fetch(&self, agent: &str, label: &str, wait: Duration) -> Result<Bytes> {
        check(agent, label)?;
        let key = (agent.to_owned(), label.to_owned());
        self.run(async move |cluster| cluster.fetch(&key, wait).await)
    }

    fn remove(&self, agent: &str, label: &str) -> Result<()> {
        check(agent, label)?;
        let key = (agent.to_owned(), label.to_owned());
        self.run(async move |cluster| cluster.remove(&key).await)
    }

    fn remove_agent(&self, agent: &str) -> Result<()> {
        check(agent, crate::DEFAULT_LABEL)?;
        let agent = agent.to_owned();
        self.run(async move |cluster| cluster.remove_agent(&agent).await)
    }

    fn list(&self) -> Result<Vec<(String, String)>> {
        self.run(async move |cluster| {
            let (found, _) = cluster.list().await?;
            Ok(found.into_keys().collect())
        })
    }

    fn watch(&self) -> Result<Box<dyn Watch>> {
        Ok(Box::new(watch::EtcdWatch::start(
            Arc::clone(&self.cluster),
            Arc::clone(&self.runtime),
        )))
    }
}

type Key = (String, String);

impl Cluster {
    fn key(&self, agent: &str, label: &str) -> String {
        format!("{}/{agent}/{label}", self.config.namespace)
    }

    /// Agent and label of a key; `None` for an anchor and for what is not ours.
    fn parse(&self, key: &[u8]) -> Option<Key> {
        let key = std::str::from_utf8(key).ok()?;
        let rest = key.strip_prefix(&self.config.namespace)?;
        let (agent, label) = rest.strip_prefix('/')?.split_once('/')?;
        let whole = !agent.is_empty() && !label.is_empty();
        whole.then(|| (agent.to_owned(), label.to_owned()))
    }

    fn kv(&self) -> KvClient {
        let kv = self.client.kv_client();
        kv.max_decoding_message_size(DEFAULT_MAX_BLOB)
    }

    fn watcher(&self) -> WatchClient {
        let watch = self.client.watch_client();
        watch.max_decoding_message_size(DEFAULT_MAX_BLOB)
    }

    async fn within<T>(
        &self,
        operation: impl Future<Output = std::result::Result<T, etcd_client::Error>>,
    ) -> Result<T> {
        within(self.config.timeout, operation).await
    }

    async fn fetch(&self, (agent, label): &Key, wait: Duration) -> Result<Bytes> {
        let key = self.key(agent, label);
        let mut kv = self.kv();
        let mut got = self.within(kv.get(key.as_str(), None)).await?;
        if let Some(found) = got.take_kvs().pop() {
            return Ok(found.into_key_value().1.into());
        }
        let after = got.header().map_or(0, |h| h.revision()) + 1;
        tokio::time::timeout(wait, self.next_value(&key, after))
            .await
            .unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::NotFound,
                    format!("agent {agent:?} published no {label:?} in etcd within {wait:?}"),
                ))
            })
    }

    /// The next value that `key` gets from revision `after` on.
    async fn next_value(&self, key: &str, after: i64) -> Result<Bytes> {
        let options = WatchOptions::new().with_start_revision(after);
        let mut watcher = self.watcher();
        let mut stream = self.within(watcher.watch(key, Some(options))).await?;
        while let Some(message) = stream.message().await.map_err(explain)? {
            if message.canceled() {
                break;
            }
            let puts = message.events().iter().rev();
            if let Some(put) = puts.into_iter().find(|e| e.event_type() == EventType::Put)
                && let Some(found) = put.kv()
            {
                return Ok(Bytes::copy_from_slice(found.value()));
            }
        }
        Err(ended())
    }

    async fn remove(&self, key: &Key) -> Result<()> {
        let mut published = self.published.lock().await;
        let mut kv = self.kv();
        self.within(kv.delete(self.key(&key.0, &key.1), None))
            .await?;
        published.blobs.remove(key);
        Ok(())
    }

    async fn remove_agent(&self, agent: &str) -> Result<()> {
        let mut published = self.published.lock().await;
        let options = DeleteOptions::new().with_prefix();
        let mut kv = self.kv();
        self.within(kv.delete(self.key(agent, ""), Some(options)))
            .await?;
        published.blobs.retain(|key, _| key.0 != agent);
        Ok(())
    }

    /// Every blob with the revision that it was last changed in, and the revision of the listing.
    async fn list(&self) -> Result<(std::collections::BTreeMap<Key, i64>, i64)> {
        let options = GetOptions::new().with_prefix().with_keys_only();
        let mut kv = self.kv();
        let got = self
            .within(kv.get(format!("{}/", self.config.namespace), Some(options)))
            .await?;
        let found = got.kvs().iter();
        let found = found
            .filter_map(|kv| Some((self.parse(kv.key())?, kv.mod_revision())))
            .collect();
        Ok((found, got.header().map_or(0, |h| h.revision())))
    }
}

fn check(agent: &str, label: &str) -> Result<()> {
    check_name("the agent's name", agent)?;
    check_name("the label", label)?;
    if agent.contains('/') {
        return Err(Error::new(
            ErrorKind::ApiMisuse,
            format!("agent {agent:?}: with NIXL's keys in etcd a name cannot have a slash"),
        ));
    }
    Ok(())
}

async fn within<T>(
    timeout: Duration,
    operation: impl Future<Output = std::result::Result<T, etcd_client::Error>>,
) -> Result<T> {
    match tokio::time::timeout(timeout, operation).await {
        Ok(done) => done.map_err(explain),
        Err(_) => Err(Error::new(
            ErrorKind::Timeout,
            format!("etcd did not answer within {timeout:?}; check endpoints and cluster health"),
        )),
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::PeerGone, "etcd ended the watch")
}

/// Sorts an error of the client by blame.
fn explain(e: etcd_client::Error) -> Error {
    use etcd_client::Error as E;
    let (kind, advice) = match &e {
        E::GRpcStatus(status) => match explain_status(status.code().into(), status.message()) {
            // With a source the status is not the server's: the connection broke.
            (ErrorKind::Backend, _) if status.source().is_some() => UNREACHABLE,
            explained => explained,
        },
        E::TransportError(_) | E::IoError(_) => UNREACHABLE,
        E::InvalidArgs(_) | E::InvalidUri(_) | E::EndpointError(_) => (
            ErrorKind::ApiMisuse,
            "give endpoints as host:port or http://host:port",
        ),
        _ => (ErrorKind::Backend, "see etcd's log"),
    };
    Error::new(kind, format!("etcd: {e}; {advice}"))
}

const UNREACHABLE: (ErrorKind, &str) = (
    ErrorKind::PeerGone,
    "check the endpoints and the cluster's health",
);

/// `code` is one of gRPC's status codes.
fn explain_status(code: i32, message: &str) -> (ErrorKind, &'static str) {
    const INVALID_ARGUMENT: i32 = 3;
    const DEADLINE_EXCEEDED: i32 = 4;
    const PERMISSION_DENIED: i32 = 7;
    const RESOURCE_EXHAUSTED: i32 = 8;
    const UNAVAILABLE: i32 = 14;
    const UNAUTHENTICATED: i32 = 16;
    match code {
        INVALID_ARGUMENT if message.contains("too large") => (
            ErrorKind::Exhausted,
            "publish fewer regions, or raise the cluster's --max-request-bytes",
        ),
        RESOURCE_EXHAUSTED => (
            ErrorKind::Exhausted,
            "free space in the cluster or raise its limits",
        ),
        DEADLINE_EXCEEDED => (ErrorKind::Timeout, "check the cluster's health"),
        UNAVAILABLE => UNREACHABLE,
        INVALID_ARGUMENT | PERMISSION_DENIED | UNAUTHENTICATED => (
            ErrorKind::Unauthenticated,
            "check the user's name, password and roles",
        ),
        _ => (ErrorKind::Backend, "see etcd's log"),
    }
}
