//! memif, protocol 2.0 (its documents are VPP's `memif.h`, libmemif and DPDK's PMD).
//!
//! [`Supervisor`] keeps the links of a process's ports: it listens, connects, answers, and hands out queues when a link is up.
//! [`Client`] is a blocking client for tools.

mod client;
mod kick;
pub mod proto;
mod ring;
mod socket;
mod supervisor;

pub use client::{Client, ClientOptions};
pub use ring::{NullSwitch, Peek, RawRx, RawTx};
pub use supervisor::{DESCRIPTORS_OF_SOCKET, LinkInfo, LinkState, PortSpec, Supervisor, descriptors_of_port};

/// How this implementation calls itself to peers.
const SOFTWARE: &str = concat!("dray ", env!("CARGO_PKG_VERSION"));
