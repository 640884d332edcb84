//! How UCX is set up, and why: a pure function of the machine's facts and the user's wishes.
#![forbid(unsafe_code)]
