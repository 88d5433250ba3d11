//! dray-perf: packet generator and benchmark.
#![forbid(unsafe_code)]

pub mod bench;
pub mod cpu;
pub mod demo;
pub mod eth;
pub mod frames;
pub mod generator;
pub mod hostile;
pub mod latency;
pub mod learning;
pub mod links;
pub mod memif;
mod netns;
pub mod peer;
pub mod rate;
mod regime;
pub mod scale;
pub mod sequence;
pub mod soak;
pub mod sockets;
pub mod stats;
pub mod throughput;
pub mod traffic;
pub mod vhost;
pub mod vtep;
pub mod workers;
