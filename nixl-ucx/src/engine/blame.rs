//! Which memory an error of a request is about.

use nixl_core::{Error, ErrorKind, Op, error::fail, plan::Plan};

/// `why` with the memory that `plan` moves; core adds the peer.
pub(super) fn name_memory(plan: &Plan, why: Error) -> Error {
    let first = |regions: Option<u64>| regions.unwrap_or_default();
    let here = first(plan.local().regions().first().map(|r| r.addr()));
    let there = first(plan.remote().regions().first().map(|r| r.addr));
    let (bytes, blocks) = (plan.bytes(), plan.merged());
    let what = match plan.op() {
        Op::Read => format!("from the peer's region at {there:#x} into the one at {here:#x}"),
        Op::Write => format!("from the region at {here:#x} into the peer's at {there:#x}"),
    };
    match why.kind() {
        // Nothing is wrong with it.
        ErrorKind::Cancelled => why,
        kind => {
            let why = why.message();
            fail(
                kind,
                format!("{bytes} bytes in {blocks} blocks {what}: {why}"),
            )
        }
    }
}
