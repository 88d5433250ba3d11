//! The switching pipeline: bursts, stages, tables, FDB. Knows neither DPDK nor sockets.
#![deny(unsafe_code)]

pub mod burst;
pub mod drops;
pub mod mem;
pub mod port;

pub use burst::{Burst, Frame};
pub use drops::{Drop, Drops};
pub use mem::Segment;
pub use port::{Rx, Sent, Tx};
