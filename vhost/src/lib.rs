//! Shared-memory interfaces: memif and vhost-user.
//!
//! `unsafe` lives in [`mem`] (mapping what a peer shares, signals), `memif::ring` and `vhost_user::ring` (reading and writing it).
#![deny(unsafe_code)]

mod link;
pub mod mem;
pub mod memif;
pub mod vhost_user;

pub use link::{Event, Link, LinkInfo, TxQueues};
