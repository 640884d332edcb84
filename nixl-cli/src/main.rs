//! The `nixl` command.

fn main() {}
