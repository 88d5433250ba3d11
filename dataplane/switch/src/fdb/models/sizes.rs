//! Sizes for loom, which looks at every word in every order: as small as can be.

/// Ports.
pub const MAX_PORTS: usize = 4;

/// Buckets that a key may be in.
pub(crate) const WINDOW: usize = 2;
