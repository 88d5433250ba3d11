//! vhost-user, the back end's side (QEMU's `vhost-user.rst`), and virtio-net devices behind it (virtio 1.2, section 5.1).
//!
//! A [`Port`] keeps the connection of one port on a thread of its own and hands out queues when the driver has started the device.

mod backend;
mod fault;
mod features;
pub mod frontend;
mod gate;
mod memory;
mod messages;
mod port;
mod queue;
mod ring;
mod snapshot;
mod status;

pub use fault::Fault;
pub use port::{Port, PortSpec, descriptors_of_port};
pub use status::{LinkInfo, RingStatus, Status};
