//! The `nixl` command as scripts and people drive it: two real processes in every test.

mod bench;
mod death;
mod demo;
mod hosts;
mod plan;
mod run;
mod ucx;
mod usage;
