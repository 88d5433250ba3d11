//! The switching pipeline: bursts, stages, tables, FDB. Knows neither DPDK nor sockets.
#![deny(unsafe_code)]

pub mod adjacency;
pub mod burst;
pub mod clock;
mod counts;
mod cpu;
pub mod drops;
pub mod egress;
pub mod fdb;
mod layers;
pub mod mem;
mod names;
pub mod offload;
pub mod pipeline;
pub mod port;
mod punt;
#[cfg_attr(feature = "loom", path = "fdb/models/sizes.rs")]
mod sizes;
mod stages;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod virtio_net;
pub mod wire;

pub use burst::{Burst, Frame};
pub use counts::{Count, Counts};
pub use drops::{Drop, Dropped, Drops};
pub use mem::Segment;
pub use port::{Rx, Sent, Tx};
pub use punt::{Punt, PuntReason};
