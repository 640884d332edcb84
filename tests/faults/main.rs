//! Peers that die, stop, restart or are cut off, memory that goes away under a writer, and
//! resources that run out: real processes and signals over each real path.

mod child;
mod cut;
mod killed;
mod libraries;
mod limits;
mod namespaces;
mod network;
mod process;
mod proxy;
mod removed;
mod resources;
mod stopped;
mod ucx;
mod withdrawn;
mod world;

/// One test per path for each of the functions.
macro_rules! over {
    ($($path:ident),+: $($case:ident),+ $(,)?) => {
        over!(@ ($($path),+) $($case),+);
    };
    (@ $paths:tt $($case:ident),+) => {
        $(over!(@one $paths $case);)+
    };
    (@one ($($path:ident),+) $case:ident) => {
        mod $case {
            $(#[test] fn $path() {
                if $crate::ucx::is_here(stringify!($path)) {
                    super::$case(stringify!($path));
                }
            })+
        }
    };
}
pub(crate) use over;
