//! Simulated backend, fault plans and the suite every backend passes.
//!
//! A backend's crate instantiates the suite in one line of a test file:
//!
//! ```ignore
//! nixl_conformance::suite!(tcp, TcpBackend::new(TcpConfig::default()), "tcp");
//! ```
//!
//! That gives one `#[test]` for each bullet of the contract in [`nixl_core::backend`], once with
//! core's threads and once with the caller's progress. `docs/backend-guide.md` says the rest.

pub use nixl_core::{backend::Backend, runtime::Progress};

pub mod rig;
pub mod sim;
pub mod suite;

/// Instantiates the suite for one path of a backend: `suite!(module, backend, path)`.
///
/// `backend` is an expression of a type that implements [`nixl_core::backend::Backend`]; it is
/// evaluated once for each agent of each test and sees what the calling module imports. `path` is
/// the name of the path that moves the bytes.
///
/// A backend that is not on every machine adds `unless = reason`, an expression of type
/// `Option<String>`: where it is `Some`, each test says so and counts as skipped.
#[macro_export]
macro_rules! suite {
    ($name:ident, $backend:expr, $path:expr $(,)?) => {
        $crate::suite!($name, $backend, $path, unless = None);
    };
    ($name:ident, $backend:expr, $path:expr, unless = $reason:expr $(,)?) => {
        mod $name {
            use super::*;

            fn make() -> ::std::sync::Arc<dyn $crate::Backend> {
                ::std::sync::Arc::new($backend)
            }

            fn path() -> &'static str {
                $path
            }

            fn skipped() -> bool {
                let reason: ::std::option::Option<::std::string::String> = $reason;
                $crate::suite::skipped(path(), reason)
            }

            mod threads {
                const PROGRESS: $crate::Progress = $crate::Progress::Threads { copy_threads: 2 };
                $crate::suite_tests!();
            }

            mod caller {
                const PROGRESS: $crate::Progress = $crate::Progress::Caller;
                $crate::suite_tests!();
            }
        }
    };
}

/// The tests of [`suite!`], one for each bullet of the contract.
#[doc(hidden)]
#[macro_export]
macro_rules! suite_tests {
    () => {
        $crate::suite_tests! {
            every_byte_in_place,
            write_is_visible_at_completion,
            repost,
            concurrent_transfers,
            several_peers,
            loopback,
            messages_in_order,
            messages_pass_payload,
            refused_posts_return_the_token,
            cancel_midway,
            peer_dies,
            closed_midway,
            wrong_key,
            out_of_bounds,
            revoked_region,
            read_only_region,
            unsupported_operations,
            connect_wrong_secret,
            connect_as_somebody_else,
            connect_as_a_stranger,
            connect_dead_address,
            connect_garbage_address,
            connect_wrong_generation,
            connect_crossing,
        }
    };
    ($($test:ident),+ $(,)?) => {
        $(
            #[test]
            fn $test() {
                if super::skipped() {
                    return;
                }
                $crate::suite::run($crate::suite::$test, super::make, super::path(), PROGRESS);
            }
        )+
    };
}

/// Finaliser of SplitMix64: spreads the bits of `n`.
pub(crate) fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
