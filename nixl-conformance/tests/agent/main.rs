//! Agents over simulated backends: core's own contract, with the faults that only a simulation
//! can produce on order.

mod caller;
mod early;
mod flip;
mod foreign;
mod notify;
mod paths;
mod reentry;
mod requests;
mod withdraw;
mod world;
