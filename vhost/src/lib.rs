//! Shared-memory interfaces: memif (and later vhost-user).
//!
//! `unsafe` lives in [`mem`] (mapping what a peer shares, signals) and `memif::ring` (reading and writing it).
#![deny(unsafe_code)]

pub mod mem;
pub mod memif;
