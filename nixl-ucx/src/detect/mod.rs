//! What the machine has, read from files under `/sys`, `/proc` and `/etc`.
#![forbid(unsafe_code)]
