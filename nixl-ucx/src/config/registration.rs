//! How memory is registered: one wish, said differently to each UCX.
//!
//! The guide's `IB_REG_METHODS` exists up to 1.15. The cache in libucp (`RCACHE_ENABLE`) is in all
//! versions; on-demand paging moved to `REG_NONBLOCK_MEM_TYPES`.

use super::known::{self, UcxVersion};

/// Last version with `IB_REG_METHODS`.
const LAST_METHODS: UcxVersion = (1, 15);

/// Our wish: register and deregister at once, so that withdrawn memory is out of reach.
const DIRECT: &str = "direct";

/// A setting that follows from the wish: name, value, reason.
pub(super) type Derived = (&'static str, &'static str, String);

/// What follows from `methods`, the user's `IB_REG_METHODS`.
pub(super) fn derive(
    methods: Option<&str>,
    version: Option<UcxVersion>,
    uses_rdma: bool,
) -> Vec<Derived> {
    let why = match methods {
        Some(methods) => format!("as IB_REG_METHODS={methods} asks"),
        None => "no registration cache: deregistering fences".to_owned(),
    };
    let has = |method| known::list(methods.unwrap_or(DIRECT)).any(|m| m == method);
    let old = version.is_some_and(|version| version <= LAST_METHODS);
    let mut derived = Vec::new();
    // UCX complains of a setting that none of its modules reads.
    if old && uses_rdma && methods.is_none() {
        derived.push(("IB_REG_METHODS", DIRECT, why.clone()));
    }
    if !old && has("odp") {
        derived.push(("REG_NONBLOCK_MEM_TYPES", "host", why.clone()));
    }
    let cache = if has("rcache") { "try" } else { "n" };
    derived.push(("RCACHE_ENABLE", cache, why));
    derived
}

/// Whether registrations are kept, by the settings in force.
pub(super) fn is_cached<'a>(
    version: Option<UcxVersion>,
    in_force: impl Fn(&str) -> Option<&'a str>,
) -> bool {
    let old = version.is_none_or(|version| version <= LAST_METHODS);
    let methods = in_force("IB_REG_METHODS").filter(|_| old);
    let by_methods = methods.is_some_and(|m| known::list(m).any(|m| m == "rcache"));
    by_methods || in_force("RCACHE_ENABLE").is_none_or(known::is_on)
}
