//! What this process published, and the lease that it hangs on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use nixl_core::Result;

use super::{Cluster, Key};

#[derive(Default)]
pub(super) struct Published {
    /// `None` before the first publication and while a lost lease is being replaced.
    lease: Option<i64>,
    /// Kept to publish them again when a lease is lost.
    pub(super) blobs: BTreeMap<Key, Bytes>,
}

/// Keeps the lease alive and replaces it when it was lost, for ever.
pub(super) async fn keep(cluster: Arc<Cluster>) {
    loop {
        tokio::time::sleep(cluster.ttl() / 3).await;
        let mut published = cluster.published.lock().await;
        if published.blobs.is_empty() {
            continue;
        }
        if let Err(e) = cluster.refresh(&mut published).await {
            tracing::warn!("our metadata in etcd may run out: {e}");
        }
    }
}

impl Cluster {
    fn ttl(&self) -> Duration {
        Duration::from_secs(self.config.lease.as_secs().max(1))
    }

    pub(super) async fn publish(&self, key: Key, blob: Bytes) -> Result<()> {
        let mut published = self.published.lock().await;
        self.refresh(&mut published).await?;
        if let Some(lease) = published.lease {
            self.put(lease, &key, &blob).await?;
        }
        published.blobs.insert(key, blob);
        Ok(())
    }

    pub(super) async fn revoke(&self) -> Result<()> {
        let mut published = self.published.lock().await;
        published.blobs.clear();
        if let Some(lease) = published.lease.take() {
            let mut client = self.client.lease_client();
            self.within(client.revoke(lease)).await?;
        }
        Ok(())
    }

    /// Extends the lease. One that is gone (the cluster or this process was away for too long) is
    /// replaced, and everything published again.
    async fn refresh(&self, published: &mut Published) -> Result<()> {
        let mut client = self.client.lease_client();
        if let Some(lease) = published.lease {
            let alive = self
                .within(async {
                    match client.keep_alive(lease).await {
                        Ok(_) => Ok(true),
                        Err(etcd_client::Error::LeaseKeepAliveError(_)) => Ok(false),
                        Err(e) => Err(e),
                    }
                })
                .await?;
            if alive {
                return Ok(());
            }
            tracing::warn!("our lease in etcd ran out; publishing again");
            published.lease = None;
        }
        let seconds = i64::try_from(self.ttl().as_secs()).unwrap_or(i64::MAX);
        let lease = self.within(client.grant(seconds, None)).await?.id();
        for (key, blob) in &published.blobs {
            self.put(lease, key, blob).await?;
        }
        published.lease = Some(lease);
        Ok(())
    }

    /// Stores blob and anchor on the lease. An anchor that is there already is left alone: NIXL's
    /// agents watch it for deletion and log an error when it is written.
    async fn put(&self, lease: i64, (agent, label): &Key, blob: &Bytes) -> Result<()> {
        let options = Some(PutOptions::new().with_lease(lease));
        let anchor = self.key(agent, "");
        let blob = TxnOp::put(self.key(agent, label), &blob[..], options.clone());
        let ours = Compare::lease(anchor.as_str(), CompareOp::Equal, lease);
        let anchor = Txn::new()
            .when([ours])
            .or_else([TxnOp::put(anchor, "", options)]);
        let txn = Txn::new().and_then([TxnOp::txn(anchor), blob]);
        let mut kv = self.kv();
        self.within(kv.txn(txn)).await.map(drop)
    }
}
