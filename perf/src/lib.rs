//! dray-perf: packet generator and benchmark.

pub mod demo;
