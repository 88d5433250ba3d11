//! Shared-memory interfaces: memif and vhost-user.
//!
//! `unsafe` lives in [`mem`] (mapping what a peer shares, signals), [`quarantine`] (processes that close what a peer passes),
//! the rings of memif and vhost-user with what they stand on (reading and writing it).
#![deny(unsafe_code)]

mod descriptor;
mod link;
pub mod mem;
pub mod memif;
mod peers;
pub mod quarantine;
mod scatter;
mod socket;
pub mod vhost_user;

pub use descriptor::RESERVED_DESCRIPTORS;
pub use link::{Event, Link, LinkInfo, Refusal, TxQueues};
pub use socket::Listening;
