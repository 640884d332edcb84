//! Finding and opening the libraries that `cargo xtask ucx` provides.

mod common;
mod open;
mod search;
