//! Endpoints whose peer never answered.
//!
//! Over InfiniBand UCX asks a peer for its queue pairs by datagrams. A libucp that is built with
//! assertions, as the distributions' are, aborts when such an endpoint is closed while the first of
//! them waits for an answer (seen with 1.13.1, `ucp_request_send_state_ff`). So it is kept until
//! UCX reports its failure, or the peer answers after all.

use super::{Engine, State, conn::Inner};
use crate::{
    ucp::{Endpoint, Entered},
    wire::Token,
};

pub(super) struct Parked {
    tag: u64,
    /// Our name for the connection: an answer names it.
    token: Option<Token>,
    endpoint: Endpoint,
}

impl Engine {
    /// Keeps the endpoint of a connection that is over, if it must not be closed yet.
    pub(super) fn park(
        &self,
        state: &mut State,
        entered: &Entered<'_>,
        tag: u64,
        inner: &mut Inner,
    ) {
        if inner.answered {
            return;
        }
        let asks = |endpoint: &Endpoint| entered.lanes(endpoint).connect_by_datagrams();
        if inner.endpoint.as_ref().is_none_or(|e| !asks(e)) {
            return;
        }
        if let Some(endpoint) = inner.endpoint.take() {
            state.parked.push(Parked {
                tag,
                token: inner.mine.first().copied(),
                endpoint,
            });
        }
    }

    /// The connection with this number failed, or its lanes are connected after all.
    pub(super) fn unpark(&self, state: &mut State, entered: &Entered<'_>, tag: u64) {
        self.close_parked(state, entered, |parked| parked.tag == tag);
    }

    /// A frame came for the connection of this name.
    pub(super) fn unpark_answered(&self, state: &mut State, entered: &Entered<'_>, to: Token) {
        self.close_parked(state, entered, |parked| parked.token == Some(to));
    }

    fn close_parked(&self, state: &mut State, entered: &Entered<'_>, is: impl Fn(&Parked) -> bool) {
        for parked in state.parked.extract_if(.., |parked| is(parked)) {
            entered.close(parked.endpoint);
        }
    }
}
