//! drayd, the daemon.
#![forbid(unsafe_code)]

mod attach;
pub mod daemon;
mod descriptors;
mod edit;
mod events;
mod fdb;
mod layers;
mod log;
mod metrics;
mod ports;
mod rpc;
mod server;
mod slowpath;
mod switch;
mod systemd;
mod warnings;
