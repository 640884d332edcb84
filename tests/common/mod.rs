//! Two agents and the blocks that a request moves between them, for tests and benches.

#![allow(dead_code, unreachable_pub)] // each program uses a part

pub mod child;
pub mod heap;
pub mod pair;
pub mod pattern;
