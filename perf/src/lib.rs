//! dray-perf: packet generator and benchmark.
