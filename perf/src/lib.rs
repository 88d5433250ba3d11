//! dray-perf: packet generator and benchmark.
#![forbid(unsafe_code)]

pub mod cpu;
pub mod demo;
pub mod frames;
pub mod memif;
pub mod sequence;
