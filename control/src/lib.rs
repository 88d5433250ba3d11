//! drayd, the daemon, and dray, its command.
#![forbid(unsafe_code)]

pub mod client;
pub mod daemon;
mod descriptors;
mod edit;
mod events;
mod fdb;
mod log;
mod metrics;
mod overlay;
mod ports;
mod rpc;
mod save;
mod server;
mod switch;
mod systemd;
mod table;
mod warnings;
