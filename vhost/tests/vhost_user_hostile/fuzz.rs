//! Random messages and random rings.
