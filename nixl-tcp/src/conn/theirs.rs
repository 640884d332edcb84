//! Requests of the peer, served here.

use std::sync::Arc;

use nixl_core::{Error, ErrorKind, Result};
use nixl_tcp_proto::{
    CancelAction, Chunk, ChunkKind, Lookup, OpenOp, Opened, ProtocolError, RegionRef, Status, Xfer,
    put_ack,
};

use super::{Connection, INLINE, Push, Receiver, misbehaved};
use crate::inbound::{Inbound, find};

impl Connection {
    /// An open frame is complete.
    pub(crate) fn opened(&self, xfer: Xfer, body: &mut Vec<u8>) -> Result<()> {
        let mut inbound = self.spares.lock().take();
        let Some(fresh) = Arc::get_mut(&mut inbound) else {
            return Err(Error::new(ErrorKind::Backend, "a spare request is in use"));
        };
        let lookup = |named: &RegionRef, op| find(self, named, op);
        let (cost, verdict) = fresh.load(xfer, body, lookup).map_err(misbehaved)?;
        let opened = self
            .targets
            .lock()
            .open(xfer, cost, inbound.clone())
            .map_err(misbehaved)?;
        match (opened, verdict) {
            (Opened::Cancelled, _) => self.tell(|out| put_ack(out, xfer, Status::Cancelled)),
            (Opened::Active(_), Err(status)) => inbound.end(self, status),
            (Opened::Active(last), Ok(())) => {
                if let Some(last) = last {
                    self.recycle(last);
                }
                self.serve(inbound.clone());
            }
        }
        self.recycle(inbound);
        for stream in &self.streams {
            stream.unpark();
        }
        Ok(())
    }

    fn serve(&self, inbound: Arc<Inbound>) {
        if inbound.op == OpenOp::Write {
            return;
        }
        let small = inbound.bytes() <= INLINE;
        {
            let mut work = self.work.lock();
            if work.closed {
                return;
            }
            work.pushes.push_back(Push::Read(inbound));
        }
        if small {
            self.kick_one(true);
        } else {
            self.kick_all();
        }
    }

    /// Who takes the payload of a chunk.
    pub(crate) fn receiver(&self, chunk: &Chunk) -> Result<Receiver> {
        match chunk.kind {
            ChunkKind::Read => {
                let work = self.work.lock();
                let unknown = || misbehaved(ProtocolError::UnknownXfer);
                let slots = work.slots.as_ref().ok_or_else(unknown)?;
                Ok(match slots.find(chunk.xfer).map_err(misbehaved)? {
                    Lookup::Active(active) => Receiver::Mine(active.clone()),
                    Lookup::Over | Lookup::NotYet => Receiver::Nobody,
                })
            }
            ChunkKind::Write => {
                let targets = self.targets.lock();
                Ok(match targets.find(chunk.xfer).map_err(misbehaved)? {
                    Lookup::Active(inbound) => Receiver::Theirs(inbound.clone()),
                    Lookup::Over => Receiver::Nobody,
                    Lookup::NotYet => Receiver::Wait,
                })
            }
        }
    }

    /// The peer gives up a request.
    pub(crate) fn peer_cancels(&self, xfer: Xfer) -> Result<()> {
        let action = match self.targets.lock().cancel(xfer).map_err(misbehaved)? {
            CancelAction::Stop(inbound) => CancelAction::Stop(inbound.clone()),
            CancelAction::Ack => CancelAction::Ack,
            CancelAction::Nothing => CancelAction::Nothing,
        };
        match action {
            CancelAction::Stop(inbound) => {
                inbound.end(self, Status::Cancelled);
                self.recycle(inbound);
            }
            CancelAction::Ack => self.tell(|out| put_ack(out, xfer, Status::Cancelled)),
            CancelAction::Nothing => {}
        }
        Ok(())
    }

    /// A request of the peer ended; it hears of it unless `status` is `None`.
    pub(crate) fn end_inbound(&self, xfer: Xfer, status: Option<Status>) {
        let ended = self.targets.lock().finish(xfer, status.is_some());
        if let (Some(_), Some(status)) = (&ended, status) {
            self.tell(|out| put_ack(out, xfer, status));
        }
        if let Some(inbound) = ended {
            self.recycle(inbound);
        }
    }

    /// Keeps a request that nobody else holds for the next one.
    pub(crate) fn recycle(&self, inbound: Arc<Inbound>) {
        self.spares.lock().put(inbound);
    }
}
