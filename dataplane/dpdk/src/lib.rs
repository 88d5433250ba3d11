//! Safe wrappers of what Dray uses of DPDK: EAL, mempool, mbuf, ethdev.
//!
//! EAL starts when the first port is opened ([`EthPort::open`], or before it by [`eal::init`]). A process that
//! opens no port pays nothing.

mod devargs;
mod device;
pub mod eal;
mod error;
mod ethdev;
mod iface;
mod mbuf;
mod mempool;
mod options;
mod pci;
mod queue;
mod raw;
mod wanted_back;

pub use error::Error;
pub use ethdev::{EthInfo, EthPort, EthStats, Link};
pub use options::EthOptions;
pub use pci::{Guard, guard_registers};
pub use raw::{RawRx, RawTx};
