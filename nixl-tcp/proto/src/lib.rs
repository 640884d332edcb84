#![no_std]
#![forbid(unsafe_code)]
//! Sans-io wire protocol of the TCP backend.
extern crate alloc;
