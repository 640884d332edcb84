//! The performer's side: checks what it is asked for, then does it as a request of its own.

use std::sync::Arc;

use super::{
    Doing,
    wire::{self, Order},
};
use crate::{
    DescList, Error, ErrorKind, MemKind, Op, Result, Run,
    agent::Shared,
    error::fail,
    mem::Access,
    notify::Message,
    peer::{Incoming, Peer, RemoteTable},
    plan::{LocalList, Plan, Select},
    request::{PostOptions, Request},
};

/// Does what `order` asks, and answers when it ended. Errors are the asker's breach of protocol;
/// what merely cannot be done is answered.
pub(crate) fn perform(shared: &Arc<Shared>, from: &Arc<Incoming>, order: &[u8]) -> Result<()> {
    let order = wire::decode(order)?;
    let id = order.id;
    if let Err(e) = start(shared, from, order) {
        tracing::debug!(peer = %from.from, error = %e, "cannot do a flipped operation");
        shared.flips.forget(from, id);
        answer(from, id, Err(&e));
    }
    Ok(())
}

fn answer(to: &Incoming, id: u64, result: Result<(), &Error>) {
    let status = result.map_or_else(|e| e.kind().status(), |()| 0);
    to.send(&Message::Flipped { id, status });
}

fn start(shared: &Arc<Shared>, from: &Arc<Incoming>, order: Order) -> Result<()> {
    let peer = asker(shared, from)?;
    let path = shared
        .paths
        .iter()
        .find(|c| c.path == order.path)
        .map(|c| c.path)
        .ok_or_else(|| fail(ErrorKind::Unsupported, "that path is not here"))?;
    let plan = plan(shared, &order)?;
    let request = Request::over(shared.clone(), peer, plan, Some(path));
    let (to, id) = (from.clone(), order.id);
    let flips = Arc::downgrade(shared);
    request.on_complete(Box::new(move |result| {
        answer(
            &to,
            id,
            match result {
                Ok(()) => Ok(()),
                Err(e) => Err(e),
            },
        );
        if let Some(shared) = flips.upgrade() {
            shared.flips.forget(&to, id);
        }
    }));
    let inner = request.0.clone();
    shared.flips.admit(Doing {
        id: order.id,
        from: from.clone(),
        request,
    })?;
    inner.post_with(PostOptions {
        notification: None,
        deadline: Some(order.deadline),
    })
}

/// The asker as a loaded peer: it must have proved to be that.
fn asker(shared: &Shared, from: &Incoming) -> Result<Arc<Peer>> {
    let peer = shared.peers.read().get(&from.identity.name).cloned();
    peer.filter(|p| from.identity.verified && p.generation() == from.identity.generation)
        .ok_or_else(|| {
            fail(
                ErrorKind::Unsupported,
                "the asker of a flipped operation is not loaded here",
            )
        })
}

/// The asker must hold the key of every block of ours, as if it did the operation itself.
fn plan(shared: &Shared, order: &Order) -> Result<Plan> {
    let access = match order.op {
        Op::Write => Access::Read,
        Op::Read => Access::Write,
    };
    let (mut ours, mut theirs) = (DescList::new(MemKind::Dram), DescList::new(MemKind::Dram));
    let mut table = RemoteTable::default();
    order
        .asker
        .iter()
        .for_each(|card| table.insert(card.clone()));
    for &(there, from, _, to, len) in &order.blocks {
        shared
            .regions
            .resolve(&order.performer[there], from, len, access)?;
        ours.push_run(Run::single(from, len, 0));
        theirs.push_run(Run::single(to, len, 0));
    }
    let local = Arc::new(LocalList::resolve(&ours, &shared.regions)?);
    let remote = Arc::new(table.resolve(&theirs)?);
    Plan::build(order.op, local, Select::All, remote, Select::All)
}
