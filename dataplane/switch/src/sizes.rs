//! Sizes of what threads share. Models of it have smaller ones: `fdb/models/sizes.rs`.

/// Port numbers are below this: 4,096 configured ones, and as many that are about to go while an apply is under way.
pub const MAX_PORTS: usize = 8192;

/// How many buckets of the FDB, from its home on, a key may be in: those of a table that is as full as it may be of MACs that count up are
/// filled four at a time, so that some stretches of it are much fuller than others.
pub(crate) const WINDOW: usize = 64;
